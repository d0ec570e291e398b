"""The replay of one client, on a model of Redis: pace, errors, counts, replicas that lag."""

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from certbus.ids import Cursor, parse_entry_id
from certbus.streams.continuity import ReaderPosition
from gateway.clients import replay
from gateway.delivery import filtering
from gateway.delivery.channel import Channel
from gateway.delivery.encoding import SSE
from gateway.delivery.filter_index import GatewayFilters, StreamFilters
from gateway.delivery.history import HistoryPage, HistoryReader
from gateway.delivery.ring_buffer import Ring
from tests.gateway.model_redis import STREAM
from tests.gateway.test_delivery_model import Doors, Gateway, Reader, came, virtual_time
from tests.waiting import until

SEARCH_SECS = 5.0


@pytest.fixture
def slow_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each search for a filter take `SEARCH_SECS`, by the clock of the replay."""
    clock = iter(range(1_000_000))
    monkeypatch.setattr(replay, "perf_counter", lambda: SEARCH_SECS * next(clock))


def run(scenario: Callable[[asyncio.TaskGroup], Any]) -> None:
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            await scenario(group)

    with virtual_time() as runner:
        runner.run(grouped())


async def following(redis: Doors, group: asyncio.TaskGroup) -> Gateway:
    """Return a gateway whose ring has the batches 1 to 4, each of one message."""
    redis.publish(10_000, 0)
    gateway = Gateway(redis.replay, redis.primary, 100_000, group, redis.live)
    await until(lambda: gateway.follows)
    for number in range(1, 5):
        redis.publish(10_000 + number, number)
        await asyncio.sleep(0.1)
    return gateway


@pytest.mark.usefixtures("slow_searches")
def test_pages_for_filters_take_a_quarter_of_the_time() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, first, second, other = Doors(), Reader("even"), Reader("odd"), Reader()
        for number in range(4):
            redis.publish(10_000 + number, number)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        loop = asyncio.get_running_loop()
        for reader, numbers, expected in (
            (first, [0, 2], 0.0),
            (second, [1, 3], 3 * SEARCH_SECS),
            (other, [0, 1, 2, 3], 3 * SEARCH_SECS),  # without a filter: at once
        ):
            reader.cursor = "0"
            reader.connect(gateway, 0)
            assert await came(reader, len(numbers)) == numbers
            assert loop.time() == pytest.approx(expected, abs=1)
            reader.beat()
            reader.take()
            assert reader.cursor == "10003-0", "messages that do not pass count as read"
        gateway.stop([first, second, other])

    run(scenario)


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which a message was compared; each one takes longer than a slice."""
    times: list[float] = []
    monkeypatch.setattr(filtering, "perf_counter", itertools.count().__next__)

    def record(kind: type, name: str) -> None:
        compare = getattr(kind, name)

        def recording(*args: Any, **options: Any) -> Any:
            times.append(asyncio.get_running_loop().time())
            return compare(*args, **options)

        monkeypatch.setattr(kind, name, recording)

    record(GatewayFilters, "look_up")
    record(StreamFilters, "matches")
    return times


@pytest.mark.usefixtures("slow_searches")
@pytest.mark.parametrize("is_heavy", [False, True])
@pytest.mark.parametrize("event", ["none", "leaves", "changes", "moves"])
def test_a_page_is_evaluated_in_slices(slices: list[float], event: str, is_heavy: bool) -> None:
    """Nothing is lost or repeated, whatever happens between two of them."""

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader("even", changes=True)
        for number in range(8):
            redis.publish(10_000 + number, number)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        shared = gateway.service.filters.shared

        def connect() -> None:
            reader.cursor = reader.cursor or "0"
            reader.connect(gateway, 0)
            if is_heavy:
                move()

        def move() -> None:
            shared._moving.extend(shared.joined.values())
            while shared.move_next():
                pass

        connect()
        await until(lambda: len(slices) == 4)
        reader.take()
        assert not reader.got
        expected = [0, 2, 4, 6]
        match event:
            case "leaves":
                reader.leave()
                connect()
            case "changes":
                reader.change()
                expected = list(range(8))
            case "moves":
                move()
        assert await came(reader, len(expected)) == expected
        assert len(set(slices)) == len(slices), "a pause after each slice"
        if event == "none":
            assert len(slices) == 8
            pauses = [after - before for before, after in itertools.pairwise(slices)]
            assert pauses == pytest.approx([3 * SEARCH_SECS] * 7)
        for channel in gateway.service.filters.channels.values():
            assert not channel.selection._found
            assert not channel.selection._begun
        reader.leave()
        gateway.stop([reader])

    run(scenario)


