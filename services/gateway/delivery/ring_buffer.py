"""The newest part of one stream, held in memory for all of its clients.

A ring is a queue of slots. A slot is a batch, or a part of a large one, and remembers each form
(`frames.Form`) it was asked for, so that a batch is encoded once however many clients read it.
The ring is bounded by bytes, forms included: the oldest slots give way.

Slots are numbered. A client's place is the `Position` between two slots: the number of the next
one, and the id of the last message before it. All clients that have everything share one
`Position` object, the ring's `head`; `is` tells them from those that lag.

Batches are cut into slots of about `SLOT_BYTES`, because a slot is the least that is written to a
client at once, and a client that stops reading holds on to what was being written to it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from certbus.ids import FIRST_ID, Cursor, EntryId, message_id, parse_entry_id
from certbus.streams.continuity import NOTHING
from gateway.delivery.encoding import Encoding

SLOT_BYTES: Final = 64 * 1024
"""A slot ends with the message that reaches this size."""

_LAST: Final = 1 << 62  # behind every position in a batch


class RingPosition(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A place between two messages of a stream.

    Attributes:
        number: of the slot that follows.
        cursor: the last message before it.
        total: how many messages the ring has ever held before it.
    """

    number: int
    cursor: Cursor
    total: int

    def __str__(self) -> str:
        """The id to resume from."""
        entry, position = self.cursor
        return str(entry) if position is None else message_id(str(entry), position)


class BehindRing(Exception):
    """The ring no longer holds what follows this position."""


class Slot:
    """Consecutive messages of one batch, or a notice to everyone.

    Attributes:
        entry: id of the batch.
        first: position of the first message in the batch.
        messages: JSON texts as they came from Redis.
        before: the place before the slot, behind the message that precedes it.
        after: the place behind it.
        forms: the slot in each form it was asked for.
    """

    __slots__ = ("after", "before", "encodings", "entry", "first", "messages", "notice")

    def __init__(
        self,
        entry: str,
        first: int,
        messages: Sequence[bytes],
        before: RingPosition,
        after: RingPosition,
        *,
        notice: bool = False,
    ) -> None:
        self.entry = entry
        self.first = first
        self.messages = messages
        self.before = before
        self.after = after
        self.notice = notice
        self.encodings: dict[Encoding, bytes] = {}

    def encode(self, form: Encoding, skip: int = 0) -> bytes:
        """The slot without its first `skip` messages, in one form."""
        if self.notice:
            return b"".join(map(form.notice, self.messages))
        return form.batch(self.entry, self.first + skip, self.messages[skip:])

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(map(len, self.messages)) + sum(map(len, self.encodings.values()))


