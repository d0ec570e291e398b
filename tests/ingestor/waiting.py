"""Waiting for a condition, not for a time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = 20, what: str = "condition"
) -> None:
    """Wait until `condition()` holds.

    Raises:
        AssertionError: it does not, within `seconds`.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert asyncio.get_running_loop().time() < deadline, f"no {what} within {seconds} s"
        await asyncio.sleep(0.01)
