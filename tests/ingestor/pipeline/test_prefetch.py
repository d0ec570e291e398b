"""Page sizes, and entries fetched ahead in the order of the log."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from certconf.settings import CTLog
from ctparse.entry import Entry, Rejected
from ctparse.tree_head import TreeHead
from ingestor.client.errors import LogError, ResponseTooLarge
from ingestor.client.interface import Inclusion
from ingestor.pipeline import prefetch as module
from ingestor.pipeline.page_size import PageSize
from ingestor.pipeline.prefetch import FetchedBytes, InFlight, Prefetch


def read(page: PageSize, start: int, end: int, answer: Callable[[int, int], int]) -> list[int]:
    """Read [start, end) one request after the other; return the size of each answer."""
    sizes = []
    while start < end:
        requested = page.end(start, end) - start
        page.record_request(start, requested)
        sizes.append(min(answer(start, requested), requested))
        page.record_answer(start, requested, sizes[-1])
        start += sizes[-1]
    return sizes


def aligned(size: int) -> Callable[[int, int], int]:
    """The answers of a log that stops at multiples of `size`."""
    return lambda start, _: size - start % size


def test_requests_end_at_multiples_of_the_page() -> None:
    page = PageSize(256)
    page.record_answer(0, 256, 256)
    assert page.end(1000, 5000) == 1024
    assert page.end(1024, 5000) == 1280
    assert page.end(4999, 5000) == 5000


@pytest.mark.parametrize("size", [32, 100, 256, 1000])
@pytest.mark.parametrize("start", [0, 7, 480, 505, 1023])
def test_an_aligned_page_is_learned_from_two_answers(size: int, start: int) -> None:
    page = PageSize(1024)
    sizes = read(page, start, start + 20 * size, aligned(size))
    assert page.is_known
    assert sizes[1:-1] == [size] * (len(sizes) - 2)


@pytest.mark.parametrize("start", [0, 7, 505])
def test_a_page_that_is_not_aligned_is_learned(start: int) -> None:
    page = PageSize(1024)
    sizes = read(page, start, start + 9000, lambda _, __: 300)
    assert page.size == 300
    assert sizes.count(300) >= len(sizes) - 4


def test_a_smaller_page_is_learned_later() -> None:
    page = PageSize(1024)
    read(page, 0, 2560, aligned(256))
    assert page.size == 256
    read(page, 2560, 3200, aligned(32))
    assert page.size == 32


def test_a_larger_page_is_tried_seldom() -> None:
    page = PageSize(1024)
    sizes = read(page, 0, 256 * 1000, aligned(256))
    assert len(sizes) == 1000, "an attempt costs no request"
    read(page, 256 * 1000, 256 * 1000 + (1 << 22), aligned(1 << 30))
    assert page.size == 1024


def test_the_page_of_an_earlier_owner_is_used_at_once_and_stays_a_guess() -> None:
    page = PageSize(1024)
    page.assume(32)
    assert read(page, 100, 228, aligned(32)) == [28, 32, 32, 32, 4]
    assert page.learned == 32
    read(page, 228, 228 + 32 * 1000, aligned(256))
    assert page.learned is None or page.size > 32, "a larger one is found"
    page.assume(16)
    assert page.size > 16
    for wrong in (0, 1024, 1 << 40):
        fresh = PageSize(1024)
        fresh.assume(wrong)
        assert (fresh.size, fresh.is_known, fresh.learned) == (1024, False, None)


def test_a_page_that_was_halved_to_find_an_entry_is_not_handed_over() -> None:
    page = PageSize(1024)
    read(page, 0, 1280, aligned(256))
    assert page.learned == 256
    page.record_unreadable()
    assert page.learned is None


def test_small_requests_near_the_head_teach_no_page() -> None:
    page = PageSize(1024)
    for start, requested in ((10, 3), (13, 200), (213, 100)):
        page.record_answer(start, requested, requested)
    assert (page.size, page.is_known) == (1024, False)


def test_a_page_grows_again_after_full_answers_to_what_is_configured() -> None:
    page = PageSize(100)
    page.record_too_large(100)
    page.record_too_large(100)  # requested before the first answer came
    assert page.size == 50
    while page.size > 1:
        page.record_unreadable()
    seen = []
    for _ in range(100):
        requested = page.end(19200, 1 << 20) - 19200
        page.record_request(19200, requested)
        page.record_answer(19200, requested, requested)
        if page.size not in seen:
            seen.append(page.size)
    assert seen == [1, 2, 4, 8, 16, 32, 64, 100]


def test_tiles_decide_the_page_of_static_ct_logs() -> None:
    page = PageSize(1024, tile=256)
    assert (page.size, page.is_known) == (256, True)
    page.record_too_large(256)
    assert (page.size, page.end(0, 1000)) == (256, 256)


class MemoryLog:
    """A log of integers that answers late, in any order, and at most `most` at a time."""

    tile: int | None = None
    has_partial_tiles = False
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


def ahead_of(
    log: MemoryLog, start: int, page: PageSize, most: int, fetched: FetchedBytes | None = None
) -> Prefetch:
    return Prefetch(log, start, page, InFlight(most), fetched)


async def take(ahead: Prefetch, target: int) -> list[int]:
    """Take entries up to `target`; return their indexes."""
    got: list[int] = []
    while ahead.next < target:
        for window in await ahead.run(target):
            assert window.first == ahead.next == window.entries[0].index
            got += [entry.index for entry in window.entries]
            ahead.take(window.first + len(window.entries))
    return got


@pytest.mark.parametrize("most", [1, 7, 100, 1000])
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_every_entry_once_and_in_order(most: int, concurrency: int) -> None:
    log, fetched = MemoryLog(most), FetchedBytes()
    ahead = ahead_of(log, 13, PageSize(100), concurrency, fetched)
    ahead.extend(1013)
    assert await take(ahead, 1013) == list(range(13, 1013))
    assert log.most_running == concurrency
    assert log.running == fetched.used == 0


async def test_a_run_ends_at_the_tree_head_that_proves_it() -> None:
    ahead = ahead_of(MemoryLog(1000), 0, PageSize(100), 4)
    ahead.extend(1000)
    assert await take(ahead, 450) == list(range(450))
    assert await take(ahead, 1000) == list(range(450, 1000))


async def test_requests_survive_a_new_tree_head() -> None:
    log = MemoryLog(1000)
    page = PageSize(100)
    page.record_answer(0, 100, 100)
    ahead = ahead_of(log, 0, page, 4)
    for head in (100, 250, 251, 1000):
        ahead.extend(head)
        await asyncio.sleep(0)
    assert await take(ahead, 1000) == list(range(1000))
    assert log.requests == len([100, 200, 250, 251, 300, *range(400, 1001, 100)])


async def test_answers_that_are_too_large_are_requested_in_halves() -> None:
    ahead = ahead_of(MemoryLog(1000, too_large=30), 0, PageSize(100), 3)
    ahead.extend(500)
    assert await take(ahead, 500) == list(range(500))


async def test_a_tile_that_is_too_large_is_not_requested_in_parts() -> None:
    log = MemoryLog(1000, too_large=100)
    ahead = ahead_of(log, 0, PageSize(1000, tile=256), 1)
    ahead.extend(256)
    with pytest.raises(ResponseTooLarge):
        await ahead.run(256)
    assert log.requests == 1


async def test_an_entry_that_is_too_large_alone_is_an_error() -> None:
    ahead = ahead_of(MemoryLog(1000, too_large=0), 0, PageSize(4), 2)
    ahead.extend(8)
    with pytest.raises(ResponseTooLarge):
        await ahead.run(8)
    await ahead.restart(0)


async def test_entries_before_an_error_come_first_and_the_others_are_kept() -> None:
    log = MemoryLog(1000, fail_at=250)
    ahead = ahead_of(log, 0, PageSize(100), 4)
    ahead.extend(1000)
    assert await take(ahead, 200) == list(range(200))
    with pytest.raises(LogError, match="broken"):
        await ahead.run(1000)
    log.fail_at, requests = None, log.requests
    assert await take(ahead, 1000) == list(range(200, 1000))
    assert log.requests - requests < 8, "what had arrived is not requested again"


async def test_a_restart_ends_all_requests_and_frees_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_bytes", lambda entries: 1000 * len(entries))
    log, fetched = MemoryLog(1000), FetchedBytes()
    ahead = ahead_of(log, 0, PageSize(100), 4, fetched)
    ahead.extend(1000)
    await ahead.run(1000)
    assert fetched.used > 0
    await ahead.restart(300)
    assert (log.running, fetched.used, ahead.next) == (0, 0, 300)


async def test_requests_that_are_cancelled_before_they_begin_are_not_in_flight() -> None:
    ahead = ahead_of(MemoryLog(1000), 0, PageSize(100), 4)
    for _ in range(3):
        ahead.extend(1000)
        await ahead.restart(0)
        assert ahead.in_flight == 0
    ahead.extend(1000)
    assert await take(ahead, 1000) == list(range(1000))


async def test_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each log may have one answer; more only while the log and the process are below a bound."""
    monkeypatch.setattr(module, "MAX_PROCESS_BYTES", 100_000)
    monkeypatch.setattr(module, "_bytes", lambda entries: 1000 * len(entries))
    fetched = FetchedBytes()
    logs = [MemoryLog(1000) for _ in range(3)]
    aheads = [ahead_of(log, 0, PageSize(10), 8, fetched) for log in logs]
    for ahead in aheads:
        ahead.extend(1000)
    for _ in range(50):
        await asyncio.sleep(0)
    assert fetched.used <= 100_000 + 3 * 10 * module._FIRST_ESTIMATE_BYTES
    assert all(log.requests >= 1 for log in logs)
    for ahead in aheads:
        assert await take(ahead, 1000) == list(range(1000))
    assert fetched.used == 0