class Ring:
    """The newest slots of one stream.

    Args:
        stream: its name.
        max_bytes: to hold, forms included; but always the newest slot.
        first: number of the first slot.

    Attributes:
        stream: its name.
        head: the place behind the newest slot.
        has_begun: whether it is known behind which batch it begins.
        size: bytes held, forms included.
    """

    def __init__(self, stream: str, max_bytes: int, first: int = 0) -> None:
        self.stream = stream
        self.head = RingPosition(first, Cursor(NOTHING, None), 0)
        self.has_begun = False
        self.size = 0
        self._origin: int | None = None  # the slot from which on it has all of the present epoch
        self._is_cut_at_notice = False  # the slot that gave way last was a notice
        self._max_bytes = max_bytes
        self._slots: deque[Slot] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._slots

    @property
    def first_after(self) -> RingPosition:
        """The place before the oldest slot."""
        return self._slots[0].before if self._slots else self.head

    @property
    def newest(self) -> tuple[str, bytes] | None:
        """The newest message and its id."""
        for slot in reversed(self._slots):
            if not slot.notice:
                position = slot.first + len(slot.messages) - 1
                return message_id(slot.entry, position), slot.messages[-1]
        return None

    def latest(self, count: int) -> list[tuple[str, bytes]]:
        """The newest messages and their ids, the newest first."""
        found = (
            (message_id(slot.entry, slot.first + index), slot.messages[index])
            for slot in reversed(self._slots)
            if not slot.notice
            for index in reversed(range(len(slot.messages)))
        )
        return list(islice(found, count))

    @property
    def oldest(self) -> str | None:
        """Entry id of the oldest batch."""
        return next((slot.entry for slot in self._slots if not slot.notice), None)

    def begin_after(self, entry: str) -> None:
        """Say behind which batch an empty ring begins."""
        self.has_begun = True
        self.head = RingPosition(
            self.head.number, Cursor(parse_entry_id(entry), None), self.head.total
        )
        self._is_cut_at_notice = False
        if entry == FIRST_ID:
            self._origin = self.head.number

    def append(self, entry: str, prev: str, messages: Sequence[bytes]) -> None:
        """Add a batch.

        A batch whose id is not above that of the one before it voids all batches before it: Redis
        lost them, and its clock is behind. Notices that precede the new batch stay.

        Args:
            entry: its id.
            prev: id of the batch before it.
            messages: JSON texts, from position 0.
        """
        entry_id = parse_entry_id(entry)
        if entry_id <= self.head.cursor.entry:
            self._void(prev)
        elif not self._slots:
            self.begin_after(prev)
        if prev == FIRST_ID:
            self._origin = self.head.number
        first = 0
        for end in _cuts(messages):
            after = RingPosition(
                self.head.number + 1, Cursor(entry_id, end - 1), self.head.total + end - first
            )
            self._add(Slot(entry, first, messages[first:end], self.head, after))
            first = end

    def append_notice(
        self, message: bytes, *, behind: str | None = None, resets: bool = False
    ) -> None:
        """Add a message that has no id. Who resumes from before this place gets it, too.

        Args:
            message: JSON text.
            behind: id of the entry that it stands for, if it stands for one.
            resets: whether an epoch begins behind it.
        """
        head = self.head
        cursor = head.cursor if behind is None else Cursor(parse_entry_id(behind), None)
        after = RingPosition(head.number + 1, cursor, head.total + 1)
        self._add(Slot("", 0, (message,), head, after, notice=True))
        if resets:
            self._origin = after.number

    def read(
        self, position: RingPosition, form: Encoding, limit: int
    ) -> tuple[bytes, RingPosition]:
        """Encode what follows a position.

        Args:
            position: of this ring.
            form: in which to encode.
            limit: bytes; no further slot is added once they are reached.

        Returns:
            The bytes, empty if nothing follows, and the position behind them.

        Raises:
            Overrun: what follows is no longer held.
        """
        skip = position.number - self.first_after.number
        if skip < 0:
            raise BehindRing
        parts: list[bytes] = []
        size = 0
        for slot in islice(self._slots, skip, None):
            data = slot.encodings.get(form)
            if data is None:
                data = slot.encodings[form] = slot.encode(form)
                self.size += len(data)
            parts.append(data)
            position = slot.after
            size += len(data)
            if size >= limit:
                break
        return (parts[0] if len(parts) == 1 else b"".join(parts)), position

    def read_from_cursor(self, cursor: Cursor, form: Encoding) -> tuple[bytes, RingPosition, int]:
        """Find the place behind a message.

        Args:
            cursor: the message. Without a position, it stands for all messages of a batch; 0-0 for
                nothing of the present epoch.
            form: in which to encode.

        Returns:
            The rest of the slot that the message is in, encoded, the position behind that, and how
            many messages the rest has.

        Raises:
            Overrun: the ring does not hold everything behind it, or does not know its batch.
        """
        if not self.has_begun:
            raise BehindRing
        if cursor.entry == NOTHING:
            return b"", self._behind_origin(), 0
        wanted = _order(cursor)
        if wanted < _order(self.first_after.cursor):
            raise BehindRing
        entry = str(cursor.entry)
        place = self.head
        for slot in self._slots:
            before = slot.before.cursor
            if before.entry == cursor.entry and slot.entry != entry:
                place = slot.before  # the whole batch is before it
                break
            if slot.entry == entry and _order(slot.after.cursor) > wanted:
                skip = wanted[1] + 1 - slot.first
                return slot.encode(form, skip), slot.after, len(slot.messages) - skip
        if place.cursor.entry != cursor.entry or (
            place is self.first_after and self._is_cut_at_notice
        ):
            raise BehindRing
        return b"", place, 0

    def _behind_origin(self) -> RingPosition:
        """The place from which on everything of the present epoch follows."""
        if self._origin is None or self._origin < self.first_after.number:
            raise BehindRing
        index = self._origin - self.first_after.number
        return self._slots[index].before if index < len(self._slots) else self.head

    def _void(self, prev: str) -> None:
        """Remove all slots but the notices at the end, which are behind `prev` from now on."""
        notices = deque[Slot]()
        while self._slots and self._slots[-1].notice:
            notices.appendleft(self._slots.pop())
        cursor = Cursor(parse_entry_id(prev), None)
        first = notices[0].before if notices else self.head
        place = RingPosition(first.number, cursor, first.total)
        for slot in notices:
            slot.before = place
            slot.after = place = RingPosition(place.number + 1, cursor, place.total + 1)
        self._slots = notices
        self.size = sum(slot.size for slot in notices)
        self.head = place
        self.has_begun = True
        self._is_cut_at_notice = False

    def _add(self, slot: Slot) -> None:
        self._slots.append(slot)
        self.head = slot.after
        self.size += slot.size
        while self.size > self._max_bytes and len(self._slots) > 1:
            slot = self._slots.popleft()
            self.size -= slot.size
            self._is_cut_at_notice = slot.notice


def _order(cursor: Cursor) -> tuple[EntryId, int]:
    """What cursors are compared by: a whole batch ends behind its last message."""
    return cursor.entry, _LAST if cursor.position is None else cursor.position


def _cuts(messages: Sequence[bytes]) -> Iterator[int]:
    """Where to cut a batch into slots: the index behind each slot's last message."""
    size = 0
    for end, message in enumerate(messages, 1):
        size += len(message)
        if size >= SLOT_BYTES or end == len(messages):
            yield end
            size = 0
