"""Publishes the windows of one log to Redis, as batches.

    entries -> SHA-256 -> already published? -> messages of the new ones -> batches -> publish

The lookup in Redis makes duplicates cheap: most entries of a busy second are already known, and
parsing a certificate costs ten times as much as hashing it. Its result may be outdated a moment
later, so the publish script checks again and returns the messages that were published since.

The code that runs for each entry is a plain loop over lists, without tasks. It awaits where a log's
share of the CPU ends, or an entry is large (`cpu.py`).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256

import msgspec
import structlog
from redis.exceptions import RedisError

from certbus.ids import new_event
from certbus.logs.leases import Handover, Lease, Leases, SkipAhead
from certbus.streams.batch import (
    MAX_BYTES,
    MAX_MESSAGES,
    AlreadyPublished,
    Batch,
    Fenced,
    Missing,
    Outcome,
    Published,
    Stale,
)
from certbus.streams.publisher import Publisher
from ctparse.entry import Entry, Rejected, Unreadable
from ctparse.wire_messages import Message, MessageWriter
from ingestor.cpu import LARGE_BYTES, Cpu, Slices
from ingestor.metrics import LogMetrics
from ingestor.redis_retry import RedisRetry
from ingestor.window import VerifiedWindow

MAX_LIVE_MESSAGES = 64
"""Messages in a batch that reaches the log's head. Fewer than in a backlog (`MAX_MESSAGES`): the
first are sent to clients while the next are parsed."""

_log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """Another worker owns the log now."""


class PositionChanged(Exception):
    """Redis has another position for the log than this worker.

    Attributes:
        next: index of the next entry to publish.
    """

    def __init__(self, next_index: int) -> None:
        super().__init__(next_index)
        self.next = next_index


class EntryCounts(msgspec.Struct):
    """The entries of a log under this lease, by outcome.

    Attributes:
        published: entries whose messages were published.
        duplicates: entries whose certificate had been published before.
        rejected: entries that could not be read.
        problems: fields left out of published messages, because they could not be read.
    """

    published: int = 0
    duplicates: int = 0
    rejected: int = 0
    problems: int = 0


class WindowPublisher:
    """Publishes the windows of one log, under one lease.

    The follower's task calls `publish` and owns all attributes but two: the heartbeat may replace
    `lease` too (`restore`), and sets `rewound`.

    Args:
        publisher: writes batches to Redis.
        leases: restores the log in a Redis that lost it.
        lease: the right to publish this log.
        writer: writes the messages of an entry of this log.
        redis_retry: repeats Redis calls while Redis is away.
        metrics: those of this log.
        cpu: shared by the logs of this process.
        clock: seconds since the epoch, for `seen`.

    Attributes:
        lease: the current one.
        next: index of the next entry to publish.
        newest: when the log accepted the newest entry that is accounted for, seconds since the
            epoch; None before the first.
        counts: entries by outcome.
        barren: entries rejected since the last that was not; None before the first.
        rewound: set when Redis had a smaller position, until `check_position` has compared it.
    """

    def __init__(
        self,
        publisher: Publisher,
        leases: Leases,
        lease: Lease,
        writer: MessageWriter,
        redis_retry: RedisRetry,
        metrics: LogMetrics,
        cpu: Cpu | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lease = lease
        self.next = lease.next
        accepted = lease.entry_timestamp
        self.newest: float | None = None if accepted is None else accepted / 1000
        self.counts = EntryCounts()
        self.barren: int | None = None
        self.rewound = asyncio.Event()
        self._publisher = publisher
        self._leases = leases
        self._writer = writer
        self._write = writer.write
        self._cpu = cpu or Cpu()
        self._slices = Slices(self._cpu)
        self._redis_retry = redis_retry
        self._metrics = metrics
        self._clock = clock
        self._restoring = asyncio.Lock()

    @property
    def spent(self) -> float:
        """Seconds spent on writing messages of the log's entries."""
        return self._slices.total

    async def publish(self, window: VerifiedWindow) -> None:
        """Publish a window, in order. Each batch has the frontier after its last entry.

        Raises:
            PositionChanged: Redis has another position (it lost its last second, or an operator
                skipped entries), or lost what was published before the look-up.
            LeaseLost: another worker owns the log.
        """
        entries = window.entries
        size = sum([len(e.certificate) for e in entries if type(e) is Entry])
        digests = await self._cpu.run(size, _digests, entries)
        # One lookup for the window, with each certificate once.
        distinct = [digest for digest in dict.fromkeys(digests) if digest]
        known, known_at = await self._redis_retry(self._publisher.find_known_at, distinct)
        done = {digest for digest, is_known in zip(distinct, known, strict=True) if is_known}
        frontier = window.frontier_before and window.frontier_before.copy()
        reaches_head = window.first + len(entries) >= window.tree_head.size
        limit = MAX_LIVE_MESSAGES if reaches_head else MAX_MESSAGES
        start = 0
        sending: asyncio.Task[None] | None = None  # while Redis publishes, the next one is written
        try:
            while start < len(entries):
                batch, end = await self._batch(window, digests, start, done, limit)
                if frontier is not None:
                    if end == len(entries) and window.frontier_after is not None:
                        frontier = window.frontier_after
                    else:
                        frontier.extend(window.leaf_hashes[start:end])
                    batch = msgspec.structs.replace(batch, frontier=frontier.to_bytes())
                if sending is not None:
                    await sending
                batch = msgspec.structs.replace(batch, known_at=known_at)
                sending = asyncio.create_task(self._send(batch))
                await asyncio.sleep(0)  # the batch is on its way
                start = end
            if sending is not None:
                await sending
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.wait([sending])
                _ = sending.cancelled() or sending.exception()  # else asyncio reports it as lost

    async def _batch(
        self,
        window: VerifiedWindow,
        digests: list[bytes],
        start: int,
        done: set[bytes],
        limit: int,
    ) -> tuple[Batch, int]:
        """Return the longest batch that begins at `entries[start]`, and where it ends.

        Args:
            window: the window.
            digests: SHA-256 of each entry's certificate.
            start: first entry of the batch.
            done: digests that need no message any more; those written now are added.
            limit: messages in the batch.
        """
        entries = window.entries
        messages: list[Message] = []
        rejected: list[Rejected] = []
        size = 0
        end = start
        slices = self._slices
        slices.begin()
        while end < len(entries) and max(len(messages), len(rejected)) < limit:
            entry, digest = entries[end], digests[end]
            if digest not in done:
                if type(entry) is Entry and self._writer.size(entry) > LARGE_BYTES:
                    written = await slices.in_thread(self._message, entry, digest)
                else:
                    written = self._message(entry, digest)
                size += len(written.full if isinstance(written, Message) else written.raw)
                if size > MAX_BYTES and end > start:
                    break  # it begins the next batch
                if isinstance(written, Message):
                    messages.append(written)
                    done.add(digest)
                else:
                    rejected.append(written)
                if slices.exhausted:
                    await slices.wait()
            end += 1
        slices.pause()
        batch = Batch(
            first=window.first + start,
            next=window.first + end,
            messages=messages,
            duplicates=end - start - len(messages) - len(rejected),
            rejected=rejected,
            tree_head=window.tree_head,
            timestamp=_newest(entries, start, end),
            verification=window.verification,
        )
        return batch, end

    def _message(self, entry: Entry | Rejected, digest: bytes) -> Message | Rejected:
        """Return an entry's message, or why it has none."""
        if isinstance(entry, Rejected):
            return entry
        try:
            message = self._write(entry, digest, self._clock())
        except Unreadable as error:
            return Rejected(entry.index, str(error), entry.certificate)
        if len(message.full) > MAX_BYTES:
            reason = f"message of {len(message.full):,} bytes; a batch holds {MAX_BYTES:,}"
            return Rejected(entry.index, reason, entry.certificate)
        return message

    async def _send(self, batch: Batch) -> None:
        """Publish one batch, in as many attempts as it takes; raises as `publish` does."""
        while True:
            lease = self.lease
            match await self._redis_retry(self._try, lease, batch):
                case Published():
                    break
                case AlreadyPublished(positions=positions, known_at=known_at):
                    batch = drop_indexes(batch, positions)
                    batch = msgspec.structs.replace(batch, known_at=known_at)
                case Stale(next=next_index):
                    if next_index == batch.next:  # it was published; only the reply was lost
                        break
                    self.next = next_index
                    raise PositionChanged(next_index)
                case Missing() | Fenced():
                    await self.restore(lease)
        self.next = batch.next
        if batch.timestamp is not None:
            self.newest = batch.timestamp / 1000
        if batch.messages or batch.duplicates:
            self.barren = 0
        else:
            self.barren = (self.barren or 0) + len(batch.rejected)
        self.counts.published += len(batch.messages)
        self.counts.duplicates += batch.duplicates
        self.counts.rejected += len(batch.rejected)
        self.counts.problems += sum(len(message.problems) for message in batch.messages)
        self._metrics.count_batch(batch)

    async def _try(self, lease: Lease, batch: Batch) -> Outcome:
        began = time.perf_counter()
        try:
            outcome = await self._publisher.publish(lease, batch)
        except (RedisError, OSError) as error:
            self._metrics.observe_publish(error, time.perf_counter() - began)
            raise
        self._metrics.observe_publish(outcome, time.perf_counter() - began)
        return outcome

    async def check_position(self) -> None:
        """Compare `next` with Redis if the heartbeat found that it lost what it acknowledged.

        A larger position is that of another worker. If that one started the log later because
        Redis was emptied, the heartbeat restores the position of this one.

        Raises:
            PositionChanged: Redis has a smaller position.
        """
        if not self.rewound.is_set():
            return
        self.rewound.clear()
        stored = await self._redis_retry(self._leases.next_index, self.lease.log_id)
        if stored is not None and stored < self.next:
            self.next = stored
            raise PositionChanged(stored)

    async def handover(self) -> Handover:
        """Return what the earlier owners of the log have learned."""
        return await self._redis_retry(self._leases.handover, self.lease.log_id)

    async def skip_ahead(self, skip: SkipAhead) -> None:
        """Skip entries, from `next` on.

        Raises:
            PositionChanged, LeaseLost: as `publish`.
        """
        event = new_event()
        while True:
            lease = self.lease
            match await self._redis_retry(self._leases.skip_ahead, lease, skip, event):
                case "skipped":
                    break
                case int() as next_index:
                    self.next = next_index
                    raise PositionChanged(next_index)
                case "missing" | "fenced":
                    await self.restore(lease)
        _log.warning(
            "entries skipped",
            log_id=lease.log_id,
            first=skip.first,
            last=skip.end - 1,
            why=skip.reason,
        )
        self.next = skip.end
        self._metrics.count_skipped(skip.end - skip.first)

    async def restore(self, lease: Lease) -> None:
        """Restore the log in a Redis that lost it, as `Leases.restore` does.

        `next` stays. If the log begins at its start again, the next call for it shows that.

        Args:
            lease: the one that Redis rejects. If it was replaced since, this does nothing.

        Raises:
            LeaseLost: another worker has the log, or has restored it.
        """
        async with self._restoring:
            if lease is not self.lease:
                return
            restored = await self._redis_retry(self._leases.restore, lease, self.next, new_event())
            if restored is None:
                raise LeaseLost
            _log.warning("log state restored", log_id=lease.log_id, next=restored.next)
            self.lease = restored


def _digests(entries: Sequence[Entry | Rejected]) -> list[bytes]:
    """Return the SHA-256 of each certificate; empty for rejected entries."""
    return [sha256(e.certificate).digest() if type(e) is Entry else b"" for e in entries]


def _newest(entries: Sequence[Entry | Rejected], start: int, end: int) -> int | None:
    """Return when the log accepted the last readable entry of `[start, end)`, ms."""
    for index in range(end - 1, start - 1, -1):
        entry = entries[index]
        if isinstance(entry, Entry):
            return entry.timestamp
    return None


def drop_indexes(batch: Batch, positions: Collection[int]) -> Batch:
    """Return the batch without messages that others have published: duplicates now."""
    dropped = frozenset(positions)
    kept = [message for position, message in enumerate(batch.messages) if position not in dropped]
    duplicates = batch.duplicates + len(batch.messages) - len(kept)
    return msgspec.structs.replace(batch, messages=kept, duplicates=duplicates)