async def test_an_interruption_returns_no_run() -> None:
    log = MemoryLog(1000)
    ahead = ahead_of(log, 0, PageSize(100), 1)
    waiting = asyncio.create_task(ahead.run(100))
    await asyncio.sleep(0)
    ahead.interrupt()
    assert await waiting == []
    assert await ahead.run(100, asyncio.get_running_loop().time()) == []
    ahead.extend(100)
    assert await take(ahead, 100) == list(range(100))


class SlowTiles(MemoryLog):
    """A log with tiles of 256 entries; each request is answered when a test lets it."""

    tile = 256
    has_partial_tiles = True

    def __init__(self) -> None:
        super().__init__(1 << 30)
        self.requested: dict[tuple[int, int], asyncio.Future[None]] = {}

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        self.requested[start, end] = asyncio.get_running_loop().create_future()
        await self.requested[start, end]
        return [Rejected(i, "", b"") for i in range(start, end)]


async def test_the_first_answer_serves_all_requests_for_a_tile() -> None:
    log = SlowTiles()
    ahead = ahead_of(log, 100, PageSize(1024, tile=256), 8)
    for head in (150, 200, 300):
        ahead.extend(head)
        await asyncio.sleep(0)
    assert list(log.requested) == [(100, 150), (100, 200), (100, 256), (256, 300)]
    log.requested[100, 200].set_result(None)
    (window,) = await ahead.run(200)
    assert [entry.index for entry in window.entries] == list(range(100, 200))
    assert log.requested[100, 150].cancelled()
    log.requested[100, 256].set_result(None)
    log.requested[256, 300].set_result(None)
    ahead.take(200)
    (window,) = await ahead.run(300)
    assert [entry.index for entry in window.entries] == list(range(200, 300))
    assert ahead.in_flight == 0


