"""Random histories of everything that changes what is published: a model of two logs.

Two workers publish and renew, with beliefs and look-ups that may be out of date, while leases
expire, operators skip, retire and rename logs, a worker skips under its lease, streams are trimmed,
and Redis is emptied or replaced by an older copy. After each step, the counters of each log add up,
and no stream has a certificate (by `issuance`: a precertificate or its certificate) twice. At the
end, each certificate was in the stream at some time, but for the skipped ones.
"""

import asyncio
import itertools
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.ids import FIRST_ID
from certbus.keys import DedupBy
from certbus.logs.leases import Lease, SkipAhead
from certbus.logs.registry import LogRegistry, Retirement
from certbus.logs.skip import SkipRejected, skip
from certbus.streams.batch import AlreadyPublished, Batch, Fenced, Missing, Published, Stale
from certbus.streams.publisher import PublisherSettings
from certbus.streams.retention import Retention, Trimmer
from ctparse.tree_head import TreeHead
from ctparse.wire_messages import Message
from tests.certbus.bus import KEYS, LOG, OTHER_LOG, Worker, message, retain, stored
from tests.certbus.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOGS = (LOG, OTHER_LOG)
BETTER = {LOG: "ee" * 32, OTHER_LOG: "ff" * 32}
WORKERS = ("one", "two")
LENGTH = 12
HEAD = TreeHead(LENGTH, 1, bytes(32), b"\4\3")
RETIREMENT = Retirement("command", "a test", 0.0, 0.0)

# The precertificate of a certificate has the same letter.
CERTIFICATES = st.lists(st.sampled_from("abcdABCD"), min_size=LENGTH, max_size=LENGTH)
ACTIONS = (
    "take", "look up", "look up", "publish", "publish", "publish", "renew", "renew", "expire",
    "release", "forget",
    "skip", "skip ahead", "rename", "retire", "drop", "unretire", "trim", "copy", "rewind", "empty",
)  # fmt: skip
STEP = st.tuples(
    st.sampled_from(ACTIONS), st.sampled_from(WORKERS), st.sampled_from(LOGS), st.integers(1, 4)
)


def made(name: str) -> Message:
    return msgspec.structs.replace(message(name), tbs_sha256=sha256(name.lower().encode()).digest())


class World:
    """What was published, skipped and copied.

    Attributes:
        published: names of all messages that were in the stream at some time; without those that an
            older copy of the same epoch does not have, which are to be published again.
        skipped: log and index of the entries that were skipped.
        copy: an older state of Redis, by key; with it its epoch, and what was published then.
    """

    def __init__(self, client: Redis, entries: dict[str, list[str]], by: DedupBy) -> None:
        self.client = client
        self.entries = entries
        self.by = by
        self.published: set[str] = set()
        self.skipped: set[tuple[str, int]] = set()
        self.copy: dict[bytes, bytes] = {}
        self.copied: tuple[object, set[str]] = None, set()
        self.events = itertools.count()

    def identity(self, name: str) -> str:
        return name if self.by == "certificate" else name.lower()

    async def check(self) -> None:
        for log_id in itertools.chain(LOGS, BETTER.values()):
            fields = await self.client.hgetall(KEYS.log(log_id))
            if b"next" not in fields:
                continue
            counters = (b"published", b"duplicates", b"rejected", b"skipped")
            accounted = sum(int(fields.get(name, 0)) for name in counters)
            assert accounted == int(fields[b"next"]) - int(fields[b"start"]), fields
        names = [
            msgspec.json.decode(text)["lite"].partition("|")[0]
            for batch in await stored(self.client)
            for text in batch.messages
        ]
        identities = [self.identity(name) for name in names]
        assert len(identities) == len(set(identities)), names
        self.published.update(names)

    async def dump(self) -> None:
        keys = [key async for key in self.client.scan_iter(count=1000)]
        self.copy = {key: value for key in keys if (value := await self.client.dump(key))}
        self.copied = await self.client.hget(KEYS.head, "epoch"), set(self.published)

    async def rewind(self) -> None:
        if self.copy:
            epoch, published = self.copied
            if epoch is not None and epoch == await self.client.hget(KEYS.head, "epoch"):
                self.published = set(published)
            await self.client.flushall()
            for key, value in self.copy.items():
                await self.client.restore(key, 0, value)


