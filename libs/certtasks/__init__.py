"""Supervised tasks of a process: a task that fails does not end the others.

A task that raises is logged with its traceback, counted, and restarted after a pause. The tasks
that a process cannot work without are not supervised: their errors end the process.
`tests/gateway/test_supervision.py` holds this. Tasks of one piece of work run together
(`together`; `tests/ingestor/test_together.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import structlog

FIRST_PAUSE: Final = 0.1
"""Seconds before a failed task is restarted; doubled with each further failure in a row."""

_MAX_PAUSE_SECS: Final = 30.0
_HEALTHY_SECS: Final = 60.0
"""A task that ran for longer than this starts a new row of failures."""

log = structlog.get_logger(__name__)

_T = TypeVar("_T")


async def together(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines at the same time, and return their results in order.

    When one of them raises, or the caller is cancelled, the others are cancelled; all have ended
    when this returns or raises. `asyncio.gather` leaves the others running, and like a TaskGroup
    before Python 3.12 it loses a cancellation of the caller that comes with an error.

    Raises:
        Exception: what the first of them in order raised.
    """
    tasks = [asyncio.create_task(each) for each in work]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
    return [task.result() for task in tasks]


async def supervise(
    name: str, work: Callable[[], Awaitable[None]], failed: Callable[[], object]
) -> None:
    """Run `work()` until it returns or is cancelled; restart it when it raises.

    Args:
        name: of the task, for the log.
        work: starts anew each time it is called.
        failed: called when it has raised.
    """
    clock = asyncio.get_running_loop().time
    pause = FIRST_PAUSE
    while True:
        started = clock()
        try:
            await work()
        except Exception:
            if clock() - started > _HEALTHY_SECS:
                pause = FIRST_PAUSE
            failed()
            log.exception("task failed", task=name, again_in_secs=pause)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECS)
