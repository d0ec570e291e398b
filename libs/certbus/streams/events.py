"""What reading a stream yields: batches, and what is reported of them. Pure.

`continuity.py` decides what follows a batch, and whether there is a gap before it.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import get_args

import msgspec

from certbus.ids import FIRST_ID, parse_entry_id
from certbus.streams.codec import Codec, PackedMessages, UndecodableBatch
from certbus.streams.continuity import Link
from ctparse.v2_message import UNVERIFIED, Verification, Verified

NOT_RETAINED_REASON = "no longer retained"
"""The reason of a `Gap` that trimming has made."""

FORGOTTEN = "deduplication marks were lost: certificates that were sent before may come again"
"""The reason of a `Gap` before a batch with `forgot`; no message is missing there."""

CURSOR_AHEAD_REASON = "this id is from the future: live from now on"
"""The reason reported for a cursor above every id that was given out."""

RESET = "the server's store began or was emptied after this id; earlier ids are void"
"""The reason reported for what was read before Redis was emptied."""

_ODD = "unreadable"

_VERIFICATIONS = {
    f"{signature[0]}{inclusion[0]}".encode(): Verification(signature, inclusion)
    for signature, inclusion in product(get_args(Verified), repeat=2)
}
VERIFICATION_CODES = {verification: code for code, verification in _VERIFICATIONS.items()}
"""Values of the field `verified` of a batch: the initials of signature and inclusion."""


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
        forgot: whether deduplication marks were lost before it: from it on, certificates may come
            that were published before.
        verification: of all its entries; unverified in batches of older releases.
    """

    stream: str
    id: str
    prev: str
    log: str
    first: int
    last: int
    messages: Sequence[bytes]
    forgot: bool = False
    verification: Verification = UNVERIFIED

    @property
    def link(self) -> Link:
        """What identifies it among all batches."""
        return Link(parse_entry_id(self.id), parse_entry_id(self.prev), f"{self.log}:{self.first}")


class Unreadable(msgspec.Struct, frozen=True):
    """An entry of a stream that is no batch.

    Attributes:
        link: its id; `prev` as far as it can be read, else the id of the entry before it.
        error: what is wrong with it.
    """

    link: Link
    error: str


class Gap(msgspec.Struct, frozen=True):
    """Batches that this reader will never get.

    Attributes:
        stream: where they were.
        requested: entry id after which they were.
        oldest: entry id of the first batch that there is again.
        reason: one line.
    """

    stream: str
    requested: str
    oldest: str
    reason: str


class Rewind(msgspec.Struct, frozen=True):
    """Redis lost what followed `since`: certificates that were seen will come again.

    Attributes:
        stream: where.
        since: entry id of the newest batch that Redis still has of what was seen; None if it has
            none of it, or that is not known: everything retained comes again.
        seen: entry id of the newest batch that was seen.
    """

    stream: str
    since: str | None
    seen: str


class EpochChanged(msgspec.Struct, frozen=True):
    """Redis was emptied: all ids given out before are void, in every stream.

    Attributes:
        previous: the epoch that ended.
        epoch: the one that began.
    """

    previous: str
    epoch: str


Event = StreamBatch | Gap | Rewind | EpochChanged


def decode(
    codec: Codec,
    stream: str,
    entry_id: str,
    fields: Mapping[bytes, bytes],
    *,
    packed: bool = False,
) -> StreamBatch:
    """Make a batch of a stream entry.

    Args:
        codec: unpacks the messages.
        stream: its name.
        entry_id: of the entry.
        fields: of the entry.
        packed: whether the messages are unpacked when they are first read.

    Raises:
        UndecodableBatch: the entry is not what publish.lua writes.
    """
    try:
        expected = int(fields[b"n"])
        name, blob = fields[b"codec"].decode(), fields[b"m"]
        messages: Sequence[bytes] = (
            PackedMessages(codec, name, blob, expected) if packed else codec.unpack(name, blob)
        )
        batch = StreamBatch(
            stream,
            entry_id,
            str(parse_entry_id(fields[b"prev"].decode())),
            fields[b"log"].decode(),
            int(fields[b"first"]),
            int(fields[b"last"]),
            messages,
            b"forgot" in fields,
            _VERIFICATIONS.get(fields.get(b"verified", b""), UNVERIFIED),
        )
    except KeyError as error:
        raise UndecodableBatch(f"entry {entry_id} has no field {error}") from error
    except ValueError as error:
        raise UndecodableBatch(f"entry {entry_id}: {error}") from error
    if len(messages) != expected:
        raise UndecodableBatch(
            f"entry {entry_id} has {len(messages)} messages instead of {expected}"
        )
    return batch


def read_link(entry_id: str, fields: Mapping[bytes, bytes], before: str = FIRST_ID) -> Link:
    """Return what identifies a stream entry, without unpacking it.

    Args:
        entry_id: its id.
        fields: its fields.
        before: what is taken for its `prev` if that cannot be read.
    """
    entry = parse_entry_id(entry_id)
    try:
        prev = parse_entry_id(fields[b"prev"].decode())
        return Link(entry, prev, f"{fields[b'log'].decode()}:{int(fields[b'first'])}")
    except (KeyError, ValueError):
        return Link(entry, parse_entry_id(before), _ODD)


def decode_entry(
    codec: Codec,
    stream: str,
    entry_id: str,
    fields: Mapping[bytes, bytes],
    before: str = FIRST_ID,
    *,
    packed: bool = False,
) -> StreamBatch | Unreadable:
    """Make a batch of a stream entry, or return why it is none. See `decode` and `read_link`."""
    try:
        return decode(codec, stream, entry_id, fields, packed=packed)
    except UndecodableBatch as error:
        return Unreadable(read_link(entry_id, fields, before), str(error))
