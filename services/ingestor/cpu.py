"""CPU time of one process, shared by the logs that it follows.

All logs run on one event loop, and a log controls how large its entries are. So work whose cost
grows with size is bounded in three ways:

    slice    a log that has parsed for `SLICE_SECS` waits until the event loop has served all
             others; of several such logs, one runs in each round of the loop, in turn
    thread   a step on more than `LARGE_BYTES` or `BULK_BYTES` runs in a thread, one at a time in
             the process, while the event loop continues
    reject   a certificate of more than `ctparse.certificate.MAX_BYTES` is not parsed

An honest log that is caught up parses for less than a slice at a time and never waits.
`tests/ingestor/test_large_entries.py` measures an honest log beside logs of very large entries.
"""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SLICE_SECS = 0.02

LARGE_BYTES = 32 << 10
"""Of DER: parsing takes about 30 ms. A real certificate with its chain has 5 to 10 KB."""

BULK_BYTES = 12 << 20
"""To copy, decode or hash: about 50 ms. A window of 1,024 entries has 8 MB."""

P = ParamSpec("P")
T = TypeVar("T")


class Cpu:
    """The locks that the logs of a process share."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()  # asyncio locks are fair
        self._thread = asyncio.Lock()

    async def wait(self) -> None:
        """Wait until the event loop has run all other ready tasks."""
        async with self._turn:
            await asyncio.sleep(0)

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `work(...)`, run in a thread after all earlier calls have ended.

        `work` must not use what the event loop may change at the same time.
        """
        async with self._thread:
            return await asyncio.to_thread(work, *args, **kwargs)

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `work(...)`, run in a thread if `size` exceeds `BULK_BYTES`."""
        if size > BULK_BYTES:
            return await self.in_thread(work, *args, **kwargs)
        return work(*args, **kwargs)


class Slices:
    """The time that one log spends parsing on the event loop. One task uses it.

    Args:
        cpu: shared with the other logs.

    Attributes:
        total: seconds spent in total, those in a thread included.
    """

    def __init__(self, cpu: Cpu) -> None:
        self.total = 0.0
        self._cpu = cpu
        self._began = 0.0
        self._spent = 0.0

    def begin(self) -> None:
        """Begin or resume parsing."""
        self._began = time.perf_counter()

    @property
    def exhausted(self) -> bool:
        """Whether the slice is used up: await `wait` then."""
        return self._spent + time.perf_counter() - self._began > SLICE_SECS

    def pause(self) -> None:
        """Stop counting, before something is awaited."""
        spent = time.perf_counter() - self._began
        self._spent += spent
        self.total += spent

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `work(...)`, run in a thread while other logs run; then resume the slice."""
        self.pause()
        result, spent = await self._cpu.in_thread(_timed, lambda: work(*args, **kwargs))
        self.total += spent
        self.begin()
        return result

    async def wait(self) -> None:
        """Let other logs run, and begin another slice."""
        self.pause()
        await self._cpu.wait()
        self._spent = 0.0
        self.begin()


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return `work()` and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began
