"""Whatever happens to Redis, whenever clients read: what Redis holds arrives, or a gap before it.

The real reader, rings, history, replays and clients, on a model of Redis. The judge compares what
each client got with what Redis holds in the end. A client with a filter is judged by what of it
passes the filter.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certbus.ids import parse_cursor, parse_entry_id
from certbus.streams.reader import StreamReader
from ctfilter import Filter, parse_filter
from gateway.clients.replay import Replayer
from gateway.clients.sse import SSEClient
from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings
from gateway.delivery import channel, filter_index
from gateway.delivery.channel import Flusher
from gateway.delivery.compression import DEFLATED, SHARED
from gateway.delivery.consumer import consume_streams
from gateway.delivery.encoding import SSE, Encoding
from gateway.delivery.history import HistoryReader
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.inflater import Inflater
from tests.gateway.model_redis import KEYS, STREAM, Data, ModelRedis, VirtualLoop, model_message
from tests.waiting import until

if TYPE_CHECKING:
    from gateway.clients.base import Client


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass

    def close(self) -> None:
        pass


class Gateway:
    """The delivery of one gateway.

    Args:
        redis: for replays.
        primary: it may be the same.
        ring: bytes.
        group: of the tasks.
        live: for the reader of the live streams; None for `redis`.
    """

    def __init__(
        self,
        redis: ModelRedis,
        primary: ModelRedis,
        ring: int,
        group: asyncio.TaskGroup,
        live: ModelRedis | None = None,
    ) -> None:
        client = cast("Any", redis)
        other = None if primary is redis or live else cast("Any", primary)
        meter = self.metrics = Metrics()
        self.follower = StreamReader(cast("Any", live or redis), KEYS, [STREAM], primary=other)
        history = HistoryReader(client, KEYS, 10_000)
        replay = Replayer(history, cast("Any", primary), KEYS, self.follower, group, meter)
        offered = Settings(streams=(STREAM,), ring_bytes=ring, websocket_compression=True)
        self.service = Hub(offered, replay.start, meter)
        fanout = Flusher(self.service.unfiltered_channels, self.service.filters, meter)

        self.tasks = [
            group.create_task(
                consume_streams(self.follower, self.service.rings, history, fanout.wake, meter)
            ),
            group.create_task(fanout.run()),
        ]

    @property
    def follows(self) -> bool:
        """Whether it misses nothing from now on."""
        return bool(self.follower.positions)

    def stop(self, readers: "list[Reader]") -> None:
        for reader in readers:
            if reader.gateway is self:
                reader.leave()
        for task in self.tasks:
            task.cancel()


class Reader:
    """Who uses a client, connects again with the last id it has, and remembers everything.

    Args:
        domain: of the filter, "even" or "odd"; None without a filter.
        compressed: whether over WebSocket with a shared context; else server-sent events.
        changes: whether it removes and adds the filter while it is connected.
        wide: the filter that it has without `domain`; None: none.
    """

    def __init__(
        self,
        domain: str | None = None,
        *,
        compressed: bool = False,
        changes: bool = False,
        wide: Filter | None = None,
    ) -> None:
        self.domain = domain
        self.changes = changes
        self._filter = parse_filter(domain or "")
        self._wide = wide
        self._compressed = compressed
        self._inflater = Inflater()
        self._wanted = self._filter  # the newest one that it requested
        self._present: str | None = None  # what holds for the next message
        self.got: list[tuple[str, int] | None] = []  # (id, number), None for a gap
        self.cursor: str | None = None
        self.owed_from: int | None = 0  # from this number on; None: from the first one received
        self.gateway: Gateway | None = None
        self._client: Client | None = None
        self._transport = Transport()

    @property
    def size(self) -> int:
        """Bytes received and not read."""
        return len(self._transport.written)

    @property
    def compressed(self) -> int:
        """Compressed messages since it connected."""
        return self._inflater.compressed

    def connect(self, gateway: Gateway, published: int) -> None:
        self.leave()
        self.gateway = gateway
        if self.cursor is None:
            self.owed_from = published if gateway.follows else None
        self._transport = Transport()
        self._inflater = Inflater()
        hub = gateway.service
        self._present = self._wanted_domain
        lane = hub.channel(STREAM, self._encoding, self._wanted)
        make = WebSocketClient if self._compressed else SSEClient
        self._client = make(hub.clients, lane, self._transport)
        self._client.attach(None if self.cursor is None else parse_cursor(self.cursor))

    @property
    def _wanted_domain(self) -> str | None:
        """The names that pass the filter that it wants; None: the message is unchanged."""
        if self._wanted is self._filter:
            return self.domain
        return None if self._wide is None else "any"

    @property
    def _encoding(self) -> Encoding:
        if not self._compressed:
            return SSE
        return DEFLATED if self._wanted else SHARED

    def pause(self) -> None:
        if self._client is not None and not self._client.paused:
            self._client.pause_writing()

    def resume(self) -> None:
        if self._client is not None and self._client.paused:
            self._client.resume_writing()

    def beat(self) -> None:
        """Receive what keeps the connection open, and shows what the client has."""
        if self._client is not None:
            self._client.tick(0)

    def change(self) -> None:
        """Request the other filter."""
        if not self.changes or self._client is None or self.gateway is None:
            return
        self._wanted = self._wide if self._wanted is self._filter else self._filter
        domain = self._wanted_domain

        def answer(cursor: str | None) -> bytes:
            return json.dumps(
                {"message_type": "subscribed", "cursor": cursor, "d": domain}
            ).encode()

        hub = self.gateway.service
        self._client.switch(hub.channel(STREAM, self._encoding, self._wanted), answer)

    def leave(self) -> None:
        self.take()
        if self._client is not None:
            self._client.detach()
            self._client = None

    def take(self) -> None:
        """Read what was written."""
        written, self._transport.written = self._transport.written, b""
        if self._compressed:
            texts = [text.decode() for text in self._inflater.feed(written)]
        else:
            texts = []
            for event in written.decode().split("\n\n"):
                lines = [line for line in event.split("\n") if line.startswith("data: ")]
                if lines:
                    texts.append(lines[0][6:])
                elif (number := event.removeprefix(":\nid: ")) != event:
                    texts.append(f'{{"message_type":"heartbeat","id":"{number}"}}')
        for data in texts:
            found = json.loads(data)
            if found.get("message_type") == "heartbeat":
                self.cursor = found.get("id", self.cursor)
            elif "id" in found:
                self.cursor = found["id"]
                if self._present is None:
                    assert data.partition(",")[2] == model_message(found["n"])[1:]
                else:
                    assert self._present in ("any", PARITIES[found["n"] % 2])
                self.got.append((found["id"].rpartition("-")[0], found["n"]))
            elif found["message_type"] == "subscribed":
                self._present = found["d"]
                self.cursor = found["cursor"] or self.cursor
            elif found["message_type"] == "gap":
                oldest = found["data"]["oldest"]
                assert oldest is None or parse_entry_id(oldest)
                self.got.append(None)


class World:
    """Redis, what was published, and what may happen to both."""

    def __init__(
        self, chance: random.Random, *, replica: bool, with_first: bool, slow: bool
    ) -> None:
        delays = (0.0, 0.0, 0.0, 0.001, 0.1, 1.0) if slow else (0.0,)
        self.primary = ModelRedis(lambda: chance.choice(delays))
        self.read = ModelRedis(lambda: chance.choice(delays)) if replica else self.primary
        self.published: dict[int, int] = {}  # number -> how many were published before it
        self.trimmed: set[int] = set()  # a Redis that is wound back may have them again
        self._chance = chance
        self._with_first = with_first
        self._used: set[int] = set()
        self.set_clock(10_000)
        self._snapshots: list[Data] = []  # of the present line
        self._left: list[Data] = []  # the ends of other lines
        self._epochs = 0
        self._writes = True
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self._epochs += 1
        self.primary.data.epoch = f"epoch {self._epochs}"

    def publish(self) -> None:
        data = self.primary.data
        if data.epoch is None:
            self.begin_epoch()
        self._snapshots = [*self._snapshots[-8:], self.primary.copy()]
        ms = max(self._clock, parse_entry_id(data.last).ms + 1)
        while ms in self._used:
            ms += 1
        self._used.add(ms)
        self.set_clock(ms + self._chance.choice((1, 1, 10)))
        number = len(self.published)
        self.published[number] = number
        data.publish(f"{ms}-0", number, written=self._writes, with_first=self._with_first)

    def trim(self) -> None:
        entries = self.primary.data.entries
        gone = self._chance.randint(0, len(entries))
        self.trimmed.update(int(fields[b"first"]) for _, fields in entries[:gone])
        del entries[:gone]

    def rewind(self) -> None:
        """Go back on the present line."""
        if self._snapshots:
            at = self._chance.randrange(len(self._snapshots))
            self._left.append(self.primary.copy())
            self.primary.data = self._snapshots[at]
            del self._snapshots[at:]
            self._broke(self.primary)

    def change_line(self) -> None:
        """Go to what was there before a rewind, as when the former primary takes over again."""
        if self._left:
            self._left.append(self.primary.copy())
            self.primary.data = self._left.pop(self._chance.randrange(len(self._left)))
            self._snapshots = []
            self._broke(self.primary)

    def empty(self) -> None:
        self.primary.data = Data()
        self._snapshots = []
        self._broke(self.primary)
        if self._chance.random() < 0.5:
            self.begin_epoch()

    def set_clock(self, ms: int) -> None:
        self._clock = self.primary.now = self.read.now = ms

    def set_clock_back(self) -> None:
        self.set_clock(max(self._clock - self._chance.choice((5, 50, 5000)), 1))

    def switch_stream(self) -> None:
        self._writes = not self._writes

    def sync(self) -> None:
        if self.read is not self.primary:
            self.read.data = self.primary.copy()

    def restore_replica(self) -> None:
        if self.read is not self.primary and self._snapshots:
            self.read.data = self._chance.choice(self._snapshots)
            self._broke(self.read)

    def refuse(self) -> None:
        for redis in (self.primary, self.read):
            redis.is_reachable = False
            redis.breaks += 1

    def accept(self) -> None:
        self.primary.is_reachable = self.read.is_reachable = True

    def _broke(self, redis: ModelRedis) -> None:
        if self._chance.random() < 0.5:  # else the client connected again without a word
            redis.breaks += 1

    def end(self) -> None:
        self._writes = True
        self.accept()
        self.publish()
        self.sync()
        self.touch()

    def touch(self) -> None:
        self.primary.touch()
        self.read.touch()


async def run(
    seed: int, steps: list[str], *, ring: int, replica: bool, with_first: bool, slow: bool
) -> None:
    chance = random.Random(seed)
    world = World(chance, replica=replica, with_first=with_first, slow=slow)
    readers = [Reader(domain) for domain in (None, None, "odd")]
    readers += [Reader(compressed=True), Reader("even", compressed=True, changes=True)]
    readers += [Reader("even", changes=True, wide=WIDE), Reader("odd", changes=True, wide=WIDE)]
    for reader in readers[::2]:
        reader.cursor = "0"
    async with asyncio.TaskGroup() as group:

        def start() -> Gateway:
            return Gateway(world.read, world.primary, ring, group)

        gateways = [start(), start()]
        await asyncio.sleep(2)
        for step in steps:
            if step == "wait":
                await asyncio.sleep(chance.choice((0.0, 0.0, 0.002, 0.01, 0.3, 1.5)))
            elif step == "flush":
                await begin_flush(readers)
            elif step == "restart":
                chance.shuffle(gateways)
                gateways.pop().stop(readers)
                gateways.append(start())
            else:
                able = [each for each in readers if each.changes or step != "change"]
                gateway = chance.choice(gateways)
                for reader in readers if step == "gather" else (chance.choice(able),):
                    take(step, world, reader, gateway)
                world.touch()
        for reader in readers:
            reader.connect(chance.choice(gateways), len(world.published))
        await asyncio.sleep(5)
        for _ in range(3):  # after the first one, a number of each parity
            world.end()
            await asyncio.sleep(20)
        for gateway in gateways:
            gateway.stop(readers)
            assert not gateway.service.errors.count
    for reader in readers:
        judge(reader, world, is_simple=not AMBIGUOUS & set(steps))


async def begin_flush(readers: list[Reader]) -> None:
    """Wait until a flush has served a client; the next step comes before the next client."""
    before = [reader.size for reader in readers]
    for _ in range(50):
        await asyncio.sleep(0)
        if [reader.size for reader in readers] != before:
            return


def take(step: str, world: World, reader: Reader, gateway: Gateway) -> None:
    """Take one step."""
    match step:
        case "connect" | "gather":
            reader.connect(gateway, len(world.published))
        case "pause" | "resume" | "leave" | "beat" | "change":
            getattr(reader, step)()
        case _:
            getattr(world, step)()


def judge(reader: Reader, world: World, *, is_simple: bool) -> None:
    """What Redis holds was received, or a gap directly before the first message after it.

    Args:
        reader: what one client received.
        world: what Redis holds.
        is_simple: whether Redis went back on one line only and each id is above all before it.
            Then an id shows what its client has, and what Redis holds was received, gap or no gap.
    """
    retained = {
        entry.decode(): int(fields[b"first"]) for entry, fields in world.primary.data.entries
    }
    held = {
        entry: number
        for entry, number in retained.items()
        if reader.domain in (None, PARITIES[number % 2])
    }
    # A client that changes its filter receives others, too.
    order = {number: at for at, number in enumerate(retained.values())}
    numbers = [item[1] for item in reader.got if item is not None]
    received = set(numbers)
    owed_from = numbers[0] if reader.owed_from is None else reader.owed_from
    for entry, number in held.items():
        if number in received | world.trimmed or world.published[number] < owed_from:
            continue
        is_excused = not is_simple and is_reported(reader.got, order, number)
        assert is_excused, (
            f"{entry} (number {number}) was neither received nor reported: {reader.got}, "
            f"redis has {held}, owed from {owed_from}"
        )
    seen: set[int] = set()
    for item in reader.got:
        if item is None:
            seen.clear()
        else:
            assert item[1] not in seen, f"{item} came twice without a gap: {reader.got}"
            seen.add(item[1])


def is_reported(got: list[tuple[str, int] | None], order: dict[int, int], number: int) -> bool:
    for at, item in enumerate(got):
        if item is not None and order.get(item[1], -1) > order[number]:
            return at > 0 and got[at - 1] is None
    return bool(got) and got[-1] is None


PARITIES = ("even", "odd")
WIDE = parse_filter(match=[f"domain:{name}" for name in PARITIES])
AMBIGUOUS = {"set_clock_back", "change_line"}
"""Steps after which a batch can have a lower id than one that Redis lost before."""

STEPS = (
    *("publish",) * 6,
    *("wait",) * 5,
    *("connect",) * 4,
    *("pause", "resume", "resume", "leave", "beat", "beat", "change", "change"),
    *("trim", "rewind", "rewind", "empty", "switch_stream", "set_clock_back", "change_line"),
    *("sync", "sync", "sync", "restore_replica"),
    *("restart", "restart", "refuse", "accept", "accept"),
)

OUTAGE = ("refuse", "restart", "restart", "wait", "wait", "connect", "connect")
RETURN = ("accept", "wait", "publish", "wait", "publish", "wait")
SYNCED = ("publish", "sync")
SEQUENCES = (
    *((step,) for step in STEPS),
    # Gateways start while Redis is away, and it comes back with less than clients have.
    *((*OUTAGE, loss, *RETURN) for loss in ("rewind", "rewind", "empty", "accept")),
    # What clients do while a flush serves others.
    ("gather", *SYNCED, "wait", *SYNCED, "flush", "change", *SYNCED, "flush", "change"),
    *((*SYNCED, "flush", step) for step in ("change", "pause", "connect")),
)


@contextmanager
def silent() -> Iterator[None]:
    configured = structlog.get_config()
    structlog.configure(
        logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**configured)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 30),
    sequences=st.lists(st.sampled_from(SEQUENCES), max_size=60),
    ring=st.sampled_from((1, 500, 100_000)),
    replica=st.booleans(),
    with_first=st.booleans(),
    slow=st.booleans(),
    window=st.sampled_from((1, 64)),
    yields=st.booleans(),
)
def test_what_redis_holds_arrives_or_a_gap_before_it(
    seed: int,
    sequences: list[tuple[str, ...]],
    ring: int,
    replica: bool,
    with_first: bool,
    slow: bool,
    window: int,
    yields: bool,
) -> None:
    """Filters leave the index and return often; clients act while a flush serves others.

    Args:
        window: messages after which a filter may leave the index.
        yields: whether other tasks run after each client that a flush serves.
    """
    steps = [step for sequence in sequences for step in sequence]
    with virtual_time() as runner, pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_index, "WINDOW_MESSAGES", window)
        if yields:
            patch.setattr(channel, "_CLOCK_EVERY", 1)
            patch.setattr(channel, "_YIELD_AFTER_SECS", -1.0)
        runner.run(run(seed, steps, ring=ring, replica=replica, with_first=with_first, slow=slow))


def test_a_filtered_client_that_reconnects_to_a_replica_that_lags() -> None:
    """The ring begins after a filter has joined, so the cursor of its head changes."""
    steps = [*["publish"] * 6, "sync", "publish", "restart"]
    with virtual_time() as runner:
        runner.run(run(0, steps, ring=1, replica=True, with_first=False, slow=False))


class Doors:
    """One Redis, and a connection each for replays, checks of the primary and the live reader.

    Attributes:
        late: seconds that each reply takes, by connection.
    """

    def __init__(self) -> None:
        self.late = {"replay": 0.0, "primary": 0.0, "live": 0.0}
        self.replay, self.primary, self.live = (
            ModelRedis(partial(self.late.__getitem__, name)) for name in self.late
        )
        self.data = self.replay.data = self.primary.data = self.live.data = Data()
        self.data.epoch = "epoch"
        self.set_clock(30_000)

    def set_clock(self, ms: int) -> None:
        for door in (self.replay, self.primary, self.live):
            door.now = ms

    def publish(self, ms: int, number: int) -> None:
        self.data.publish(f"{ms}-0", number, with_first=True)
        for door in (self.replay, self.primary, self.live):
            door.touch()


async def came(reader: Reader, count: int) -> list[int | None]:
    """Wait for this many messages and gaps; return the numbers, None for a gap."""

    def enough() -> bool:
        reader.take()
        return len(reader.got) >= count

    await until(enough, f"{count} messages and gaps")
    return [None if item is None else item[1] for item in reader.got]


@contextmanager
def virtual_time() -> Iterator[asyncio.Runner]:
    with silent(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        yield runner


@pytest.mark.parametrize("kept", [True, False], ids=["redis went back", "redis was emptied"])
def test_redis_comes_back_before_the_live_reader_reads_it(kept: bool) -> None:
    """A gateway starts while Redis is away; a replay reads it before the live reader does."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.live.is_reachable = False
        if kept:
            redis.publish(10_000, 0)
        else:
            redis.data.epoch = None
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            reader.cursor = "20000-0-0"
            reader.connect(gateway, 0)
            assert await came(reader, 1) == [None]
            redis.data.epoch = "epoch"
            redis.publish(10_010, 1)
            redis.publish(10_020, 2)
            redis.live.is_reachable = True
            await until(lambda: gateway.follows)
            redis.publish(10_030, 3)
            count = 4 if kept else 5  # of an empty Redis, the replay also sees the epoch begin
            assert [n for n in await came(reader, count) if n is not None] == [1, 2, 3]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


