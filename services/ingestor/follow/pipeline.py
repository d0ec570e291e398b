"""One window of entries -> batches in Redis.

    entries -> SHA-256 -> already published? -> messages of the new ones -> batches -> publish

Asking Redis first is what makes duplicates cheap: most entries of a busy second are already
known, and reading a certificate costs ten times what hashing it does. The answer may be out of
date a moment later, so the publish script checks again and says which ones were overtaken.

Everything here runs once an entry or more, so it is plain loops over lists: no task, no object
and no call an entry beyond hashing, and reading what is new.
"""

import time
from collections.abc import Callable
from hashlib import sha256

import msgspec
import structlog

from certbus.leases import Lease, Leases
from certbus.publisher import (
    Batch,
    Fenced,
    Missing,
    Published,
    Publisher,
    Repeated,
    Stale,
)
from ctparse.entry import Entry, Rejected
from ctparse.messages import Message, MessageWriter, Unreadable
from ctparse.treehead import TreeHead
from ingestor.outage import Patience

# The unit of everything downstream: what one script call, one stream entry and one write carry.
MAX_MESSAGES = 256
MAX_BYTES = 4 << 20

_log = structlog.get_logger()


class LeaseLost(Exception):  # noqa: N818  (an event, not a mistake)
    """Another worker owns the log now."""


class Moved(Exception):  # noqa: N818
    """Redis goes on from another index than we do; `next` says where."""

    def __init__(self, next_index: int) -> None:
        super().__init__(next_index)
        self.next = next_index


class Tally(msgspec.Struct):
    """What became of the entries of one log, since this process follows it."""

    published: int = 0
    duplicates: int = 0
    rejected: int = 0


class Pipeline:
    """Publishes the windows of one log, under one lease.

    Args:
        publisher: into Redis.
        leases: to re-create the log in a Redis that lost it.
        lease: the right to publish this log.
        writer: certificate -> messages, for this log.
        patience: what to do while Redis is away.
        clock: seconds since the epoch, for `seen`.
    """

    def __init__(
        self,
        publisher: Publisher,
        leases: Leases,
        lease: Lease,
        writer: MessageWriter,
        patience: Patience,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.tally = Tally()
        self._publisher = publisher
        self._leases = leases
        self._lease = lease
        self._writer = writer
        self._patience = patience
        self._clock = clock

    async def publish(self, first: int, entries: list[Entry | Rejected], head: TreeHead) -> None:
        """Publish a window, in order.

        Args:
            first: log index of `entries[0]`.
            entries: consecutive entries.
            head: the tree head that covers them.

        Raises:
            Moved: Redis is at another index (it was a second older, or a reply was lost); the
                caller goes on from there.
            LeaseLost: another worker owns the log.
        """
        digests = [sha256(e.certificate).digest() if type(e) is Entry else b"" for e in entries]
        # One question for the window; a certificate twice in it is asked for once.
        asked = list(dict.fromkeys(digests))
        known = await self._patience(lambda: self._publisher.known(asked))
        done = {digest for digest, yes in zip(asked, known, strict=True) if yes}
        done.discard(b"")
        at = 0
        while at < len(entries):
            batch, at = self._batch(first, entries, digests, at, done, head)
            await self._send(batch)

    def _batch(
        self,
        first: int,
        entries: list[Entry | Rejected],
        digests: list[bytes],
        at: int,
        done: set[bytes],
        head: TreeHead,
    ) -> tuple[Batch, int]:
        """The longest batch that may begin at `entries[at]`, and where it ends.

        `done` is what needs no message any more: known, or written before in this window.
        """
        start = at
        messages: list[Message] = []
        rejected: list[Rejected] = []
        size = 0
        seen = self._clock()
        write = self._writer.write
        while at < len(entries) and len(messages) + len(rejected) < MAX_MESSAGES:
            entry, digest = entries[at], digests[at]
            if digest in done:
                at += 1
                continue
            if type(entry) is not Entry:
                rejected.append(entry)
                at += 1
                continue
            try:
                message = write(entry, digest, seen)
            except Unreadable as error:
                rejected.append(Rejected(entry.index, str(error), entry.certificate))
                at += 1
                continue
            length = len(message.full)
            if length > MAX_BYTES:
                reason = f"message of {length:,} bytes, a batch holds {MAX_BYTES:,}"
                rejected.append(Rejected(entry.index, reason, entry.certificate))
                at += 1
                continue
            if size + length > MAX_BYTES:
                break
            size += length
            messages.append(message)
            done.add(digest)
            at += 1
        batch = Batch(
            first=first + start,
            next=first + at,
            messages=messages,
            duplicates=at - start - len(messages) - len(rejected),
            rejected=rejected,
            tree_head=head,
        )
        return batch, at

    async def _send(self, batch: Batch) -> None:
        """Publish one batch, whatever it takes; see `publish` for what is raised."""
        while True:
            outcome = await self._patience(partial(self._publisher.publish, self._lease, batch))
            match outcome:
                case Published():
                    break
                case Repeated(positions=positions):
                    batch = without(batch, positions)
                case Stale(next=next_index):
                    if next_index == batch.next:  # it was published, only the reply was lost
                        break
                    raise Moved(next_index)
                case Fenced():
                    raise LeaseLost
                case Missing():
                    _log.warning(
                        "log unknown to redis, re-creating it", log=self._name, next=batch.first
                    )
                    await self._patience(partial(self._leases.restore, self._lease, batch.first))
        self.tally.published += len(batch.messages)
        self.tally.duplicates += batch.duplicates
        self.tally.rejected += len(batch.rejected)


def without(batch: Batch, positions: Collection[int]) -> Batch:
    """The batch less the messages that were published elsewhere meanwhile: duplicates now."""
    kept = [m for position, m in enumerate(batch.messages) if position not in positions]
    overtaken = len(batch.messages) - len(kept)
    return msgspec.structs.replace(
        batch, messages=kept, duplicates=batch.duplicates + overtaken
    )
