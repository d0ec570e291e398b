"""Waiting for conditions, never for time to pass."""

import asyncio
import time
from collections.abc import Awaitable, Callable

LOOK_EVERY = 0.05


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float) -> None:
    """Return as soon as `condition` holds.

    Raises:
        AssertionError: it did not within `seconds`; says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what}")
        await asyncio.sleep(LOOK_EVERY)
