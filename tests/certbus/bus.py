"""What the tests of certbus share: messages, batches, and one worker's view of Redis."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
from redis.asyncio import Redis

from certbus.cluster import LogStatus, snapshot
from certbus.ids import new_event
from certbus.keys import STREAMS, Keys
from certbus.logs.leases import Lease, Leases
from certbus.streams.batch import AlreadyPublished, Batch, Outcome
from certbus.streams.events import Event, StreamBatch
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.reader import StreamReader
from certbus.streams.retention import DEFAULT_RETENTION, Retention, Trimmer
from ctparse.entry import Rejected
from ctparse.wire_messages import Message
from tests.retained import history
from tests.waiting import until

KEYS = Keys()
LOG = "ab" * 32
OTHER_LOG = "cd" * 32


def message(name: str, size: int = 0) -> Message:
    """A message identified by `name`, as a certificate is by its fingerprint."""
    text = name.encode()
    return Message(
        sha256=hashlib.sha256(text).digest(),
        sha1=hashlib.sha1(text).digest(),
        full=b'{"full":"%b|%b"}' % (text, incompressible(name, size)),
        lite=b'{"lite":"%b"}' % text,
        domains=b'{"domains":"%b"}' % text,
        problems=(),
    )


def incompressible(name: str, size: int) -> bytes:
    return hashlib.shake_256(name.encode()).hexdigest((size + 1) // 2)[:size].encode()


def batch(first: int, names: Sequence[str], duplicates: int = 0, size: int = 0) -> Batch:
    return Batch(
        first, first + len(names) + duplicates, [message(n, size) for n in names], duplicates, []
    )


def repeated(outcome: Outcome) -> list[int]:
    """The positions of the messages of a batch that were published before."""
    assert isinstance(outcome, AlreadyPublished), outcome
    return outcome.positions


def rejected(index: int, raw: bytes = b"garbage") -> Rejected:
    return Rejected(index, "not a certificate", raw)


class Worker:
    """One ingestor's objects."""

    def __init__(
        self,
        client: Redis,
        name: str,
        settings: PublisherSettings | None = None,
        retention: Mapping[str, Retention] = DEFAULT_RETENTION,
        ttl: float = 30,
        keys: Keys = KEYS,
    ) -> None:
        self.client = client
        self.trimmer = Trimmer(client, keys, retention)
        self.leases = Leases(client, keys, name, ttl)
        self.publisher = Publisher(
            client, keys, settings or PublisherSettings(), self.trimmer.free_bytes
        )

    async def take(self, log_id: str = LOG, start: int = 0) -> Lease:
        lease = await self.leases.acquire(log_id, start)
        assert lease is not None
        return lease

    async def restore(self, lease: Lease, next_index: int) -> Lease | None:
        return await self.leases.restore(lease, next_index, new_event())

    async def lost(self, leases: Sequence[Lease]) -> list[Lease]:
        """Renew leases and return those that are lost."""
        renewed = await self.leases.renew(leases)
        return [lease for lease, held in zip(leases, renewed, strict=True) if held is None]


async def log_status(client: Redis, log_id: str = LOG) -> LogStatus:
    (status,) = [log for log in (await snapshot(client, KEYS)).logs if log.log_id == log_id]
    return status


def assert_adds_up(status: LogStatus) -> None:
    assert status.next is not None
    assert status.start is not None
    accounted = status.published + status.duplicates + status.rejected + status.skipped
    assert accounted == status.next - status.start


async def stored(client: Redis, stream: str = "lite") -> list[StreamBatch]:
    return await history(client, KEYS, stream, "0-0", 100_000)


async def stored_names(client: Redis) -> list[str]:
    """Names of all messages in the streams, having checked that the streams agree."""
    names: dict[str, list[str]] = {}
    shape: dict[str, list[tuple[str, str, str]]] = {}
    for stream in STREAMS:
        batches = await stored(client, stream)
        texts = [msgspec.json.decode(text)[stream] for batch in batches for text in batch.messages]
        names[stream] = [text.partition("|")[0] for text in texts]
        shape[stream] = [(batch.id, batch.prev, batch.log) for batch in batches]
    assert shape["full"] == shape["lite"] == shape["domains"]
    return names["lite"]


class Following:
    """A reader in a task of its own, and all events it has yielded."""

    def __init__(self, follower: StreamReader) -> None:
        self.follower = follower
        self.events: list[Event] = []
        self._received = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for event in self.follower:
            self.events.append(event)
            self._received.set()

    async def until(self, condition: Callable[[list[Event]], object]) -> list[Event]:
        """Wait until the events meet a condition."""
        async with asyncio.timeout(10):
            while not condition(self.events):
                assert not self._task.done(), self._task
                self._received.clear()
                await self._received.wait()
        return self.events

    async def ready(self) -> None:
        """Wait until it knows where it begins."""
        await until(lambda: self.follower.connected or self.follower.positions)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()


@asynccontextmanager
async def following(
    client: Redis, streams: Sequence[str] = STREAMS, **options: object
) -> AsyncIterator[Following]:
    running = Following(StreamReader(client, KEYS, streams, **options))  # type: ignore[arg-type]
    try:
        yield running
    finally:
        await running.stop()


def retain(max_bytes: int, max_age_secs: float = 3600) -> dict[str, Retention]:
    return dict.fromkeys(STREAMS, Retention(max_bytes, max_age_secs))