def test_one_request_tries_a_larger_page() -> None:
    page = PageSize(1024)
    page.record_answer(0, 1024, 32)
    for start in range(32, 32 * 65, 32):
        page.record_answer(start, page.end(start, 1 << 20) - start, 32)
    assert page.end(2048, 1 << 20) == 2048 + 64
    page.record_request(2048, 64)
    assert page.end(2112, 1 << 20) == 2112 + 32, "one request only"
    page.record_answer(2112, 32, 32)
    page.record_answer(2048, 64, 64)
    assert page.size == 64


def test_requests_in_flight_follow_the_answers() -> None:
    initial = module._INITIAL_IN_FLIGHT
    most = initial + 2
    in_flight = InFlight(most)
    assert in_flight.limit == initial
    for limit in (initial + 1, most, most, most):
        for _ in range(in_flight.limit):
            in_flight.answered(waiting=True)
        assert in_flight.limit == limit
    for _ in range(most):  # all that were in flight fail: one reduction
        in_flight.failed()
    assert in_flight.limit == most // 2
    in_flight.failed()
    assert in_flight.limit == most // 4
    assert InFlight(2).limit == 2


def test_answers_of_a_log_that_is_not_behind_raise_no_limit() -> None:
    in_flight = InFlight(module._INITIAL_IN_FLIGHT + 2)
    for _ in range(100):
        in_flight.answered(waiting=False)
    assert in_flight.limit == module._INITIAL_IN_FLIGHT


def test_a_log_starts_with_as_many_requests_in_flight_as_are_configured() -> None:
    assert CTLog().fetch_concurrency == module._INITIAL_IN_FLIGHT


async def test_small_pages_are_joined_to_windows() -> None:
    ahead = ahead_of(MemoryLog(32), 0, PageSize(32), 16)
    ahead.extend(640)
    run = await ahead.run(640)
    assert [entry.index for window in run for entry in window.entries] == list(range(640))
    assert len(run) == 1


