"""The tasks of a process, each supervised alone: one that fails does not end the others.

A task that raises is logged with its traceback, counted, and begun again after a pause. A process
does not supervise the tasks without which it is of no use: their errors end it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

FIRST_PAUSE: Final = 0.1
"""Seconds before a task that failed is begun again; doubled with each failure after that."""

_LAST_PAUSE: Final = 30.0
_SOUND: Final = 60.0  # seconds; a task that ran for so long has not failed in a row

log = structlog.get_logger(__name__)


async def supervise(
    name: str, work: Callable[[], Awaitable[None]], failed: Callable[[], object]
) -> None:
    """Run `work()` until it returns or is cancelled, whatever it raises.

    Args:
        name: of the task, for the log.
        work: begins anew each time it is called.
        failed: called when it has raised.
    """
    clock = asyncio.get_running_loop().time
    pause = FIRST_PAUSE
    while True:
        began = clock()
        try:
            await work()
        except Exception:
            if clock() - began > _SOUND:
                pause = FIRST_PAUSE
            failed()
            log.exception("task failed", task=name, again_in_secs=pause)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)
