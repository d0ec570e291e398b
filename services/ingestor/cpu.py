"""CPU time of one process, shared by the logs that it follows.

All logs run on one event loop, and a log chooses how large its entries are. So what costs time by
size is bounded three ways:

    slice    a log that has parsed for `SLICE` seconds waits until the event loop has served all
             others; of several such logs, one runs in each round of the loop, in turn
    thread   a step on more than `LARGE` or `BULK` bytes runs in a thread, one at a time in the
             process, while the event loop goes on beside it
    reject   a certificate of more than `ctparse.certificate.MAX_BYTES` is not parsed at all

An honest log that is kept up with parses for less than a slice at a time, and pays nothing.
`tests/ingestor/test_large_entries.py` holds it against a log that serves as much as it can.
"""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

SLICE = 0.02
"""Seconds."""

LARGE = 32 << 10
"""Bytes of DER that take some 30 ms to parse. A real certificate with its chain has 5 to 10 KB."""

BULK = 12 << 20
"""Bytes that are only copied, decoded or hashed; some 50 ms. A window of 1,024 entries has 8 MB."""

P = ParamSpec("P")
T = TypeVar("T")


class Cpu:
    """What the logs of a process take turns at."""

    def __init__(self) -> None:
        self._lane = asyncio.Lock()  # which is fair
        self._thread = asyncio.Lock()

    async def wait(self) -> None:
        """Let everybody else run first."""
        async with self._lane:
            await asyncio.sleep(0)

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `work(...)`, run in a thread when that of everybody who came before has ended.

        `work` must not use what the event loop changes meanwhile.
        """
        async with self._thread:
            return await asyncio.to_thread(work, *args, **kwargs)

    async def run(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `work(...)`, run in a thread if it is to read more than `BULK` bytes."""
        if size > BULK:
            return await self.in_thread(work, *args, **kwargs)
        return work(*args, **kwargs)


class Slices:
    """The time that one log spends parsing on the event loop.

    Args:
        cpu: shared with the others.

    Attributes:
        total: seconds that it has ever spent, those in a thread included.
    """

    def __init__(self, cpu: Cpu) -> None:
        self.total = 0.0
        self._cpu = cpu
        self._began = 0.0
        self._spent = 0.0

    def begin(self) -> None:
        """Parsing begins, after something that was awaited."""
        self._began = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether the slice is over: await `wait` then."""
        return self._spent + time.perf_counter() - self._began > SLICE

    def pause(self) -> None:
        """Something is awaited now."""
        spent = time.perf_counter() - self._began
        self._spent += spent
        self.total += spent

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `work(...)`, run in a thread while others run; then parsing goes on."""
        self.pause()
        result, spent = await self._cpu.in_thread(_timed, lambda: work(*args, **kwargs))
        self.total += spent
        self.begin()
        return result

    async def wait(self) -> None:
        """Let others run, and begin another slice."""
        self.pause()
        await self._cpu.wait()
        self._spent = 0.0
        self.begin()


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work()` returns, and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began
