"""A batch, published in one step, and the possible outcomes. Pure."""

import msgspec

from certbus.ids import FIRST_ID
from certbus.keys import DedupBy
from ctparse.entry import Rejected
from ctparse.tree_head import TreeHead
from ctparse.v2_message import UNVERIFIED, Verification
from ctparse.wire_messages import Message

MAX_MESSAGES = 256
"""In one batch."""

MAX_BYTES = 4 * 1024 * 1024
"""Of full messages in one batch."""


class Batch(msgspec.Struct, frozen=True):
    """The window [first, next) of a log, each entry being exactly one of three things.

    Attributes:
        first: index of the window's first entry: the log's `next` as the worker knows it.
        next: index after its last entry.
        messages: the new certificates, in log order.
        duplicates: how many were known already.
        rejected: what could not be read.
        tree_head: a newer tree head to keep with the log, if there is one.
        frontier: of the log's tree up to `next` (`merkle.Frontier.to_bytes`), if it is kept.
        timestamp: when the log accepted the last entry that could be read, published or not, ms
            since the epoch; None without such an entry.
        verification: of all its entries.
        known_at: the newest entry id when `duplicates` were counted. A Redis that has lost this
            entry may have lost their messages, so it rejects the batch as stale.
    """

    first: int
    next: int
    messages: list[Message]
    duplicates: int
    rejected: list[Rejected]
    tree_head: TreeHead | None = None
    frontier: bytes | None = None
    timestamp: int | None = None
    verification: Verification = UNVERIFIED
    known_at: str = FIRST_ID


class Published(msgspec.Struct, frozen=True):
    """The batch was published.

    Attributes:
        id: the entry id, None if the batch had no messages.
        next: index of the next entry of the log.
    """

    id: str | None
    next: int


class AlreadyPublished(msgspec.Struct, frozen=True):
    """Nothing was written: some messages were published before, from this or another log.

    Attributes:
        positions: of those messages in the batch. They are duplicates; publish without them.
        known_at: for that batch.
    """

    positions: list[int]
    known_at: str


class Stale(msgspec.Struct, frozen=True):
    """Nothing was written: the log continues at `next`, not at the batch's first entry.

    The batch had been published and the reply was lost, or Redis lost its last second: perhaps
    the messages of which the batch counts duplicates (`Batch.known_at`).
    """

    next: int


class Fenced(msgspec.Struct, frozen=True):
    """Nothing was written: another worker has taken the log."""


class Missing(msgspec.Struct, frozen=True):
    """Nothing was written: Redis was emptied. `Leases.restore` creates the log again."""


Outcome = Published | AlreadyPublished | Stale | Fenced | Missing


def check(batch: Batch) -> None:
    """Reject a batch whose counts do not add up, or that is too large.

    Raises:
        ValueError: the text states the counts and what is accepted.
    """
    entries = len(batch.messages) + batch.duplicates + len(batch.rejected)
    if entries != batch.next - batch.first or batch.duplicates < 0:
        raise ValueError(
            f"batch [{batch.first}, {batch.next}) accounts for {entries} entries: "
            f"{len(batch.messages)} messages, {batch.duplicates} duplicates, "
            f"{len(batch.rejected)} rejected"
        )
    size = sum(len(message.full) for message in batch.messages)
    if len(batch.messages) > MAX_MESSAGES or size > MAX_BYTES:
        raise ValueError(
            f"batch [{batch.first}, {batch.next}) has {len(batch.messages)} messages of {size} "
            f"bytes: at most {MAX_MESSAGES} and {MAX_BYTES}; split it"
        )


def duplicates_within(batch: Batch, by: DedupBy) -> list[int]:
    """Return the positions of certificates, or issuances, that the batch has a second time."""
    keys = [m.sha256 if by == "certificate" else m.tbs_sha256 for m in batch.messages]
    if len(set(keys)) == len(keys):
        return []
    seen: set[bytes] = set()
    positions = []
    for position, key in enumerate(keys):
        if key in seen:
            positions.append(position)
        seen.add(key)
    return positions