@pytest.mark.usefixtures("slow_searches")
def test_the_ring_is_evaluated_in_slices(slices: list[float]) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader("even")
        gateway = await following(redis, group)
        reader.cursor = "10001-0-0"
        reader.connect(gateway, 0)
        assert await came(reader, 2) == [2, 4]
        assert len(set(slices)) == len(slices) == 3
        gateway.stop([reader])

    run(scenario)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[ReaderPosition]:
    """The positions after which pages were read from Redis."""
    found: list[ReaderPosition] = []
    read = HistoryReader.read

    async def recording(self: HistoryReader, ring: Ring, at: ReaderPosition) -> HistoryPage:
        found.append(at)
        return await read(self, ring, at)

    monkeypatch.setattr(HistoryReader, "read", recording)
    return found


@pytest.mark.usefixtures("slow_searches")
def test_the_ring_is_searched_for_a_new_filter_in_a_quarter_of_the_time(
    pages: list[ReaderPosition],
) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader("even")
        gateway = await following(redis, group)
        began = asyncio.get_running_loop().time()
        reader.cursor = "10001-0-0"
        reader.connect(gateway, 0)
        assert await came(reader, 2) == [2, 4]
        spent = asyncio.get_running_loop().time() - began
        assert spent == pytest.approx(2 * 3 * SEARCH_SECS, abs=1), "a pause between two of three"
        assert not pages
        gateway.stop([reader])

    run(scenario)


async def has_searched(gateway: Gateway) -> Channel[Any]:
    """Wait for the first search of the ring; return the one channel with a filter."""
    (channel,) = gateway.service.filters.channels.values()
    await until(lambda: len(channel.unseen(Cursor(parse_entry_id("10001-0"), 0))) == 2)
    return channel


@pytest.mark.usefixtures("slow_searches")
@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_leaves_while_the_ring_is_searched_has_left(closes: bool) -> None:
    """In the pause after its first search, or while it waits for the search of another client."""

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, readers = Doors(), [Reader("even"), Reader("even")]
        gateway = await following(redis, group)
        for reader in readers:
            reader.cursor = "10001-0-0"
            reader.connect(gateway, 0)
        clients = list((await has_searched(gateway)).clients)
        for client in clients:
            if closes:
                client.close(1012, "restart")
            else:
                client.connection_lost(None)
        for reader in readers:
            reader.take()
        await asyncio.sleep(10 * SEARCH_SECS)
        redis.publish(10_010, 6)
        await asyncio.sleep(10 * SEARCH_SECS)
        for client, reader in zip(clients, readers, strict=True):
            reader.take()
            assert not reader.got
            assert client.closed
            assert client not in client.channel.ready
        gateway.stop(readers)

    run(scenario)


@pytest.mark.usefixtures("slow_searches")
def test_the_pause_after_a_page_remains_if_its_client_leaves() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, loop = Doors(), asyncio.get_running_loop()
        for number in range(4):
            redis.publish(10_000 + number, number)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        for pauses in range(3):
            reader = Reader("even")
            reader.cursor = "0"
            reader.connect(gateway, 0)
            assert await came(reader, 2) == [0, 2]
            assert loop.time() == pytest.approx(3 * SEARCH_SECS * pauses, abs=1)
            reader.leave()
        gateway.stop([])

    run(scenario)


@pytest.mark.usefixtures("slow_searches")
def test_the_pause_after_a_search_of_the_ring_remains_if_its_client_leaves() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, loop = Doors(), asyncio.get_running_loop()
        gateway = await following(redis, group)
        began = loop.time()
        for pauses in range(3):
            reader = Reader("even")
            reader.cursor = "10001-0-0"
            reader.connect(gateway, 0)
            await has_searched(gateway)
            assert loop.time() - began == pytest.approx(3 * SEARCH_SECS * pauses, abs=1)
            reader.leave()
        gateway.stop([])

    run(scenario)


