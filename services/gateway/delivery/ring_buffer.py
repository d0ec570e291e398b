"""The newest part of one stream, in memory for all of its clients.

A ring is a queue of slots. A slot is a batch, or a part of a large one, and keeps the bytes of each
encoding: a batch is encoded once, whatever the number of clients. The ring is bounded by bytes,
encoded ones included: it drops the oldest slots.

Slots are numbered. A client's position (`RingPosition`) is between two slots: the number of the
next one, and the id of the last message before it. All clients that have everything share one
object, the ring's `head`; the test `is` distinguishes them from clients that lag.

Batches are cut into slots of about `SLOT_BYTES`, packed ones of `PACKED_SLOT_BYTES`: a slot is the
smallest write to a client, and a client that stops reading keeps the bytes of one write in memory.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from certbus.ids import FIRST_ID, Cursor, EntryId, message_id, parse_entry_id
from certbus.streams.codec import PackedMessages, PackedPart, UndecodableBatch
from certbus.streams.continuity import NOTHING
from gateway.delivery.encoding import Encoding, gap_message

if TYPE_CHECKING:
    from ctfilter import Filter, Match
    from gateway.delivery.compression import SharedContext, SharedFrames

log = structlog.get_logger(__name__)

SLOT_BYTES: Final = 64 * 1024
"""A slot ends with the message that reaches this size."""

PACKED_SLOT_BYTES: Final = 256 * 1024
"""The same for a slot that arrived packed. Making slots is the largest part of what a batch costs
that no client reads; a client receives such slots only after it resumed in front of them.

A packed slot is cut by the mean size of the messages of its batch. It exceeds this size where its
messages are longer than the mean."""

_END_OF_BATCH: Final = 1 << 62  # above every position in a batch


class RingPosition(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A position between two messages of a stream.

    Attributes:
        number: of the next slot.
        cursor: the last message before the position.
        total: number of messages that the ring has held before it.
        ends_batch: whether that message is the last one of its batch.
    """

    number: int
    cursor: Cursor
    total: int
    ends_batch: bool = False

    def __str__(self) -> str:
        """Return the id of the message before it."""
        return str(self.cursor)

    @property
    def resumes_after(self) -> Cursor:
        """What a client at this position has: a whole batch where that is known.

        Of a message that Redis no longer has it is not known whether more of its batch followed.
        """
        return Cursor(self.cursor.entry, None) if self.ends_batch else self.cursor


class BehindRing(Exception):
    """The ring has dropped what follows this position."""


class Slot:
    """Consecutive messages of one batch, or a notice to all clients.

    Attributes:
        entry: id of the batch.
        first: position of the first message in the batch.
        messages: JSON texts as they came from Redis; they may be packed.
        text_bytes: of the messages after unpacking, about.
        before: the position before the slot.
        after: the position after the slot.
        notice: whether the slot is a message without an id.
        encodings: the bytes in each encoding that has been requested, by its `batch`.
        shared: the bytes for clients in step; None if no client had negotiated them.
        on_unreadable: called when messages that cannot be unpacked are encoded.
        hits: filter -> numbers of the messages that pass it, and what matched; see `filtering`.
        generation: of the filters that `hits` has.
    """

    __slots__ = (
        "__weakref__", "after", "before", "encodings", "entry", "first", "generation", "hits",
        "messages", "notice", "on_unreadable", "shared", "text_bytes",
    )  # fmt: skip

    def __init__(
        self,
        entry: str,
        first: int,
        messages: Sequence[bytes],
        before: RingPosition,
        after: RingPosition,
        *,
        notice: bool = False,
        text_bytes: int | None = None,
    ) -> None:
        self.entry = entry
        self.first = first
        self.messages = messages
        self.text_bytes = sum(map(len, messages)) if text_bytes is None else text_bytes
        self.before = before
        self.after = after
        self.notice = notice
        self.encodings: dict[Callable[..., bytes], bytes] = {}
        self.shared: SharedFrames | None = None
        self.on_unreadable: Callable[[], None] | None = None
        self.hits: dict[Filter, list[tuple[int, list[Match]]]] | None = None
        self.generation = -1

    def encode(self, encoding: Encoding, skip: int = 0) -> bytes:
        """Encode the slot without its first `skip` messages."""
        if self.notice:
            return b"".join(map(encoding.notice, self.messages))
        try:
            messages = self.messages[skip:]
        except UndecodableBatch as error:
            return b"" if self.first else encoding.notice(self._unreadable(error))
        if encoding.selection is not None:
            return b"".join(
                encoding.batch(self.entry, self.first + number, (text,))
                for number, text in encoding.selection.select(self, skip)
            )
        return encoding.batch(self.entry, self.first + skip, messages)

    def _unreadable(self, error: UndecodableBatch) -> bytes:
        """Return the notice in place of a batch that cannot be unpacked."""
        log.error("unreadable batch", id=self.entry, error=str(error))
        if self.on_unreadable is not None:
            self.on_unreadable()
        before = str(self.before.cursor.entry)
        return gap_message(before, self.entry, f"unreadable: entry {self.entry}: {error}")

    @property
    def size(self) -> int:
        """Bytes held; packed messages count as if they were unpacked."""
        if self.shared is None and not self.encodings:
            return self.text_bytes
        shared = 0 if self.shared is None else len(self.shared.data)
        return self.text_bytes + shared + sum(map(len, self.encodings.values()))


