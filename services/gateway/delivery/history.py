"""What the streams in Redis still hold, read once for all clients that ask for it.

Each read gives a piece: a small ring (`ring.Ring`), so that its forms are made once, too, and what
Redis showed at that moment, so that whoever continues there can tell whether it continues what it
has (`certbus.streams.continuity`). A read begins exactly where a client is. Clients that lost their
connection together are behind different messages of the same moment: a client whose batch is in a
piece that is remembered gets that piece, so after one piece they ask for the same.
"""

import asyncio
from collections import OrderedDict
from functools import partial
from typing import Final

import structlog
from redis.asyncio import Redis

from certbus.ids import FIRST_ID, EntryId, parse_entry_id
from certbus.keys import STREAMS, Keys
from certbus.streams.codec import Codec
from certbus.streams.continuity import Link, ReaderPosition, View, first_of
from certbus.streams.events import (
    FORGOTTEN,
    NOT_RETAINED_REASON,
    Gap,
    StreamBatch,
    Unreadable,
    decode_entry,
)
from certbus.streams.reader import Entry, oldest_id, read_piece
from gateway.delivery import gap_messages
from gateway.delivery.ring_buffer import Ring, RingPosition
from gateway.delivery.shared_read import SharedRead

_BATCHES: Final = {"full": 4}  # in one read; a batch of full messages may have 4 MiB
_BATCHES_ELSE: Final = 16
_READS_AT_ONCE: Final = 4
_UNBOUNDED: Final = 1 << 62
_LARGE: Final = (
    512 * 1024
)  # packed bytes that take the loop too long: they are unpacked in a thread

log = structlog.get_logger(__name__)


class HistoryPage:
    """Consecutive entries of a stream, at one moment.

    Args:
        stream: its name.
        before: id behind which it was read; 0-0 where it was read from an id on.
        entries: as they were decoded.
        view: what Redis showed of the stream; without `at` and `after`.

    Attributes:
        stream: its name.
        ring: the messages.
        links: of the entries.
    """

    def __init__(
        self, stream: str, before: str, entries: list[StreamBatch | Unreadable], view: View
    ) -> None:
        self.stream = stream
        self._view = view
        self.links = [entry.link for entry in entries]
        self._sizes: dict[EntryId, int] = {}
        # Numbered below every position of the live ring: a client that is here is not there.
        self.ring = Ring(stream, _UNBOUNDED, first=-_UNBOUNDED)
        self.ring.begin_after(str(self.links[0].prev) if self.links else before)
        for entry, link in zip(entries, self.links, strict=True):
            self._add(entry, link)

    def _add(self, entry: StreamBatch | Unreadable, link: Link) -> None:
        ring, stream = self.ring, self.stream
        at = ring.head.cursor.entry
        if isinstance(entry, Unreadable):
            gap = Gap(stream, str(at), str(link.id), f"unreadable: {entry.error}")
            ring.append_notice(gap_messages.for_event(gap), behind=str(link.id))
            return
        if link.prev != at:
            gap = Gap(stream, str(at), entry.id, NOT_RETAINED_REASON)
            ring.append_notice(gap_messages.for_event(gap))
        elif entry.forgot:
            gap = Gap(stream, str(at), entry.id, FORGOTTEN)
            ring.append_notice(gap_messages.for_event(gap))
        ring.append(entry.id, entry.prev, entry.messages)
        self._sizes[link.id] = len(entry.messages)

    @property
    def epoch(self) -> str | None:
        """Of Redis' data, when it was read."""
        return self._view.epoch

    def view(self, entry: EntryId) -> View:
        """What Redis showed to a reader at an entry id that the piece has, or was read from."""
        at = after = None
        for link in self.links:
            if link.id == entry:
                at = link
            elif link.id > entry:
                after = link
                break
        view = self._view
        return View(view.epoch, view.first, view.last, at, after)

    def place(self, position: RingPosition) -> ReaderPosition:
        """Where a reader is at a position of the ring."""
        entry, message = position.cursor
        is_whole = message is None or message + 1 == self._sizes.get(entry)
        link = next((link for link in self.links if link.id == entry), None)
        return ReaderPosition(entry, None if is_whole else message, self._view.epoch or "", link)