@pytest.mark.parametrize("trimmed", [False, True], ids=["an id of the future", "nothing retained"])
def test_a_gap_is_reported_once_when_the_filter_changes(trimmed: bool) -> None:
    """The filter changes after the gap, before there is anything to continue with."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader("even", changes=True)
        redis.live.is_reachable = False
        redis.publish(10_000, 0)
        redis.publish(10_010, 1)
        reader.cursor = "20000-0-0"
        if trimmed:
            redis.data.entries.clear()
            reader.cursor = "10000-0-0"
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            reader.connect(gateway, 0)
            assert await came(reader, 1) == [None]
            for _ in range(3):
                reader.change()
                await asyncio.sleep(5)
            redis.live.is_reachable = True
            await until(lambda: gateway.follows)
            redis.publish(10_020, 2)
            redis.publish(10_030, 3)
            assert await came(reader, 3) == [None, 2, 3]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_a_client_that_has_a_whole_batch_gets_no_gap_because_it_was_trimmed() -> None:
    """It resumes with its heartbeat, or stays connected while the ring drops what follows."""

    async def scenario() -> None:
        redis, reader, other = Doors(), Reader(), Reader()
        redis.publish(10_000, 0)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1, group, redis.live)
            await until(lambda: gateway.follows)
            reader.connect(gateway, 0)
            other.connect(gateway, 0)
            redis.publish(10_010, 1)
            await came(reader, 1)
            await came(other, 1)
            reader.beat()
            reader.leave()
            assert reader.cursor == "10010-0"
            redis.data.entries.clear()
            redis.publish(10_020, 2)
            redis.publish(10_030, 3)
            assert await came(other, 3) == [1, 2, 3]
            reader.connect(gateway, 0)
            assert await came(reader, 3) == [1, 2, 3]
            gateway.stop([reader, other])

    with virtual_time() as runner:
        runner.run(scenario())


@pytest.mark.parametrize("lags", [False, True], ids=["a quiet stream", "a replica that lags"])
def test_a_moment_after_the_last_batch_is_no_gap(lags: bool) -> None:
    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            await until(lambda: gateway.follows)
            redis.publish(10_010, 1)
            if lags:
                redis.replay.data = redis.primary.copy()
                redis.publish(10_012, 2)
                redis.publish(10_020, 3)
            reader.cursor = "10015"
            reader.connect(gateway, 0)
            await asyncio.sleep(5)
            assert await came(reader, 0) == []
            if lags:
                redis.replay.data = redis.primary.data
                assert await came(reader, 1) == [3]
            else:
                reader.beat()
                reader.take()
                assert reader.cursor == "10010-0", "the newest batch"
            redis.publish(20_000, 4)
            assert await came(reader, 1 + lags) == [*([3] if lags else []), 4]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_a_client_from_the_oldest_of_an_empty_stream_gets_a_gap_for_what_is_trimmed() -> None:
    """Everything was trimmed when it connects, and Redis is away while a batch comes and goes."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        redis.data.entries.clear()
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            await until(lambda: gateway.follows)
            reader.cursor = "0"
            reader.connect(gateway, 0)
            await asyncio.sleep(5)
            reader.take()
            reader.beat()
            reader.take()
            assert (reader.got, reader.cursor) == ([], "10000-0")
            redis.replay.is_reachable = redis.live.is_reachable = False
            redis.publish(20_000, 1)
            redis.publish(20_001, 2)
            await asyncio.sleep(20)
            del redis.data.entries[0]
            redis.replay.is_reachable = redis.live.is_reachable = True
            assert await came(reader, 2) == [None, 2]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_a_client_that_changes_its_filter_keeps_what_follows_an_empty_redis() -> None:
    """Redis is emptied. A replay reads this; the live reader reads the next epoch before it."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader("even", changes=True, wide=WIDE)
        redis.publish(10_000, 0)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 100_000, group, redis.live)
            await until(lambda: gateway.follows)
            await asyncio.sleep(2)
            redis.data = redis.replay.data = redis.primary.data = redis.live.data = Data()
            reader.cursor = "0"
            reader.connect(gateway, 0)
            await asyncio.sleep(5)
            redis.data.epoch = "next epoch"
            for number in (2, 4, 6):
                redis.publish(20_000 + number, number)
            ring = gateway.service.rings[STREAM]
            await until(lambda: str(ring.head.cursor.entry) == "20006-0")
            reader.take()
            assert not reader.got, "the replay has not read Redis since"
            reader.change()
            redis.publish(30_000, 8)
            assert await came(reader, 4) == [2, 4, 6, 8]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_the_live_reader_is_ahead_of_what_a_replay_has_read() -> None:
    """A batch is published while a replay checks the primary; the ring has it at the end."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            await until(lambda: gateway.follows)
            redis.late["primary"] = 1.0
            reader.cursor = "20000-0-0"
            reader.connect(gateway, 0)
            await asyncio.sleep(0.5)
            redis.publish(10_010, 1)
            assert await came(reader, 2) == [None, 1]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_the_ring_begins_after_what_a_replay_has_read() -> None:
    """A gateway starts while a replay reads a stream of which everything was trimmed."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        redis.publish(10_005, 1)
        redis.data.entries.clear()
        redis.live.is_reachable = False
        redis.late["replay"] = 2.0
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            reader.cursor = "10000-0-0"
            reader.connect(gateway, 0)
            # The request for the oldest entry takes 4 s, that for a page is with Redis at 6 s.
            await asyncio.sleep(6.5)
            redis.publish(10_010, 2)
            redis.live.is_reachable = True
            await until(lambda: gateway.follows)
            redis.publish(10_020, 3)
            assert [n for n in await came(reader, 3) if n is not None] == [2, 3]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_an_id_that_was_issued_while_the_clock_was_ahead_is_lost() -> None:
    """Redis was emptied then; the gateway has seen neither. All new ids are below the client's."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        redis.publish(10_010, 1)
        redis.set_clock(10_015)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            await until(lambda: gateway.follows)
            reader.cursor = "20000-0-0"
            reader.connect(gateway, 0)
            redis.publish(10_020, 2)
            assert await came(reader, 4) == [None, 0, 1, 2]
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


