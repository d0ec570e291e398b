"""Random histories of everything that changes what is published: a model of two logs.

Two workers publish and renew, with beliefs and look-ups that may be out of date, while leases
expire, operators skip, retire and rename logs, a worker skips under its lease, streams are trimmed,
and Redis is emptied or replaced by an older copy. After each step, the counters of each log add up,
its frontier is that of its entries before `next`, and no certificate (by `issuance`: a
precertificate or its certificate) was published twice, also if its message was trimmed between. At
the end, each certificate was in the stream at some time, but for the skipped ones.
"""

import asyncio
import itertools
import random
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, get_args

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
from certbus.streams.batch import (
    AlreadyPublished,
    Batch,
    Fenced,
    Missing,
    Outcome,
    Published,
    Stale,
)
from certbus.streams.publisher import PublisherSettings
from certbus.streams.retention import Retention, Trimmer
from ctparse.merkle import Frontier, leaf_hash
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


class Marked(NamedTuple):
    """What the marks in Redis must remember.

    Attributes:
        batches: ids of all batches that were in the stream since Redis was emptied.
        identities: of their certificates.
    """

    batches: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()


class World:
    """What was published, skipped and copied.

    Attributes:
        published: names of all messages that were in the stream at some time; without those that an
            older copy of the same epoch does not have, which are to be published again.
        marked: what must not be published again.
        skipped: log and index of the entries that were skipped.
        copy: an older state of Redis, by key; with it its epoch, and what was published and marked
            then.
        effects: how often each action changed or found something.
    """

    def __init__(self, client: Redis, entries: dict[str, list[str]], by: DedupBy) -> None:
        self.client = client
        self.entries = entries
        self.by = by
        self.published: set[str] = set()
        self.marked = Marked()
        self.skipped: set[tuple[str, int]] = set()
        self.copy: dict[bytes, bytes] = {}
        self.copied: tuple[object, set[str], Marked] = None, set(), Marked()
        self.events = itertools.count()
        self.effects: Counter[str] = Counter()

    def identity(self, name: str) -> str:
        return name if self.by == "certificate" else name.lower()

    def frontier(self, log: str, end: int) -> Frontier:
        frontier = Frontier()
        frontier.extend(leaf_hash(name.encode()) for name in self.entries[log][:end])
        return frontier

    async def check(self) -> None:
        for log, log_id in itertools.chain(zip(LOGS, LOGS, strict=True), BETTER.items()):
            fields = await self.client.hgetall(KEYS.log(log_id))
            if b"next" not in fields:
                continue
            end = int(fields[b"next"])
            counters = (b"published", b"duplicates", b"rejected", b"skipped")
            accounted = sum(int(fields.get(name, 0)) for name in counters)
            assert accounted == end - int(fields[b"start"]), fields
            if b"frontier" in fields:
                assert fields[b"frontier"] == self.frontier(log, end).to_bytes(), fields
        new = {
            batch.id: [
                msgspec.json.decode(text)["lite"].partition("|")[0] for text in batch.messages
            ]
            for batch in await stored(self.client)
            if batch.id not in self.marked.batches
        }
        names = [name for each in new.values() for name in each]
        identities = [self.identity(name) for name in names]
        assert len(identities) == len(set(identities)), names
        assert not self.marked.identities & set(identities), (names, self.marked)
        self.published.update(names)
        self.marked = Marked(
            self.marked.batches | new.keys(), self.marked.identities | set(identities)
        )

    async def empty(self) -> bool:
        self.marked = Marked()
        return bool(await self.client.flushall())

    async def dump(self) -> bool:
        keys = [key async for key in self.client.scan_iter(count=1000)]
        self.copy = {key: value for key in keys if (value := await self.client.dump(key))}
        epoch = await self.client.hget(KEYS.head, "epoch")
        self.copied = epoch, set(self.published), self.marked
        return bool(self.copy)

    async def rewind(self) -> bool:
        if self.copy:
            epoch, published, self.marked = self.copied
            if epoch is not None and epoch == await self.client.hget(KEYS.head, "epoch"):
                self.published = set(published)
            await self.client.flushall()
            for key, value in self.copy.items():
                await self.client.restore(key, 0, value)
        return bool(self.copy)