class Ingestor:
    """What a worker believes; it may be long out of date."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.worker = Worker(world.client, name, PublisherSettings(dedup=world.by))
        self.registry = LogRegistry(world.client, KEYS)
        self.leases: dict[str, Lease] = {}
        self.next: dict[str, int] = {}
        self.found: dict[str, tuple[dict[str, bool], str]] = {}  # by the last look-up of a log

    async def take(self, log: str) -> None:
        alias = await self.registry.aliases([log])
        lease = await self.worker.leases.acquire(alias.get(log, log), 0)
        if lease is not None:
            self.leases[log], self.next[log] = lease, lease.next
            await self.world.client.hset(KEYS.log(lease.log_id), "newest", LENGTH)

    async def look_up(self, log: str, count: int) -> None:
        first = self.next.get(log, 0)
        names = list(dict.fromkeys(self.world.entries[log][first : first + count]))
        digests = [made(name).sha256 for name in names]
        known, known_at = await self.worker.publisher.find_known_at(digests)
        self.found[log] = dict(zip(names, known, strict=True)), known_at

    async def publish(self, log: str, count: int) -> None:
        first = self.next.get(log, 0)
        window = self.world.entries[log][first : first + count]
        if log not in self.leases or not window:
            return
        known, known_at = self.found.pop(log, ({}, FIRST_ID))
        if not known.keys() >= set(window):
            known, known_at = {}, FIRST_ID
        new = [made(name) for name in window if not known.get(name)]
        while True:
            lease = self.leases[log]
            sent = Batch(
                first, first + len(window), new, len(window) - len(new), [], known_at=known_at
            )
            match await self.worker.publisher.publish(lease, sent):
                case Published(next=next_index):
                    assert next_index == first + len(window)
                    self.next[log] = next_index
                    return
                case AlreadyPublished(positions=positions, known_at=known_at):
                    new = [each for at, each in enumerate(new) if at not in positions]
                case Stale(next=next_index):
                    self.next[log] = next_index
                    return
                case Fenced() | Missing():
                    if not await self.restore(log, first):
                        return

    async def restore(self, log: str, position: int) -> bool:
        restored = await self.worker.restore(self.leases.pop(log), position)
        if restored is not None:
            self.leases[log] = restored
        return restored is not None

    async def renew(self, log: str) -> None:
        (next_index,) = await self.worker.leases.renew([self.leases[log]])
        if next_index is None:
            await self.restore(log, self.next[log])
        elif next_index < self.next[log]:
            self.next[log] = next_index

    async def skip(self, log: str, count: int) -> None:
        alias = await self.registry.aliases([log])
        end = self.next.get(log, 0) + count
        try:
            done = await skip(self.world.client, KEYS, alias.get(log, log), end, "test")
        except SkipRejected:
            return
        self.world.skipped |= {(log, index) for index in range(done.first, done.end)}

    async def skip_ahead(self, log: str, count: int) -> None:
        if log not in self.leases:
            return
        first = self.next[log]
        end = min(first + count, LENGTH)
        request = SkipAhead(first, end, "test", HEAD, None)
        event = f"event {next(self.world.events)}"
        if (
            first < end
            and await self.worker.leases.skip_ahead(self.leases[log], request, event) == "skipped"
        ):
            self.world.skipped |= {(log, index) for index in range(first, end)}
            self.next[log] = end

    async def do(self, action: str, log: str, count: int) -> None:
        client, leases, lease = self.world.client, self.worker.leases, self.leases.get(log)
        alias = (await self.registry.aliases([log])).get(log, log)
        limits = {**retain(400 * count), "rejected": Retention(10**6, 3600)}
        does: dict[str, Callable[[], Awaitable[object]]] = {
            "take": lambda: self.take(log),
            "look up": lambda: self.look_up(log, count),
            "publish": lambda: self.publish(log, count),
            "forget": lambda: self.forget(log, count),
            "expire": lambda: client.delete(KEYS.lease(alias)),
            "skip": lambda: self.skip(log, count),
            "skip ahead": lambda: self.skip_ahead(log, count),
            "rename": lambda: self.registry.rename(log, BETTER[log]),
            "retire": lambda: self.registry.retire(alias, RETIREMENT),
            "unretire": lambda: self.registry.unretire(alias, "command"),
            "trim": lambda: Trimmer(client, KEYS, limits).trim(),
            "copy": self.world.dump,
            "rewind": self.world.rewind,
            "empty": client.flushall,
        }
        if lease is not None:
            does["renew"] = lambda: self.renew(log)
            does["release"] = lambda: leases.release(lease)
            does["drop"] = lambda: leases.drop(lease, self.next[log])
        if action in does:
            await does[action]()

    async def forget(self, log: str, count: int) -> None:
        """Go back, as if replies had been lost."""
        self.next[log] = max(self.next.get(log, 0) - count, 0)


@settings(max_examples=40, deadline=None)
@given(
    first=CERTIFICATES,
    second=CERTIFICATES,
    steps=st.lists(STEP, min_size=10, max_size=60),
    by=st.sampled_from(["certificate", "issuance"]),
)
def test_any_history(
    module_server: RedisServer,
    first: list[str],
    second: list[str],
    steps: list[tuple[str, str, str, int]],
    by: DedupBy,
) -> None:
    asyncio.run(run(module_server, {LOG: first, OTHER_LOG: second}, steps, by))


async def run(
    server: RedisServer,
    entries: dict[str, list[str]],
    steps: list[tuple[str, str, str, int]],
    by: DedupBy,
) -> None:
    async with connect(server.url) as client:
        await client.flushall()
        world = World(client, entries, by)
        ingestors = {name: Ingestor(world, name) for name in WORKERS}
        await ingestors["one"].worker.publisher.configure()
        for action, name, log, count in steps:
            await ingestors[name].do(action, log, count)
            await world.check()
        last = Ingestor(world, "last")
        for log in LOGS:
            await last.do("unretire", log, 0)
            await last.do("expire", log, 0)
            await last.take(log)
            assert log in last.leases
            while last.next[log] < LENGTH:
                await last.publish(log, 4)
                await world.check()
        expected = {
            world.identity(name)
            for log in LOGS
            for index, name in enumerate(entries[log])
            if (log, index) not in world.skipped
        }
        assert expected <= {world.identity(name) for name in world.published}