def test_a_stream_that_is_not_written_gives_one_gap() -> None:
    """Whatever is published to other streams, its client gets no gap for it."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader()
        redis.publish(10_000, 0)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, 1000, group, redis.live)
            await until(lambda: gateway.follows)
            for number in range(1, 100):
                redis.data.publish(f"{10_000 + number}-0", number, written=False, with_first=True)
            reader.cursor = "10050-0-0"
            reader.connect(gateway, 0)
            for number in range(100, 200):
                await asyncio.sleep(0.1)
                redis.data.publish(f"{10_000 + number}-0", number, written=False, with_first=True)
            redis.publish(20_000, 200)
            got = await came(reader, 2)
            assert got[-1] == 200
            assert got.count(None) <= 2, "one when it comes, one before what follows"
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())


@pytest.mark.parametrize("ring", [1, 500])
def test_a_compressed_client_that_fell_behind_the_ring_is_not_in_step(ring: int) -> None:
    """It receives uncompressed messages until the compressor restarts."""

    async def scenario() -> None:
        redis, reader = Doors(), Reader(compressed=True)
        async with asyncio.TaskGroup() as group:
            gateway = Gateway(redis.replay, redis.primary, ring, group, redis.live)
            await until(lambda: gateway.follows)
            reader.connect(gateway, 0)
            for number in range(60):
                if number % 20 == 5:
                    reader.pause()
                redis.publish(10_000 + number, number)
                await asyncio.sleep(0.2)
                if number % 20 == 15:
                    reader.resume()
            assert await came(reader, 60) == list(range(60))
            assert 10 < reader.compressed < 50
            gateway.stop([reader])

    with virtual_time() as runner:
        runner.run(scenario())
