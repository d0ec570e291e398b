"""Window sizes, and windows fetched ahead in the order of the log."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from certbus.streams.batch import MAX_MESSAGES
from ctparse.entry import Entry, Rejected
from ctparse.tree_head import TreeHead
from ingestor.client.errors import LogError, ResponseTooLarge, UnexpectedStatus
from ingestor.client.interface import Inclusion
from ingestor.pipeline.prefetch import InFlight, prefetch_windows
from ingestor.pipeline.window_size import WindowSize


def test_windows_end_at_multiples_of_their_size() -> None:
    size = WindowSize(256)
    assert size.end(1000, 5000) == 1024
    assert size.end(1024, 5000) == 1280
    assert size.end(4999, 5000) == 5000


def test_one_short_answer_may_be_an_alignment_two_are_the_maximum_of_the_log() -> None:
    size = WindowSize(1024)
    size.record_answer(1024, 24)
    assert size.size == 1024
    size.record_answer(1024, 32)
    assert size.size == 32


def test_a_full_answer_between_forgives_a_short_one() -> None:
    size = WindowSize(1024)
    size.record_answer(1024, 24)
    size.record_answer(1024, 1024)
    size.record_answer(1024, 24)
    assert size.size == 1024


def test_short_answers_near_the_head_teach_nothing() -> None:
    size = WindowSize(256)
    for requested in (3, 2, 200, 2):
        size.record_answer(requested, 1)
    assert size.size == 256


def test_windows_grow_again_after_full_answers_to_what_is_configured() -> None:
    size = WindowSize(100)
    size.record_too_large(100)
    size.record_too_large(100)  # requested before the first answer came
    assert size.size == 50
    while size.size > 1:
        size.record_too_large(size.size)
    seen = []
    for _ in range(100):
        size.record_answer(size.size, size.size)
        if size.size not in seen:
            seen.append(size.size)
    assert seen == [1, 2, 4, 8, 16, 32, 64, 100]


def test_a_short_answer_between_delays_growth() -> None:
    size = WindowSize(100)
    size.record_too_large(100)
    for _ in range(10):
        for _ in range(7):
            size.record_answer(50, 50)
        size.record_answer(50, 49)
    assert size.size == 50


def test_tiles_decide_the_size_of_static_ct_windows() -> None:
    size = WindowSize(1024, tile=256)
    assert size.size == 256
    size.record_too_large(256)
    assert (size.size, size.end(0, 1000)) == (256, 256)


class MemoryLog:
    """A log of integers that answers late, in any order, and at most `most` at a time."""

    tile: int | None = None
    missing_issuers = 0

    def __init__(self, most: int, fail_at: int | None = None, too_large: int = 1 << 30) -> None:
        self.requests = 0
        self.most = most
        self.fail_at = fail_at
        self.too_large = too_large
        self.running = 0
        self.most_running = 0

    async def tree_head(self) -> TreeHead:
        raise NotImplementedError

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        self.requests += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            for _ in range(random.randint(1, 5)):
                await asyncio.sleep(0)
            if end - start > self.too_large:
                raise ResponseTooLarge("log", "url", "too large")
            if self.fail_at is not None and start <= self.fail_at < end:
                raise LogError("log", "url", "broken")
            return [Rejected(i, "", b"") for i in range(start, min(end, start + self.most))]
        finally:
            self.running -= 1

    async def inclusion(self, index: int, size: int, leaf: bytes | None = None) -> Inclusion:
        raise NotImplementedError

    async def consistency(self, first: int, second: int) -> list[bytes]:
        raise NotImplementedError

    def entry_url(self, index: int) -> str:
        return str(index)

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        return [chain]

    def lacking(self) -> Sequence[LogError]:
        return ()


async def _collect(log: MemoryLog, start: int, head: int, size: int, concurrency: int) -> list[int]:
    got = []
    async with aclosing(
        prefetch_windows(log, start, head, WindowSize(size), InFlight(concurrency))
    ) as ahead:
        async for run in ahead:
            for window in run:
                assert window.first == window.entries[0].index
                got += [entry.index for entry in window.entries]
    return got


@pytest.mark.parametrize("most", [1, 7, 100, 1000])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_every_entry_once_and_in_order(most: int, concurrency: int) -> None:
    log = MemoryLog(most)
    assert await _collect(log, 13, 1013, 100, concurrency) == list(range(13, 1013))
    assert log.most_running == concurrency
    assert log.running == 0


async def test_windows_that_are_too_large_are_halved() -> None:
    assert await _collect(MemoryLog(1000, too_large=30), 0, 500, 100, 3) == list(range(500))


async def test_a_tile_that_is_too_large_is_not_asked_for_in_parts() -> None:
    log = MemoryLog(1000, too_large=100)
    with pytest.raises(ResponseTooLarge):
        async for _ in prefetch_windows(log, 0, 256, WindowSize(1000, tile=256), InFlight(1)):
            pass
    assert log.requests == 1


async def test_an_entry_that_is_too_large_alone_is_an_error() -> None:
    with pytest.raises(ResponseTooLarge):
        await _collect(MemoryLog(1000, too_large=0), 0, 8, 4, 2)


async def test_what_comes_before_an_error_is_handed_on_first() -> None:
    log = MemoryLog(1000, fail_at=250)
    got: list[int] = []

    async def collect() -> None:
        async with aclosing(prefetch_windows(log, 0, 1000, WindowSize(100), InFlight(4))) as ahead:
            async for run in ahead:
                got.extend(entry.index for window in run for entry in window.entries)

    with pytest.raises(LogError, match="broken"):
        await collect()
    assert got == list(range(200))
    assert log.running == 0


async def test_closing_stops_what_is_being_fetched() -> None:
    log = MemoryLog(1000)
    async with aclosing(prefetch_windows(log, 0, 1000, WindowSize(100), InFlight(4))) as ahead:
        async for _ in ahead:
            break
    assert log.running == 0


def test_requests_in_flight_follow_the_answers() -> None:
    in_flight = InFlight(6)
    assert in_flight.limit == 4
    for limit in (5, 6, 6, 6):
        for _ in range(in_flight.limit):
            in_flight.answered()
        assert in_flight.limit == limit
    for limit in (3, 1, 1):
        in_flight.failed()
        assert in_flight.limit == limit
    assert InFlight(2).limit == 2


async def test_a_failure_halves_what_is_in_flight() -> None:
    in_flight = InFlight(4)
    with pytest.raises(LogError):
        async for _ in prefetch_windows(
            MemoryLog(1000, fail_at=0), 0, 1000, WindowSize(100), in_flight
        ):
            pass
    assert in_flight.limit < 4


async def test_a_429_delays_its_window_and_loses_no_other() -> None:
    log = MemoryLog(1000)
    limited = {3, 4, 9}
    entries = log.entries
    pauses = []

    async def answer(start: int, end: int) -> list[Entry | Rejected]:
        if start // 100 in limited:
            limited.remove(start // 100)
            raise UnexpectedStatus("log", "url", "HTTP 429", 429, 1.0)
        return await entries(start, end)

    async def paused(error: LogError) -> None:
        assert error.is_rate_limit
        pauses.append(error)

    log.entries = answer  # type: ignore[method-assign]
    got: list[int] = []
    in_flight = InFlight(4)
    async for run in prefetch_windows(log, 0, 1000, WindowSize(100), in_flight, paused):
        got += [entry.index for window in run for entry in window.entries]
    assert got == list(range(1000))
    assert len(pauses) == 3
    assert in_flight.limit == 4


async def test_small_windows_are_joined_to_batches() -> None:
    windows = []
    async for run in prefetch_windows(MemoryLog(32), 0, 640, WindowSize(32), InFlight(16)):
        windows += run
    assert [entry.index for window in windows for entry in window.entries] == list(range(640))
    assert max(len(window.entries) for window in windows) > 32
    assert all(len(window.entries) <= MAX_MESSAGES for window in windows)