class Stalling(MemoryLog):
    """A log that answers requests below `stalls_at` and no other one, but the first."""

    stalls_at = 1

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        if start >= self.stalls_at:
            await asyncio.get_running_loop().create_future()
        return await super().entries(start, end)


async def test_a_run_with_many_answers_does_not_wait_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GATHER_SECS", 3600.0)
    monkeypatch.setattr(module, "_FIRST_GATHER_SECS", 3600.0)
    log, page = Stalling(1000), PageSize(100)
    log.stalls_at = 100 * module.RUN_REQUESTS
    page.record_answer(0, 100, 100)
    ahead = ahead_of(log, 0, page, 4)
    ahead._enough = module.RUN_REQUESTS
    ahead.extend(10_000)
    run = await ahead.run(10_000)
    assert sum(len(window.entries) for window in run) == log.stalls_at
    await ahead.restart(0)


@pytest.mark.parametrize(("waiting", "is_early"), [(6, True), (0, False)])
async def test_the_first_run_of_a_large_tree_head_is_short_while_others_wait_for_slots(
    monkeypatch: pytest.MonkeyPatch, waiting: int, is_early: bool
) -> None:
    monkeypatch.setattr(module, "GATHER_SECS", 3600.0)
    log, page = Stalling(1000), PageSize(100)
    log.stalls_at = 100 * module._FIRST_REQUESTS
    page.record_answer(0, 100, 100)
    ahead = Prefetch(log, 0, page, InFlight(20), waiting=lambda: waiting)
    ahead._gather = 3600.0
    ahead.extend(1000)
    deadline = asyncio.get_running_loop().time() + (60 if is_early else 0.2)
    run = await ahead.run(1000, deadline)
    assert sum(len(window.entries) for window in run) == (log.stalls_at if is_early else 0)
    if is_early:
        ahead.take(log.stalls_at)
        assert ahead._enough == 2 * module._FIRST_REQUESTS
        ahead.take(1000)
        assert ahead._enough == module._FIRST_REQUESTS
    await ahead.restart(0)


async def test_answers_that_have_waited_during_the_last_run_wait_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GATHER_SECS", 0.05)
    log, page = Stalling(1000), PageSize(100)
    log.stalls_at = 500
    page.record_answer(0, 100, 100)
    ahead = Prefetch(log, 0, page, InFlight(20))
    ahead.extend(1000)
    await ahead.run(1000)
    monkeypatch.setattr(module, "GATHER_SECS", 3600.0)
    for piece in ahead._pieces[:5]:
        piece.arrived -= 3600.0
    ahead.take(100)
    run = await ahead.run(1000, asyncio.get_running_loop().time() + 60)
    assert sum(len(window.entries) for window in run) == 400
    await ahead.restart(0)


@pytest.mark.parametrize(("head", "is_early"), [(10_000, True), (300, False)])
async def test_the_first_run_of_a_log_far_behind_does_not_wait_for_more_answers(
    monkeypatch: pytest.MonkeyPatch, head: int, is_early: bool
) -> None:
    """Near its head a run waits for the answers that make a proof unnecessary."""
    monkeypatch.setattr(module, "GATHER_SECS", 3600.0)
    monkeypatch.setattr(module, "_FIRST_GATHER_SECS", 0.01)
    page = PageSize(100)
    page.record_answer(0, 100, 100)
    ahead = ahead_of(Stalling(1000), 0, page, 4)
    ahead._gather = 0.01
    ahead.extend(head)
    deadline = asyncio.get_running_loop().time() + (60 if is_early else 0.2)
    run = await ahead.run(head, deadline)
    assert [entry.index for window in run for entry in window.entries] == list(
        range(100 if is_early else 0)
    )
    if is_early:
        ahead.take(100)
        assert ahead._gather == pytest.approx(0.02), "the next run waits for longer"
    await ahead.restart(0)


def test_bytes_count_what_cannot_be_read_and_the_objects_of_tiny_entries() -> None:
    leaf = b"x" * 1000
    assert module._bytes([Rejected(0, "", b"x" * 16_000)]) > 16_000
    assert 1000 < module._bytes([Rejected(0, "", leaf, leaf)]) < 2000
    assert module._bytes([Entry(i, 0, False, b"", b"", b"\0") for i in range(1000)]) > 200_000


async def test_a_run_of_tiny_entries_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_RUN_ENTRIES", 250)
    ahead = ahead_of(MemoryLog(1000), 0, PageSize(100), 4)
    ahead.extend(1000)
    run = await ahead.run(1000)
    assert sum(len(window.entries) for window in run) <= 300
    assert ahead.next == 0
    assert await take(ahead, 1000) == list(range(1000))
