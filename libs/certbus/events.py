"""What reading a stream yields, and how a reader knows that it has missed nothing. Pure.

Every batch names in `prev` the batch published before it. A reader that has everything up to X
and reads on gets F as the first batch after X:

    F.prev = X    F continues it
    F.prev > X    the batches after X up to F.prev are gone: trimmed, or the stream was not written
    F.prev < X    Redis lost what it had acknowledged after F.prev (its last second, after a
                  crash); the logs' entries come again, under new ids

An emptied Redis begins a new chain at 0-0, under a new epoch (`head.epoch`).
"""

from collections.abc import Mapping

import msgspec

from certbus.codec import Codec, Undecodable
from certbus.ids import ORIGIN, EntryId, parse_entry_id

NOT_RETAINED = "no longer retained"
"""The reason of a `Gap` that trimming has made."""

FUTURE = "this id is from the future: live from now on"
"""The reason told for a cursor above every id that was given out."""


class StreamBatch(msgspec.Struct, frozen=True, gc=False):
    """One batch of one stream.

    Attributes:
        stream: "full", "lite" or "domains".
        id: entry id, the same in every stream.
        prev: entry id of the batch published before this one.
        log: log id.
        first: index of the window's first entry in the log.
        last: index of the window's last entry; not every entry between is a message here.
        messages: JSON texts in log order, without newlines.
    """

    stream: str
    id: str
    prev: str
    log: str
    first: int
    last: int
    messages: list[bytes]


class Gap(msgspec.Struct, frozen=True):
    """Batches that this reader will never get.

    Attributes:
        stream: where they were.
        requested: entry id after which they were.
        oldest: entry id of the first batch that there is again.
        reason: for a person.
    """

    stream: str
    requested: str
    oldest: str
    reason: str


class Repeat(msgspec.Struct, frozen=True):
    """Redis lost what followed `since`: certificates that were seen will come again.

    Attributes:
        stream: where.
        since: entry id of the newest batch that Redis still has of what was seen.
        seen: entry id of the newest batch that was seen.
    """

    stream: str
    since: str
    seen: str


class NewEpoch(msgspec.Struct, frozen=True):
    """Redis was emptied: all ids given out before are void, in every stream.

    Attributes:
        previous: the epoch that ended.
        epoch: the one that began.
    """

    previous: str
    epoch: str


Event = StreamBatch | Gap | Repeat | NewEpoch


def discontinuity(stream: str, position: EntryId, entry: str, prev: str) -> Gap | Repeat | None:
    """Compare a batch with what was read before it.

    Args:
        stream: name of the stream.
        position: the newest batch that was read; ORIGIN if the oldest one is wanted, whatever
            came before it.
        entry: id of the batch that was read after it.
        prev: that batch's `prev`.
    """
    before = parse_entry_id(prev)
    if before == position or str(position) == ORIGIN:
        return None
    if before < position:
        return Repeat(stream, since=prev, seen=str(position))
    return Gap(stream, str(position), entry, NOT_RETAINED)


def decode(codec: Codec, stream: str, entry_id: str, fields: Mapping[bytes, bytes]) -> StreamBatch:
    """Make a batch of a stream entry.

    Raises:
        Undecodable: the entry is not what publish.lua writes.
    """
    try:
        messages = codec.unpack(fields[b"codec"].decode(), fields[b"m"])
        batch = StreamBatch(
            stream,
            entry_id,
            str(parse_entry_id(fields[b"prev"].decode())),
            fields[b"log"].decode(),
            int(fields[b"first"]),
            int(fields[b"last"]),
            messages,
        )
        expected = int(fields[b"n"])
    except KeyError as error:
        raise Undecodable(f"entry {entry_id} has no field {error}") from error
    except ValueError as error:
        raise Undecodable(f"entry {entry_id}: {error}") from error
    if len(messages) != expected:
        raise Undecodable(f"entry {entry_id} has {len(messages)} messages instead of {expected}")
    return batch