class Ring:
    """The newest slots of one stream.

    Args:
        stream: its name.
        max_bytes: limit, encoded bytes included; the newest slot stays in any case.
        first: number of the first slot.
        on_unreadable: called for a packed batch that a client reads and that cannot be unpacked.

    Attributes:
        stream: its name.
        source: the stream of Redis that its messages are made of; else the same.
        head: the position after the newest slot.
        has_begun: whether the batch before the first slot is known.
        size: bytes held, encoded ones included.
        on_encoded: called with the bytes of each new encoding of a slot; None: not.
        context: compresses each slot that is appended; None: nothing does.
    """

    def __init__(
        self,
        stream: str,
        max_bytes: int,
        first: int = 0,
        on_unreadable: Callable[[], None] | None = None,
    ) -> None:
        self._on_unreadable = on_unreadable
        self.stream = self.source = stream
        self.head = RingPosition(first, Cursor(NOTHING, None), 0)
        self.has_begun = False
        self.size = 0
        self.on_encoded: Callable[[int], None] | None = None
        self.context: SharedContext | None = None
        self._origin: int | None = None  # number of the first slot of the present epoch
        self._is_cut_at_notice = False  # the slot dropped last was a notice
        self._max_bytes = max_bytes
        self._slots: deque[Slot] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing."""
        return not self._slots

    @property
    def first_after(self) -> RingPosition:
        """The position before the oldest slot."""
        return self._slots[0].before if self._slots else self.head

    @property
    def has_messages(self) -> bool:
        """Whether it holds a message."""
        return any(not slot.notice for slot in reversed(self._slots))

    def latest(self, count: int) -> list[tuple[str, bytes]]:
        """Return the ids and texts of the newest messages, the newest first."""
        found: list[tuple[str, bytes]] = []
        for slot in reversed(self._slots):
            if slot.notice or len(found) >= count:
                continue
            with suppress(UndecodableBatch):
                found += [
                    (message_id(slot.entry, slot.first + index), text)
                    for index, text in reversed(list(enumerate(slot.messages[:])))
                ]
        return found[:count]

    @property
    def oldest(self) -> str | None:
        """Entry id of the oldest batch."""
        return next((slot.entry for slot in self._slots if not slot.notice), None)

    @property
    def last_notices(self) -> list[Slot]:
        """The notices after the batch of the head, the oldest first."""
        entry = self.head.cursor.entry
        found = takewhile(
            lambda slot: slot.notice and slot.before.cursor.entry == entry, reversed(self._slots)
        )
        return list(found)[::-1]

    def _slots_after(self, position: RingPosition) -> Iterator[Slot]:
        """Return the slots after a position.

        Raises:
            BehindRing: the ring has dropped some of them.
        """
        skip = position.number - self.first_after.number
        if skip < 0:
            raise BehindRing
        return islice(self._slots, skip, None)

    def position_at(self, number: int) -> RingPosition | None:
        """Return the position before the slot with a number; None if the ring has dropped it.

        `begin_after` replaces the head by a position of the same number with another cursor.
        """
        index = number - self.first_after.number
        if index < 0:
            return None
        return self._slots[index].before if index < len(self._slots) else self.head

    def slots_from(self, number: int) -> Iterator[Slot]:
        """Return the slots from a number on."""
        return islice(self._slots, max(0, number - self.first_after.number), None)

    def clear(self) -> None:
        """Forget everything but the numbers of positions."""
        self._slots.clear()
        self.size, self.has_begun, self._origin = 0, False, None

    def begin_after(self, entry: str) -> None:
        """Set the batch after which an empty ring begins."""
        self.has_begun = True
        self.head = RingPosition(
            self.head.number, Cursor(parse_entry_id(entry), None), self.head.total
        )
        self._is_cut_at_notice = False
        if entry == FIRST_ID:
            self._origin = self.head.number

    def append(self, entry: str, prev: str, messages: Sequence[bytes]) -> None:
        """Add a batch.

        A batch whose id is not above the previous one voids all batches before it: Redis lost them,
        and its clock is slow. Notices that precede the new batch stay.

        Args:
            entry: its id.
            prev: id of the batch before it.
            messages: JSON texts, from position 0; they may be packed.
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
                self.head.number + 1,
                Cursor(entry_id, end - 1),
                self.head.total + end - first,
                end == len(messages),
            )
            if isinstance(messages, PackedMessages):
                share = messages.size * (end - first) // len(messages)
                part = PackedPart(messages, first, end)
                slot = Slot(entry, first, part, self.head, after, text_bytes=share)
                slot.on_unreadable = self._on_unreadable
            else:
                slot = Slot(entry, first, messages[first:end], self.head, after)
            if self.context is not None:
                slot.shared = self.context.frames(entry, first, slot.messages)
            self._add(slot)
            first = end

    def append_notice(
        self, message: bytes, *, replaces: str | None = None, resets: bool = False
    ) -> None:
        """Add a message without an id. Clients that resume before this position receive it.

        Args:
            message: JSON text.
            replaces: id of the unreadable entry in whose place the notice is, if any.
            resets: whether an epoch begins after the notice.
        """
        head = self.head
        cursor, ends_batch = head.cursor, head.ends_batch
        if replaces is not None:
            cursor, ends_batch = Cursor(parse_entry_id(replaces), None), True
        after = RingPosition(head.number + 1, cursor, head.total + 1, ends_batch)
        self._add(Slot("", 0, (message,), head, after, notice=True))
        if resets:
            self._origin = after.number

    def read(
        self,
        position: RingPosition,
        encoding: Encoding,
        limit: int,
        end: int | None = None,
        *,
        secs: float | None = None,
    ) -> tuple[bytes, RingPosition]:
        """Encode what follows a position.

        Args:
            position: of this ring.
            encoding: of the bytes.
            limit: bytes, uncompressed if that is more, which bounds the time of one read; the slot
                that reaches the limit is the last one.
            end: number of the slot before which the read ends; None for the head.
            secs: after which the read ends, before the slot whose messages are being evaluated; the
                next read continues with its other messages. None: not.

        Returns:
            The bytes, empty if nothing follows or time ended, and the position after them.

        Raises:
            BehindRing: the ring has dropped what follows.
        """
        parts: list[bytes] = []
        size = 0
        began = perf_counter()
        for slot in self._slots_after(position):
            if end is not None and position.number >= end:
                break
            if encoding.selection is None:
                data = self._encoded(slot, encoding)
                size += max(len(data), slot.text_bytes)
            else:
                if encoding.selection.evaluates(slot):
                    if secs is not None:
                        left = secs - (perf_counter() - began)
                        if not encoding.selection.evaluate(slot, left):
                            break
                    size += slot.text_bytes
                data = slot.encode(encoding)
                if secs is not None:  # an unreadable slot selects nothing
                    encoding.selection.forget((slot,))
                size += len(data)
            parts.append(data)
            position = slot.after
            if size >= limit:
                break
        return _join(parts), position

    def read_shared(
        self, position: RingPosition, encoding: Encoding, limit: int, *, in_step: bool
    ) -> tuple[bytes, RingPosition, bool]:
        """Read what follows a position, in the compressed form as far as a client can use it.

        Args:
            position: of this ring.
            encoding: of slots that are not in the compressed form.
            limit: bytes, uncompressed; the slot that reaches the limit is the last one.
            in_step: whether the client is in step; see `compression`.

        Returns:
            The bytes, empty if nothing follows, the position after them, and whether the client is
            in step after them.

        Raises:
            BehindRing: the ring has dropped what follows.
        """
        parts: list[bytes] = []
        size = 0
        for slot in self._slots_after(position):
            if slot.shared is not None and (in_step or slot.shared.restarts):
                in_step = True
                parts.append(slot.shared.data)
            else:
                in_step = in_step and slot.notice  # a notice is no part of the context
                parts.append(self._encoded(slot, encoding))
            position = slot.after
            size += slot.text_bytes
            if size >= limit:
                break
        return _join(parts), position, in_step

    def read_from_cursor(
        self, cursor: Cursor, encoding: Encoding
    ) -> tuple[bytes, RingPosition, int]:
        """Find the position after a message.

        Args:
            cursor: the message. Without a position, it is the last message of the batch; 0-0 is the
                start of the present epoch.
            encoding: of the bytes.

        Returns:
            The encoded rest of the slot with the message, the position after that slot, and the
            number of messages in the rest. Nothing, and the position after the message, if a slot
            ends with it: what follows is encoded once for all clients.

        Raises:
            BehindRing: the ring does not hold everything after the message, or not its batch.
        """
        slot, skip, position = self._locate(cursor)
        if slot is None:
            return b"", position, 0
        return slot.encode(encoding, skip), position, len(slot.messages) - skip

    def find(self, cursor: Cursor) -> int:
        """Return the number of the slot that has what follows a message.

        Raises:
            BehindRing: the ring does not hold everything after the message, or not its batch.
        """
        slot, _, position = self._locate(cursor)
        return position.number if slot is None else slot.before.number

    def _locate(self, cursor: Cursor) -> tuple[Slot | None, int, RingPosition]:
        """Find what follows a message.

        Returns:
            The slot with messages that follow, the number of its messages before them, and the
            position after the slot; without a slot, the position after the message.
        """
        if not self.has_begun:
            raise BehindRing
        if cursor.entry == NOTHING:
            return None, 0, self._epoch_start()
        requested = _order(cursor)
        if requested < _order(self.first_after.cursor):
            raise BehindRing
        entry = str(cursor.entry)
        position = self.head
        for slot in self._slots:
            before = slot.before.cursor
            if before.entry == cursor.entry and slot.entry != entry:
                position = slot.before  # after the whole batch
                break
            if slot.entry == entry and _order(slot.after.cursor) > requested:
                skip = requested[1] + 1 - slot.first
                return (slot, skip, slot.after) if skip else (None, 0, slot.before)
        if position.cursor.entry != cursor.entry or (
            position is self.first_after and self._is_cut_at_notice
        ):
            raise BehindRing
        return None, 0, position

    def _encoded(self, slot: Slot, encoding: Encoding) -> bytes:
        """Return a whole slot in an encoding, made once."""
        data = slot.encodings.get(encoding.batch)
        if data is None:
            data = slot.encodings[encoding.batch] = slot.encode(encoding)
            self.size += len(data)
            if self.on_encoded is not None:
                self.on_encoded(len(data))
        return data

    def _epoch_start(self) -> RingPosition:
        """Return the position before the first slot of the present epoch."""
        position = None if self._origin is None else self.position_at(self._origin)
        if position is None:
            raise BehindRing
        return position

    def _void(self, prev: str) -> None:
        """Remove all slots but the notices at the end, and place these after `prev`."""
        notices = deque[Slot]()
        while self._slots and self._slots[-1].notice:
            notices.appendleft(self._slots.pop())
        cursor = Cursor(parse_entry_id(prev), None)
        first = notices[0].before if notices else self.head
        position = RingPosition(first.number, cursor, first.total)
        for slot in notices:
            slot.before = position
            slot.after = position = RingPosition(position.number + 1, cursor, position.total + 1)
        self._slots = notices
        self.size = sum(slot.size for slot in notices)
        self.head = position
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


def _join(parts: list[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _order(cursor: Cursor) -> tuple[EntryId, int]:
    """Return the sort key of a cursor: a whole batch is above its last message."""
    return cursor.entry, _END_OF_BATCH if cursor.position is None else cursor.position


def _cuts(messages: Sequence[bytes]) -> Iterator[int]:
    """Cut a batch into slots; yield the index after the last message of each.

    Packed messages are cut by their mean size, so that they need not be unpacked.
    """
    if isinstance(messages, PackedMessages):
        step = max(len(messages) * PACKED_SLOT_BYTES // max(messages.size, 1), 1)
        yield from range(step, len(messages), step)
        yield len(messages)
        return
    size = 0
    for end, message in enumerate(messages, 1):
        size += len(message)
        if size >= SLOT_BYTES or end == len(messages):
            yield end
            size = 0