@pytest.mark.usefixtures("slow_searches")
def test_the_page_of_a_client_that_leaves_is_freed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a garbage collection."""
    pages: list[weakref.ref[HistoryPage]] = []
    read = HistoryReader.read

    async def recording(self: HistoryReader, ring: Ring, at: ReaderPosition) -> HistoryPage:
        page = await read(self, ring, at)
        pages.append(weakref.ref(page))
        self.clear()
        return page

    monkeypatch.setattr(HistoryReader, "read", recording)

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, first, second = Doors(), Reader("even"), Reader("even")
        redis.publish(10_000, 0)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        first.cursor = second.cursor = "0"
        first.connect(gateway, 0)
        assert await came(first, 1) == [0]
        first.leave()
        second.connect(gateway, 0)  # it waits for the pause
        await until(lambda: any(page() for page in pages))
        second.leave()
        await asyncio.sleep(1)
        assert not any(page() for page in pages)
        gateway.stop([])

    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()


def test_an_unexpected_error_ends_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        gateway = Gateway(redis.replay, redis.primary, 1000, group)
        await until(lambda: gateway.follows)
        monkeypatch.setattr(HistoryReader, "read", fail)
        reader.cursor = "5-0"
        with capture_logs() as lines:
            reader.connect(gateway, 0)
            await until(lambda: any(line["event"] == "connection failed" for line in lines))
        gateway.stop([reader])

    run(scenario)


def test_a_client_that_has_everything_reads_no_more_pages(pages: list[ReaderPosition]) -> None:
    """Although nothing was published since its gateway started."""

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        gateway = Gateway(redis.replay, redis.primary, 1000, group)
        await until(lambda: gateway.follows)
        reader.cursor = "10000-0-0"
        reader.connect(gateway, 0)
        await asyncio.sleep(60)
        assert len(pages) <= 1
        redis.publish(10_010, 1)
        assert await came(reader, 1) == [1]
        gateway.stop([reader])

    run(scenario)


def test_messages_of_a_shared_page_are_counted_from_where_a_client_continues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleared: list[HistoryReader] = []
    monkeypatch.setattr(HistoryReader, "clear", cleared.append)

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, first, second = Doors(), Reader(), Reader()
        for number in range(4):
            redis.publish(10_000 + number, number)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        channel = gateway.service.channel(STREAM, SSE, None)
        for reader, cursor, numbers in (
            (first, "0", [0, 1, 2, 3]),
            (second, "10001-0-0", [2, 3]),
        ):
            before = channel.sent
            reader.cursor = cursor
            reader.connect(gateway, 0)
            assert await came(reader, len(numbers)) == numbers
            assert channel.sent - before == len(numbers)
        assert not cleared, "nothing was lost"
        gateway.stop([first, second])

    run(scenario)


def test_a_loss_is_reported_at_once_although_nothing_is_retained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleared: list[HistoryReader] = []
    monkeypatch.setattr(HistoryReader, "clear", cleared.append)

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        redis.data.entries.clear()
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        reader.cursor = "5000-0-0"
        reader.connect(gateway, 0)
        await asyncio.sleep(5)
        reader.take()
        assert reader.got == [None]
        reader.beat()
        reader.take()
        assert reader.cursor == "10000-0"
        assert not cleared, "a client may invent an id"
        gateway.stop([reader])

    run(scenario)


def test_a_loss_before_the_live_reader_has_begun() -> None:
    """It will not find the fork: the client gets everything retained again, after a gap."""

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        for number in range(3):
            redis.publish(10_000 + number, number)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        reader.cursor = "0"
        reader.connect(gateway, 0)
        assert await came(reader, 3) == [0, 1, 2]
        redis.data.entries.pop()
        redis.data.last = redis.data.ids[-1]
        redis.publish(10_010, 3)
        assert await came(reader, 7) == [0, 1, 2, None, 0, 1, 3]
        gateway.stop([reader])

    run(scenario)


def test_the_ring_holds_what_redis_has_trimmed() -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        redis.publish(9_000, 0)
        redis.publish(10_000, 1)
        gateway = Gateway(redis.replay, redis.primary, 1000, group)
        await until(lambda: gateway.follows)
        for number in (2, 3):
            redis.publish(10_000 + number, number)
            await asyncio.sleep(1)
        redis.data.entries.clear()
        reader.cursor = "9000-0-0"
        reader.connect(gateway, 0)
        assert await came(reader, 3) == [None, 2, 3]
        await asyncio.sleep(5)
        redis.publish(10_010, 4)
        assert await came(reader, 4) == [None, 2, 3, 4]
        gateway.stop([reader])

    run(scenario)


def test_a_loss_that_the_live_reader_has_not_found_yet_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It knows the fork: the client gets again only what follows that."""

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        read = HistoryReader.read

        async def losing(self: HistoryReader, ring: Ring, at: ReaderPosition) -> HistoryPage:
            if at.epoch is not None and redis.data.last == "10020-0":  # after the first page
                redis.live.is_reachable = False
                del redis.data.entries[10:]
                redis.data.last = redis.data.ids[-1]
                redis.publish(10_030, 30)
            return await read(self, ring, at)

        gateway = Gateway(redis.replay, redis.primary, 1, group, redis.live)
        for number in range(21):
            redis.publish(10_000 + number, number)
            await until(lambda: gateway.follows)
            await asyncio.sleep(1)
        monkeypatch.setattr(HistoryReader, "read", losing)
        reader.cursor = "0"
        reader.connect(gateway, 0)
        await asyncio.sleep(5)
        redis.live.is_reachable = True
        assert await came(reader, 18) == [*range(16), None, 30]
        gateway.stop([reader])

    run(scenario)


