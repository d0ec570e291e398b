"""Whatever happens to Redis, whenever clients read: what Redis holds arrives, or a gap before it.

The real reader, rings, history, replays and clients, on a model of Redis. The judge compares what
each client got with what Redis holds in the end.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certbus.ids import parse_cursor, parse_entry_id
from certbus.streams.reader import StreamReader
from gateway.clients.replay import Replayer
from gateway.clients.sse import SSEClient
from gateway.config import Settings
from gateway.delivery.channel import Flusher
from gateway.delivery.consumer import consume_streams
from gateway.delivery.encoding import SSE
from gateway.delivery.history import HistoryReader
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.model_redis import KEYS, STREAM, Data, ModelRedis, VirtualLoop

CLIENTS = 4


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
    """The delivery of one gateway."""

    def __init__(
        self, redis: ModelRedis, primary: ModelRedis, ring: int, group: asyncio.TaskGroup
    ) -> None:
        client = cast("Any", redis)
        other = None if primary is redis else cast("Any", primary)
        meter = Metrics()
        self.follower = StreamReader(client, KEYS, [STREAM], primary=other)
        history = HistoryReader(client, KEYS, 2000)
        replay = Replayer(history, cast("Any", primary), KEYS, self.follower, group, meter)
        self.service = Hub(Settings(streams=(STREAM,), ring_bytes=ring), replay.start, meter)
        fanout = Flusher(self.service.channels.values(), meter)
        self.tasks = [
            group.create_task(
                consume_streams(self.follower, self.service.rings, history, fanout.wake, meter)
            ),
            group.create_task(fanout.run()),
        ]


class Reader:
    """Who uses a client, connects again with the last id it has, and remembers everything."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int] | None] = []  # (id, number), None for a gap
        self.cursor: str | None = None
        self.owed_from = 0  # what was published from then on is owed
        self._client: SSEClient | None = None
        self._transport = Transport()

    def connect(self, gateway: Gateway, published: int) -> None:
        self.leave()
        if self.cursor is None and not self.got:
            self.owed_from = published
        self._transport = Transport()
        lane = gateway.service.channels[STREAM, SSE]
        self._client = SSEClient(gateway.service.clients, lane, self._transport)
        self._client.attach(None if self.cursor is None else parse_cursor(self.cursor))

    def pause(self) -> None:
        if self._client is not None and not self._client.paused:
            self._client.pause_writing()

    def resume(self) -> None:
        if self._client is not None and self._client.paused:
            self._client.resume_writing()

    def leave(self) -> None:
        self.take()
        if self._client is not None:
            self._client.detach()
            self._client = None

    def take(self) -> None:
        """Read what was written."""
        text, self._transport.written = self._transport.written.decode(), b""
        for event in text.split("\n\n"):
            data = next((line[6:] for line in event.split("\n") if line.startswith("data: ")), None)
            if data is None:
                continue
            found = json.loads(data)
            if "id" in found:
                self.cursor = found["id"]
                self.got.append((found["id"].rpartition("-")[0], found["n"]))
            elif found["message_type"] == "gap":
                self.got.append(None)


