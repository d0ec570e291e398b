"""Random histories: two workers, two logs, a few certificates, and everything that can go wrong.

A model keeps, for each log, what has become of each of its entries. After every step, whatever it
was, the books must balance; at the end every certificate is in the streams exactly once.
"""

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.streams.batch import AlreadyPublished, Fenced, Missing, Published, Stale
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Worker,
    assert_adds_up,
    batch,
    log_status,
    stored_names,
)
from tests.certbus.servers import RedisServer

if TYPE_CHECKING:
    from certbus.logs.leases import Lease

LOGS = (LOG, OTHER_LOG)
WORKERS = ("one", "two")
LENGTH = 12  # entries of each log
CERTIFICATES = st.lists(st.sampled_from("abcdefgh"), min_size=LENGTH, max_size=LENGTH)
STEP = st.tuples(
    st.sampled_from(["take", "publish", "publish", "expire", "release", "forget", "find"]),
    st.sampled_from(WORKERS),
    st.sampled_from(LOGS),
    st.integers(1, 5),
)


class Ingestor:
    """What a worker believes; it may be long out of date."""

    def __init__(
        self,
        client: Redis,
        name: str,
        entries: dict[str, list[str]],
        owners: dict[str, "Ingestor"],
    ) -> None:
        self.worker = Worker(client, name)
        self.entries = entries
        self.owners = owners  # who was the last to be given the lease of each log
        self.leases: dict[str, Lease] = {}
        self.next: dict[str, int] = {}
        self.known: dict[str, set[str]] = {log_id: set() for log_id in LOGS}

    async def take(self, log_id: str) -> None:
        lease = await self.worker.leases.acquire(log_id, 0)
        if lease is not None:
            self.leases[log_id], self.next[log_id] = lease, lease.next
            self.owners[log_id] = self

    async def find_known(self, log_id: str, count: int) -> None:
        """Find the known entries of the next window; the result may be old when it is used."""
        window = self.window(log_id, count)
        digests = [message.sha256 for message in batch(0, window).messages]
        known = await self.worker.publisher.find_known(digests)
        self.known[log_id] = {
            name for name, is_known in zip(window, known, strict=True) if is_known
        }

    def window(self, log_id: str, count: int) -> list[str]:
        first = self.next.get(log_id, 0)
        return self.entries[log_id][first : first + count]

    async def publish(self, log_id: str, count: int) -> None:
        if log_id not in self.leases or not (window := self.window(log_id, count)):
            return
        first = self.next[log_id]
        new = [name for name in window if name not in self.known[log_id]]
        while True:
            sent = batch(first, new, duplicates=len(window) - len(new))
            match await self.worker.publisher.publish(self.leases[log_id], sent):
                case Published(next=next_index):
                    assert self.owners[log_id] is self
                    assert next_index == first + len(window)
                    self.next[log_id] = next_index
                    return
                case AlreadyPublished(positions=positions):
                    new = [name for at, name in enumerate(new) if at not in positions]
                case Stale(next=next_index):
                    assert next_index != first
                    self.next[log_id] = next_index
                    return
                case Fenced():
                    del self.leases[log_id]
                    return
                case Missing():
                    pytest.fail("the log was never removed")

    async def do(self, action: str, log_id: str, count: int) -> None:
        match action:
            case "take":
                await self.take(log_id)
            case "publish":
                await self.publish(log_id, count)
            case "find":
                await self.find_known(log_id, count)
            case "expire":
                await self.worker.client.delete(KEYS.lease(log_id))
            case "release" if log_id in self.leases:
                await self.worker.leases.release(self.leases[log_id])
            case "forget":  # as if replies had been lost
                self.next[log_id] = max(self.next.get(log_id, 0) - count, 0)


@settings(max_examples=60)
@given(first=CERTIFICATES, second=CERTIFICATES, steps=st.lists(STEP, min_size=10, max_size=80))
def test_counts_add_up_after_any_interleaving(
    module_server: RedisServer,
    first: list[str],
    second: list[str],
    steps: list[tuple[str, str, str, int]],
) -> None:
    asyncio.run(run(module_server, {LOG: first, OTHER_LOG: second}, steps))


async def run(
    server: RedisServer, entries: dict[str, list[str]], steps: list[tuple[str, str, str, int]]
) -> None:
    async with connect(server.url) as client:
        await client.flushall()
        owners: dict[str, Ingestor] = {}
        ingestors = {name: Ingestor(client, name, entries, owners) for name in WORKERS}
        begun: set[str] = set()
        for action, name, log_id, count in steps:
            await ingestors[name].do(action, log_id, count)
            begun |= set(ingestors[name].leases)
            for known in begun:
                assert_adds_up(await log_status(client, known))
        last = Ingestor(client, "last", entries, owners)
        for log_id in LOGS:
            await client.delete(KEYS.lease(log_id))
            await last.take(log_id)
            while last.next[log_id] < LENGTH:
                await last.publish(log_id, 5)
            status = await log_status(client, log_id)
            assert status.next == LENGTH
            assert_adds_up(status)
        names = await stored_names(client)
        assert len(names) == len(set(names))
        assert set(names) == set(entries[LOG]) | set(entries[OTHER_LOG])
        published = [(await log_status(client, log_id)).published for log_id in LOGS]
        assert sum(published) == len(names)
