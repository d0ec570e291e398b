"""Supervised tasks of a process: a task that fails does not end the others.

A task that raises is logged with its traceback, counted, and restarted after a pause. The tasks
that a process cannot work without are not supervised: their errors end the process.
`tests/gateway/test_supervision.py` holds this.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

FIRST_PAUSE: Final = 0.1
"""Seconds before a failed task is restarted; doubled with each further failure in a row."""

_MAX_PAUSE_SECS: Final = 30.0
_HEALTHY_SECS: Final = 60.0
"""A task that ran for longer than this starts a new row of failures."""

log = structlog.get_logger(__name__)


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