class World:
    """Redis, what was published, and what may happen to both."""

    def __init__(self, chance: random.Random, *, replica: bool, with_first: bool) -> None:
        self.primary = ModelRedis()
        self.read = ModelRedis() if replica else self.primary
        self.published: dict[int, int] = {}  # number -> how many were published before it
        self.trimmed: set[int] = set()  # a Redis that is wound back may have them again
        self._chance = chance
        self._with_first = with_first
        self._used: set[int] = set()
        self._clock = 10_000
        self._snapshots: list[Data] = []
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
        self._clock = ms + self._chance.choice((1, 1, 10))
        number = len(self.published)
        self.published[number] = number
        data.publish(f"{ms}-0", number, written=self._writes, with_first=self._with_first)

    def trim(self) -> None:
        entries = self.primary.data.entries
        gone = self._chance.randint(0, len(entries))
        self.trimmed.update(int(fields[b"first"]) for _, fields in entries[:gone])
        del entries[:gone]

    def rewind(self) -> None:
        if self._snapshots:
            self.primary.data = self._snapshots.pop(self._chance.randrange(len(self._snapshots)))
            self._broke(self.primary)

    def empty(self) -> None:
        self.primary.data = Data()
        self._snapshots = []
        self._broke(self.primary)
        if self._chance.random() < 0.5:
            self.begin_epoch()

    def set_clock_back(self) -> None:
        self._clock = max(self._clock - self._chance.choice((5, 50, 5000)), 1)

    def switch_stream(self) -> None:
        self._writes = not self._writes

    def sync(self) -> None:
        if self.read is not self.primary:
            self.read.data = self.primary.copy()

    def restore_replica(self) -> None:
        if self.read is not self.primary and self._snapshots:
            self.read.data = self._chance.choice(self._snapshots)
            self._broke(self.read)

    def _broke(self, redis: ModelRedis) -> None:
        if self._chance.random() < 0.5:  # else the client connected again without a word
            redis.breaks += 1

    def end(self) -> None:
        self._writes = True
        self.publish()
        self.sync()
        self.touch()

    def touch(self) -> None:
        self.primary.touch()
        self.read.touch()


async def run(seed: int, steps: list[str], *, ring: int, replica: bool, with_first: bool) -> None:
    chance = random.Random(seed)
    world = World(chance, replica=replica, with_first=with_first)
    readers = [Reader() for _ in range(CLIENTS)]
    for reader in readers[::2]:
        reader.cursor = "0"
    async with asyncio.TaskGroup() as group:
        gateways = [Gateway(world.read, world.primary, ring, group) for _ in range(2)]
        await asyncio.sleep(2)
        for step in steps:
            if step == "wait":
                await asyncio.sleep(chance.choice((0.0, 0.002, 0.01, 0.3, 1.5)))
            else:
                take(step, world, chance.choice(readers), chance.choice(gateways))
                world.touch()
        for reader in readers:
            reader.connect(chance.choice(gateways), len(world.published))
        await asyncio.sleep(5)
        for _ in range(2):
            world.end()
            await asyncio.sleep(10)
        for reader in readers:
            reader.leave()
        for gateway in gateways:
            for task in gateway.tasks:
                task.cancel()
    for reader in readers:
        judge(reader, world)


def take(step: str, world: World, reader: Reader, gateway: Gateway) -> None:
    """Take one step."""
    match step:
        case "connect":
            reader.connect(gateway, len(world.published))
        case "pause" | "resume" | "leave":
            getattr(reader, step)()
        case _:
            getattr(world, step)()


def judge(reader: Reader, world: World) -> None:
    """What Redis holds was received, or a gap directly before the first message after it."""
    held = {entry.decode(): int(fields[b"first"]) for entry, fields in world.primary.data.entries}
    order = {number: at for at, number in enumerate(held.values())}
    received = {item[1] for item in reader.got if item is not None}
    for entry, number in held.items():
        if number in received | world.trimmed or world.published[number] < reader.owed_from:
            continue
        assert is_reported(reader.got, order, number), (
            f"{entry} (number {number}) was neither received nor reported: {reader.got}, "
            f"redis has {held}, owed from {reader.owed_from}"
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


STEPS = (
    *("publish",) * 6,
    *("wait",) * 5,
    *("connect",) * 4,
    *("pause", "resume", "resume", "leave"),
    *("trim", "rewind", "rewind", "empty", "set_clock_back", "switch_stream"),
    *("sync", "sync", "sync", "restore_replica"),
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


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 1 << 30),
    steps=st.lists(st.sampled_from(STEPS), max_size=60),
    ring=st.sampled_from((1, 100, 100_000)),
    replica=st.booleans(),
    with_first=st.booleans(),
)
def test_what_redis_holds_arrives_or_a_gap_before_it(
    seed: int, steps: list[str], ring: int, replica: bool, with_first: bool
) -> None:
    with silent(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run(seed, steps, ring=ring, replica=replica, with_first=with_first))
