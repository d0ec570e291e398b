"""Ids: of a batch, of a message, and the cursors that clients resume with.

A batch has a Redis stream entry id, `<ms>-<seq>`, the same in every stream. Message number k of
a batch has the id `<ms>-<seq>-<k>`. Ids are text wherever they are stored or sent; they are
compared as numbers.
"""

import re
import secrets
from typing import NamedTuple

FIRST_ID = "0-0"
"""The id before every other: `prev` of the first batch of an epoch."""

MAX_PART = (1 << 64) - 1
"""Redis holds each half of an entry id in 64 bits."""

_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)
_CURSOR = re.compile(r"([0-9]{1,16})(?:-([0-9]{1,16})(?:-([0-9]{1,4}))?)?", re.ASCII)


class EntryId(NamedTuple):
    """Id of a batch as numbers, so that it can be compared."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


class Cursor(NamedTuple):
    """The position of a client, which has everything up to and including this message.

    Attributes:
        entry: the batch.
        position: the message in the batch; None for the whole batch.
        is_moment: whether the client requests what is newer than a time: `entry` need not be the id
            of a batch.
    """

    entry: EntryId
    position: int | None
    is_moment: bool = False

    def __str__(self) -> str:
        """Return the text that `parse_cursor` reads."""
        return str(self.entry) if self.position is None else f"{self.entry}-{self.position}"


def parse_entry_id(text: str) -> EntryId:
    """Read `<ms>-<seq>`.

    Raises:
        ValueError: it is not of that form, or a half of it needs more than 64 bits.
    """
    match = _ENTRY_ID.fullmatch(text)
    if match is not None:
        ms, seq = int(match[1]), int(match[2])
        if ms <= MAX_PART and seq <= MAX_PART:
            return EntryId(ms, seq)
    raise ValueError(f"{text[:60]!r} is not an entry id: expected <ms>-<seq>")


def parse_cursor(text: str) -> Cursor:
    """Read `<ms>-<seq>-<position>`, `<ms>-<seq>`, or a moment `<ms>`; `0` is before everything.

    Raises:
        ValueError: it is none of them.
    """
    match = _CURSOR.fullmatch(text)
    if match is None:
        forms = "<ms>-<seq>-<position>, <ms>-<seq> or <ms>"
        raise ValueError(f"{text[:60]!r} is not a cursor: expected {forms}")
    ms, seq, position = match.groups()
    entry = EntryId(int(ms), int(seq or 0))
    is_moment = seq is None and entry.ms > 0
    return Cursor(entry, None if position is None else int(position), is_moment)


def message_id(entry_id: str, position: int) -> str:
    """Id of message number `position` of a batch."""
    return f"{entry_id}-{position}"


def new_event() -> str:
    """Return a random name for one event, so that a repeated call counts it once."""
    return secrets.token_hex(8)