def test_redis_trims_what_follows_a_page_and_the_ring_begins_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        read = HistoryReader.read

        async def trimming(self: HistoryReader, ring: Ring, at: ReaderPosition) -> HistoryPage:
            if at.epoch is not None:  # after the first page
                redis.data.entries.clear()
            return await read(self, ring, at)

        for number in range(20):
            redis.publish(10_000 + number, number)
        gateway = Gateway(redis.replay, redis.primary, 1000, group)
        await until(lambda: gateway.follows)
        redis.publish(10_020, 20)
        await asyncio.sleep(1)
        monkeypatch.setattr(HistoryReader, "read", trimming)
        reader.cursor = "0"
        reader.connect(gateway, 0)
        assert await came(reader, 18) == [*range(16), None, 20]
        gateway.stop([reader])

    run(scenario)


@pytest.mark.parametrize("epoch", ["epoch", "the one before"])
def test_a_replica_that_lacks_the_newest_batch_is_not_a_loss(
    epoch: str, pages: list[ReaderPosition]
) -> None:
    async def scenario(group: asyncio.TaskGroup) -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        redis.replay.data = redis.primary.copy()
        redis.replay.data.epoch = epoch
        redis.publish(10_010, 1)
        redis.live.is_reachable = False
        gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
        reader.cursor = "10010-0-0"
        reader.connect(gateway, 0)
        await asyncio.sleep(0.4)
        assert len(pages) >= 5
        await asyncio.sleep(4.6)
        assert len(pages) <= 11, "the pauses grow to a second"
        redis.replay.data = redis.data
        redis.live.is_reachable = True
        await until(lambda: gateway.follows)
        redis.publish(10_020, 2)
        assert await came(reader, 1) == [2]
        gateway.stop([reader])

    run(scenario)


def test_a_loss_that_the_gateway_has_not_seen_is_counted_as_unknown() -> None:
    """A client may invent an id: that is no reason for an alarm."""

    async def scenario(group: asyncio.TaskGroup) -> None:
        redis = Doors()
        for number in range(3):
            redis.publish(10_000 + number, number)
        gateway = Gateway(redis.replay, redis.primary, 1, group)
        await until(lambda: gateway.follows)

        def counted() -> dict[str, float]:
            read = gateway.metrics.registry.get_sample_value
            name = "certstream_gateway_gaps_total"
            values = {r: read(name, {"reason": r}) for r in ("lost", "unknown", "trimmed")}
            return {reason: value for reason, value in values.items() if value}

        async def resume(cursor: str, expected: list[int | None]) -> None:
            reader = Reader()
            reader.cursor = cursor
            reader.connect(gateway, 0)
            assert await came(reader, len(expected)) == expected
            reader.leave()

        await resume("10001-5-0", [None, 0, 1, 2])
        assert counted() == {"unknown": 1}
        del redis.data.entries[1:]
        redis.data.last = redis.data.ids[-1]
        await until(lambda: "lost" in counted(), "the gateway has seen the loss")
        assert counted() == {"unknown": 1, "lost": 1}
        await resume("10002-0-0", [None])
        redis.publish(10_010, 3)
        await resume("10002-0-0", [None, 3])
        assert counted() == {"unknown": 1, "lost": 3}
        del redis.data.entries[:1]
        await resume("10000-0-0", [None, 3])
        assert counted() == {"unknown": 1, "lost": 3, "trimmed": 1}
        gateway.stop([])

    run(scenario)