class Ingestor:
    """What a worker believes; it may be long out of date."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.worker = Worker(world.client, name, PublisherSettings(dedup=world.by))
        self.registry = LogRegistry(world.client, KEYS)
        self.leases: dict[str, Lease] = {}
        self.next: dict[str, int] = {}
        self.found: dict[str, tuple[dict[str, bool], str]] = {}  # by the last look-up of a log

    async def take(self, log: str) -> bool:
        alias = await self.registry.aliases([log])
        lease = await self.worker.leases.acquire(alias.get(log, log), 0)
        if lease is not None:
            self.leases[log], self.next[log] = lease, lease.next
            await self.world.client.hset(KEYS.log(lease.log_id), "newest", LENGTH)
        return lease is not None

    async def look_up(self, log: str, count: int) -> bool:
        first = self.next.get(log, 0)
        names = list(dict.fromkeys(self.world.entries[log][first : first + count]))
        digests = [made(name).sha256 for name in names]
        known, known_at = await self.worker.publisher.find_known_at(digests)
        self.found[log] = dict(zip(names, known, strict=True)), known_at
        return any(known)

    async def publish(self, log: str, count: int) -> bool:
        first = self.next.get(log, 0)
        window = self.world.entries[log][first : first + count]
        if log not in self.leases or not window:
            return False
        known, known_at = self.found.pop(log, ({}, FIRST_ID))
        if not known.keys() >= set(window):
            known, known_at = {}, FIRST_ID
        new = [made(name) for name in window if not known.get(name)]
        end = first + len(window)
        frontier = self.world.frontier(log, end).to_bytes()
        while True:
            lease = self.leases[log]
            duplicates = len(window) - len(new)
            sent = Batch(first, end, new, duplicates, [], frontier=frontier, known_at=known_at)
            outcome = await self.worker.publisher.publish(lease, sent)
            self.world.effects[type(outcome).__name__] += 1
            match outcome:
                case Published(next=next_index):
                    assert next_index == end
                    self.next[log] = next_index
                    return True
                case AlreadyPublished(positions=positions, known_at=known_at):
                    new = [each for at, each in enumerate(new) if at not in positions]
                case Stale(next=next_index):
                    self.next[log] = next_index
                    return False
                case Fenced() | Missing():
                    if not await self.restore(log, first):
                        return False

    async def restore(self, log: str, position: int) -> bool:
        restored = await self.worker.restore(self.leases.pop(log), position)
        if restored is not None:
            self.leases[log] = restored
            self.world.effects["restore"] += 1
        return restored is not None

    async def renew(self, log: str) -> bool:
        (next_index,) = await self.worker.leases.renew([self.leases[log]])
        if next_index is None:
            await self.restore(log, self.next[log])
        elif next_index < self.next[log]:
            self.next[log] = next_index
        return next_index is not None

    async def skip(self, log: str, count: int) -> bool:
        alias = await self.registry.aliases([log])
        end = self.next.get(log, 0) + count
        try:
            done = await skip(self.world.client, KEYS, alias.get(log, log), end, "test")
        except SkipRejected:
            return False
        self.world.skipped |= {(log, index) for index in range(done.first, done.end)}
        return True

    async def skip_ahead(self, log: str, count: int) -> bool:
        if log not in self.leases:
            return False
        first = self.next[log]
        end = min(first + count, LENGTH)
        request = SkipAhead(first, end, "test", HEAD, self.world.frontier(log, end))
        event = f"event {next(self.world.events)}"
        if (
            first < end
            and await self.worker.leases.skip_ahead(self.leases[log], request, event) == "skipped"
        ):
            self.world.skipped |= {(log, index) for index in range(first, end)}
            self.next[log] = end
            return True
        return False

    async def do(self, action: str, log: str, count: int) -> None:
        client, leases, lease = self.world.client, self.worker.leases, self.leases.get(log)
        alias = (await self.registry.aliases([log])).get(log, log)
        # An entry of `lite` has some 200 bytes.
        limits = {**retain(200 * (count - 1)), "rejected": Retention(10**6, 3600)}
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
            "empty": self.world.empty,
        }
        if lease is not None:
            does["renew"] = lambda: self.renew(log)
            does["release"] = lambda: leases.release(lease)
            does["drop"] = lambda: leases.drop(lease, self.next[log])
        if action in does:
            self.world.effects[action] += bool(await does[action]())

    async def forget(self, log: str, count: int) -> bool:
        """Go back, as if replies had been lost."""
        before = self.next.get(log, 0)
        self.next[log] = max(before - count, 0)
        return before > 0


@settings(max_examples=40)
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


def test_each_action_has_an_effect(module_server: RedisServer) -> None:
    """Otherwise the random histories would not show what an action breaks."""
    chance, effects = random.Random(1), Counter[str]()
    wanted = {*ACTIONS, *(each.__name__ for each in get_args(Outcome)), "restore"}
    for _ in range(20):
        entries = {log: chance.choices("abcdABCD", k=LENGTH) for log in LOGS}
        steps = [
            (
                *(chance.choice(ACTIONS), chance.choice(WORKERS), chance.choice(LOGS)),
                chance.randint(1, 4),
            )
            for _ in range(60)
        ]
        effects += asyncio.run(run(module_server, entries, steps, "issuance"))
        if wanted <= effects.keys():
            return
    raise AssertionError(f"without effect: {wanted - effects.keys()}; {effects}")


async def run(
    server: RedisServer,
    entries: dict[str, list[str]],
    steps: list[tuple[str, str, str, int]],
    by: DedupBy,
) -> Counter[str]:
    """Run a history in which each worker has a log and has published some of it, then to the end.

    Returns:
        How often each action had an effect in `steps`.
    """
    async with connect(server.url) as client:
        await client.flushall()
        world = World(client, entries, by)
        ingestors = {name: Ingestor(world, name) for name in WORKERS}
        await ingestors["one"].worker.publisher.configure()
        for name, log in zip(WORKERS, LOGS, strict=True):
            await ingestors[name].take(log)
            await ingestors[name].publish(log, 3)
        world.effects.clear()
        for action, name, log, count in steps:
            await world.check()
            await ingestors[name].do(action, log, count)
        effects = +world.effects
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
        return effects