class HistoryReader:
    """Reads streams for lagging clients, and remembers what it read for the next ones.

    Args:
        client: primary or replica.
        keys: names of the keys.
        max_bytes: remembered; the least recently used gives way.
    """

    def __init__(self, client: Redis, keys: Keys, max_bytes: int) -> None:
        self._redis = client
        self._keys = keys
        self._max_bytes = max_bytes
        self._pieces: OrderedDict[int, HistoryPage] = OrderedDict()
        self._at: dict[tuple[str, EntryId], HistoryPage] = {}  # which has this batch
        self._after: dict[
            tuple[str, EntryId], HistoryPage
        ] = {}  # which has what follows this batch
        self._reads: dict[tuple[str, str], asyncio.Task[HistoryPage]] = {}
        self._oldest = {
            stream: SharedRead(partial(oldest_id, client, keys, stream)) for stream in STREAMS
        }
        self._slots = asyncio.Semaphore(_READS_AT_ONCE)

    @property
    def size(self) -> int:
        """Bytes remembered."""
        return sum(piece.ring.size for piece in self._pieces.values())

    def clear(self) -> None:
        """Remember nothing: Redis has lost what was read."""
        self._pieces.clear()
        self._at.clear()
        self._after.clear()

    async def read(self, stream: str, place: ReaderPosition) -> HistoryPage:
        """Read what there is where a reader is.

        Args:
            stream: its name.
            place: where it is.

        Returns:
            A piece that has its batch, or that begins with the first batch behind it. It has
            nothing if the stream retains nothing newer.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        if place.epoch is None:
            oldest = await self._without_trimmed(stream)
            if place.is_oldest:
                found = None if oldest is None else self._at.get((stream, oldest))
                return found or await self._read(stream, "-", place)
        found = self._find(stream, place)
        if found is not None:
            return found
        knows_batch = place.epoch is not None and place.position is None
        return await self._read(
            stream, f"({place.entry}" if knows_batch else str(place.entry), place
        )

    def _find(self, stream: str, place: ReaderPosition) -> HistoryPage | None:
        remembered = self._after if place.position is None else self._at
        piece = remembered.get((stream, place.entry))
        if piece is not None:
            self._pieces.move_to_end(id(piece))
        return piece

    async def _read(self, stream: str, start: str, place: ReaderPosition) -> HistoryPage:
        key = (stream, start)
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.create_task(self._fetch(stream, start, place))
            task.add_done_callback(lambda _: self._reads.pop(key))
        # Whoever waits may leave; the others still want it.
        return await asyncio.shield(task)

    async def _fetch(self, stream: str, start: str, place: ReaderPosition) -> HistoryPage:
        async with self._slots:
            if not place.is_oldest and (found := self._find(stream, place)) is not None:
                return found  # it has been read meanwhile
            count = _BATCHES.get(stream, _BATCHES_ELSE)
            raw = await read_piece(self._redis, self._keys, stream, start, count)
            before = str(place.entry) if start.startswith("(") else FIRST_ID
            if sum(len(fields.get(b"m", b"")) for _, fields in raw.entries) > _LARGE:
                entries = await asyncio.to_thread(_decode, stream, before, raw.entries)
            else:
                entries = _decode(stream, before, raw.entries)
        head = raw.head
        first = None if head.first is None else parse_entry_id(head.first)
        oldest = entries[0].link if entries else None
        view = View(head.epoch, first_of(first, oldest), parse_entry_id(head.last))
        piece = HistoryPage(stream, before, entries, view)
        if piece.links:
            self._remember(piece, None if start == "-" else place.entry)
        return piece

    def _remember(self, piece: HistoryPage, read_from: EntryId | None) -> None:
        newest = next(reversed(self._pieces.values()), None)
        if newest is not None and newest.epoch != piece.epoch:
            self.clear()
        self._pieces[id(piece)] = piece
        stream, links = piece.stream, piece.links
        for link in links:
            self._at[stream, link.id] = piece
        for link in links[:-1]:
            self._after[stream, link.id] = piece
        if read_from is not None and read_from < links[0].id:
            self._after[stream, read_from] = piece
        while len(self._pieces) > 1 and self.size > self._max_bytes:
            self._drop(next(iter(self._pieces.values())))

    def _drop(self, piece: HistoryPage) -> None:
        del self._pieces[id(piece)]
        for remembered in (self._at, self._after):
            for key in [key for key, held in remembered.items() if held is piece]:
                del remembered[key]

    async def _without_trimmed(self, stream: str) -> EntryId | None:
        """Forget pieces of which Redis has trimmed the first batch.

        Returns:
            Id of the oldest entry that the stream retains.
        """
        oldest = await self._oldest[stream]()
        for piece in [piece for piece in self._pieces.values() if piece.stream == stream]:
            if oldest is None or piece.links[0].id < oldest:
                self._drop(piece)
        return oldest


def _decode(stream: str, before: str, entries: list[Entry]) -> list[StreamBatch | Unreadable]:
    codec = Codec()
    decoded: list[StreamBatch | Unreadable] = []
    for entry_id, fields in entries:
        batch = decode_entry(codec, stream, entry_id.decode(), fields, before)
        if isinstance(batch, Unreadable):
            log.error("unreadable batch", stream=stream, id=str(batch.link.id), error=batch.error)
        decoded.append(batch)
        before = str(batch.link.id)
    return decoded
