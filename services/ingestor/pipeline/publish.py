"""One window of entries -> batches in Redis.

    entries -> SHA-256 -> already published? -> messages of the new ones -> batches -> publish

Asking Redis first is what makes duplicates cheap: most entries of a busy second are already
known, and reading a certificate costs ten times what hashing it does. The answer may be out of
date a moment later, so the publish script checks again and says which ones were overtaken.

What runs once an entry is a plain loop over lists: no task, nothing but hashing and, for what is
new, writing its message. It awaits where a log's share of the CPU ends, or an entry is a large one
(`cpu.py`).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from hashlib import sha256

import msgspec
import structlog
from redis.exceptions import RedisError

from certbus.logs.leases import Lease, Leases
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
from ctparse.tree_head import TreeHead
from ctparse.wire_messages import Message, MessageWriter
from ingestor.cpu import LARGE, Cpu, Slices
from ingestor.metrics import LogMetrics
from ingestor.redis_retry import RedisRetry
from ingestor.verification.entry_proofs import Growth

LIVE_MESSAGES = 64
"""Messages in a batch that catches up with the log's head. Smaller ones than a backlog is read in
(`MAX_MESSAGES`): the first are on their way to clients while the next are read."""

_log = structlog.get_logger(__name__)


class LeaseLost(Exception):
    """Another worker owns the log now."""


class PositionChanged(Exception):
    """Redis goes on from another index than we do; `next` says where."""

    def __init__(self, next_index: int) -> None:
        super().__init__(next_index)
        self.next = next_index


class EntryCounts(msgspec.Struct):
    """What became of the entries of a log, under this lease.

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

    Args:
        publisher: into Redis.
        leases: to make the log again in a Redis that lost it.
        lease: the right to publish this log.
        writer: entry -> messages, for this log.
        patience: what to do while Redis is away.
        meter: counts for this log.
        cpu: shared by the logs of this process.
        clock: seconds since the epoch, for `seen`.

    Attributes:
        lease: the current one; `restore` may renew it.
        next: index of the next entry to publish.
        newest: when the log accepted the newest entry that was published, seconds since the epoch;
            None before the first.
        tally: what was done so far.
        barren: entries rejected since the last that was not; None before the first.
    """

    def __init__(
        self,
        publisher: Publisher,
        leases: Leases,
        lease: Lease,
        writer: MessageWriter,
        patience: RedisRetry,
        meter: LogMetrics,
        cpu: Cpu | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.lease = lease
        self.next = lease.next
        self.newest: float | None = None
        self.tally = EntryCounts()
        self.barren: int | None = None
        self._publisher = publisher
        self._leases = leases
        self._writer = writer
        self._write = writer.write
        self._cpu = cpu or Cpu()
        self._slices = Slices(self._cpu)
        self._patience = patience
        self._meter = meter
        self._clock = clock
        self._restoring = asyncio.Lock()

    async def publish(
        self,
        first: int,
        entries: list[Entry | Rejected],
        head: TreeHead,
        growth: Growth | None = None,
    ) -> None:
        """Publish a window, in order.

        Args:
            first: log index of `entries[0]`.
            entries: consecutive entries.
            head: the tree head that covers them.
            growth: what keeps the log's frontier, if they are proven.

        Raises:
            Moved: Redis is at another index (it came back a second older, or somebody skipped
                entries); go on from there.
            LeaseLost: another worker owns the log.
        """
        size = sum([len(e.certificate) for e in entries if type(e) is Entry])
        digests = await self._cpu.run(size, _digests, entries)
        # One question for the whole window; a certificate that is twice in it is asked for once.
        asked = [digest for digest in dict.fromkeys(digests) if digest]
        known = await self._patience(partial(self._publisher.find_known, asked))
        done = {digest for digest, is_known in zip(asked, known, strict=True) if is_known}
        at = 0
        caught_up = first + len(entries) >= head.size
        limit = LIVE_MESSAGES if caught_up else MAX_MESSAGES
        while at < len(entries):
            start = at
            batch, at = await self._batch(first, entries, digests, at, done, head, limit)
            if growth is not None:
                batch = msgspec.structs.replace(batch, frontier=growth.through(start, at))
            await self._send(batch)
        self.newest = _newest(entries) or self.newest

    async def _batch(
        self,
        window: int,
        entries: list[Entry | Rejected],
        digests: list[bytes],
        start: int,
        done: set[bytes],
        head: TreeHead,
        limit: int,
    ) -> tuple[Batch, int]:
        """The longest batch that begins at `entries[start]`, and where it ends.

        Args:
            window: log index of `entries[0]`.
            entries: the window.
            digests: SHA-256 of each entry's certificate.
            start: first entry of the batch.
            done: digests that need no message any more; those written now are added.
            head: the tree head that covers the window.
            limit: messages in the batch.
        """
        messages: list[Message] = []
        rejected: list[Rejected] = []
        size = 0
        end = start
        slices = self._slices
        slices.begin()
        while end < len(entries) and max(len(messages), len(rejected)) < limit:
            entry, digest = entries[end], digests[end]
            if digest not in done:
                if type(entry) is Entry and self._writer.size(entry) > LARGE:
                    written = await self._in_thread(entry, digest)
                else:
                    written = self._message(entry, digest)
                size += len(written.full if isinstance(written, Message) else written.raw)
                if size > MAX_BYTES and end > start:
                    break  # it opens the next batch
                if isinstance(written, Message):
                    messages.append(written)
                    done.add(digest)
                else:
                    rejected.append(written)
                if slices.over:
                    await slices.wait()
            end += 1
        slices.pause()
        batch = Batch(
            first=window + start,
            next=window + end,
            messages=messages,
            duplicates=end - start - len(messages) - len(rejected),
            rejected=rejected,
            tree_head=head,
        )
        return batch, end

    @property
    def spent(self) -> float:
        """Seconds that were spent on writing messages of the log's entries."""
        return self._slices.total

    async def _in_thread(self, entry: Entry, digest: bytes) -> Message | Rejected:
        """Write the message of a large entry."""
        return await self._slices.in_thread(self._message, entry, digest)

    def _message(self, entry: Entry | Rejected, digest: bytes) -> Message | Rejected:
        """An entry's message, or why it has none."""
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
        """Publish one batch, whatever it takes; `publish` says what is raised."""
        while True:
            lease = self.lease
            match await self._patience(partial(self._try, lease, batch)):
                case Published():
                    break
                case AlreadyPublished(positions=positions):
                    batch = drop_indexes(batch, positions)
                case Stale(next=next_index):
                    if next_index == batch.next:  # it had arrived; only the reply was lost
                        break
                    self.next = next_index
                    raise PositionChanged(next_index)
                case Missing():
                    await self.restore(lease)
                case Fenced() if self.lease is lease:
                    raise LeaseLost
        self.next = batch.next
        if batch.messages or batch.duplicates:
            self.barren = 0
        else:
            self.barren = (self.barren or 0) + len(batch.rejected)
        self.tally.published += len(batch.messages)
        self.tally.duplicates += batch.duplicates
        self.tally.rejected += len(batch.rejected)
        self.tally.problems += sum(len(message.problems) for message in batch.messages)
        self._meter.published(batch)

    async def _try(self, lease: Lease, batch: Batch) -> Outcome:
        began = time.perf_counter()
        try:
            outcome = await self._publisher.publish(lease, batch)
        except (RedisError, OSError) as error:
            self._meter.observe_publish(error, time.perf_counter() - began)
            raise
        self._meter.observe_publish(outcome, time.perf_counter() - began)
        return outcome

    async def restore(self, lease: Lease) -> None:
        """Make the log again in a Redis that was emptied, from `next`.

        Args:
            lease: the one that Redis does not know. If it has been replaced meanwhile, this does
                nothing.

        Raises:
            LeaseLost: another worker has made it again.
        """
        async with self._restoring:
            if lease is not self.lease:
                return
            restored = await self._patience(partial(self._leases.restore, lease, self.next))
            if restored is None:
                raise LeaseLost
            _log.warning(
                "redis had lost the log, made it again", log_id=lease.log_id, next=self.next
            )
            self.lease = restored


def _digests(entries: Sequence[Entry | Rejected]) -> list[bytes]:
    """SHA-256 of each certificate; empty for what is rejected."""
    return [sha256(e.certificate).digest() if type(e) is Entry else b"" for e in entries]


def _newest(entries: Sequence[Entry | Rejected]) -> float | None:
    """When the log accepted the last of these that can be read."""
    last = next((entry for entry in reversed(entries) if isinstance(entry, Entry)), None)
    return None if last is None else last.timestamp / 1000


def drop_indexes(batch: Batch, positions: Collection[int]) -> Batch:
    """The batch less the messages that were published elsewhere meanwhile: duplicates now."""
    gone = frozenset(positions)
    kept = [message for position, message in enumerate(batch.messages) if position not in gone]
    duplicates = batch.duplicates + len(batch.messages) - len(kept)
    return msgspec.structs.replace(batch, messages=kept, duplicates=duplicates)
