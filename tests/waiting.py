"""Waiting for conditions, never for time to pass."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(
    condition: Callable[[], object | Awaitable[object]],
    what: str = "the condition",
    seconds: float = 120,
) -> None:
    """Return as soon as `condition()`, awaited if need be, is true.

    Raises:
        AssertionError: it was not within `seconds`; names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        await asyncio.sleep(0.01)
