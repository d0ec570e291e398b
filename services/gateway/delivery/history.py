"""Older batches of the streams, read from Redis once for all clients that replay them.

Each read returns a page: a small ring, whose encoded bytes are shared, and the state of the stream
at that moment. From the state, `certbus.streams.continuity` decides whether a client continues what
it has. A read begins at the position of a client. Clients that disconnected together have different
messages of the same moment: a client whose batch is in a cached page gets that page, so after one
page these clients read the same pages.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final, Generic, TypeVar

import structlog
from msgspec.structs import replace
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
from gateway.config import V2
from gateway.delivery.encoding import gap_message_for
from gateway.delivery.ring_buffer import BehindRing, Ring, RingPosition, Slot
from gateway.delivery.v2_stream import v2_messages

_PAGE_BATCHES: Final = {"full": 4}  # a batch of full messages may have 4 MiB
_DEFAULT_PAGE_BATCHES: Final = 16
_MAX_CONCURRENT_READS: Final = 4
_UNBOUNDED: Final = 1 << 62
_MAX_INLINE_BYTES: Final = 512 * 1024  # a thread decodes more packed bytes than these

T = TypeVar("T")

log = structlog.get_logger(__name__)


class SharedRead(Generic[T]):
    """Reads for any number of callers with at most one command in progress.

    A result is never older than the call: callers during a read share the next one, which starts
    when that read ends.

    Args:
        read: reads Redis.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """Read; raises what `read` raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
        return await result_of(self._next)

    async def _after(self, running: asyncio.Task[T] | None) -> T:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        return await self._read()


async def result_of(task: asyncio.Future[T]) -> T:
    """Wait for a task; the cancellation of a caller, of which there may be several, leaves it.

    An exception is not reported if all callers were cancelled. `asyncio.shield` reports it: Python
    3.14 for each caller that was.
    """
    task.add_done_callback(_retrieve)
    await asyncio.wait([task])
    return task.result()


def _retrieve(task: asyncio.Future[T]) -> None:
    """Mark an exception as retrieved."""
    if not task.cancelled():
        task.exception()


class HistoryPage:
    """Consecutive entries of a stream, read at one moment.

    Args:
        stream: its name.
        before: the id after which the page was read; 0-0 for a page that was read from an id.
        entries: decoded.
        view: state of the stream in Redis, without `at` and `after`.

    Attributes:
        stream: its name.
        ring: the messages.
        links: of the entries.
        read_from: the id before its first entry that the cache also finds it by, if any.
    """

    def __init__(
        self, stream: str, before: str, entries: list[StreamBatch | Unreadable], view: View
    ) -> None:
        self.stream = stream
        self._view = view
        self.links = [entry.link for entry in entries]
        self.read_from: EntryId | None = None
        # Numbered below every position of the live ring: a position is in one of both.
        self.ring = Ring(stream, _UNBOUNDED, first=-_UNBOUNDED)
        self.ring.begin_after(str(self.links[0].prev) if self.links else before)
        for entry, link in zip(entries, self.links, strict=True):
            self._add(entry, link)

    def _add(self, entry: StreamBatch | Unreadable, link: Link) -> None:
        ring, stream = self.ring, self.stream
        at = ring.head.cursor.entry
        if isinstance(entry, Unreadable):
            gap = Gap(stream, str(at), str(link.id), f"unreadable: {entry.error}")
            ring.append_notice(gap_message_for(gap), replaces=str(link.id))
            return
        if link.prev != at:
            gap = Gap(stream, str(at), entry.id, NOT_RETAINED_REASON)
            ring.append_notice(gap_message_for(gap))
        elif entry.forgot:
            gap = Gap(stream, str(at), entry.id, FORGOTTEN)
            ring.append_notice(gap_message_for(gap))
        ring.append(entry.id, entry.prev, entry.messages)

    @property
    def epoch(self) -> str | None:
        """Epoch of the data in Redis at the time of the read."""
        return self._view.epoch

    def view(self, entry: EntryId) -> View:
        """Return the state of the stream for a reader at an entry of this page, or before it."""
        at = after = None
        for link in self.links:
            if link.id == entry:
                at = link
            elif link.id > entry:
                after = link
                break
        view = self._view
        return View(view.epoch, view.first, view.last, at, after, view.now)

    def slots_after(self, position: ReaderPosition) -> Iterator[Slot]:
        """Return the slots with what follows a reader in this page, or before it."""
        try:
            number = self.ring.find(position.cursor)
        except BehindRing:
            number = self.ring.first_after.number
        return self.ring.slots_from(number)

    def reader_position(self, position: RingPosition) -> ReaderPosition:
        """Return the stream position of a reader at a position of the ring."""
        after = position.resumes_after
        link = next((link for link in self.links if link.id == after.entry), None)
        return ReaderPosition(after.entry, after.position, self._view.epoch or "", link)


class HistoryReader:
    """Reads streams for lagging clients and caches the pages.

    Args:
        client: primary or replica.
        keys: names of the keys.
        max_bytes: of the cache, encoded bytes included; the page used last stays in any case.

    Attributes:
        size: bytes in the cache. Each page in it adds what its readers encode (`Ring.on_encoded`).
    """

    def __init__(self, client: Redis, keys: Keys, max_bytes: int) -> None:
        self.size = 0
        self._redis = client
        self._keys = keys
        self._max_bytes = max_bytes
        self._pages: OrderedDict[int, HistoryPage] = OrderedDict()
        self._at: dict[tuple[str, EntryId], HistoryPage] = {}  # the page with this batch
        self._after: dict[tuple[str, EntryId], HistoryPage] = {}  # with the next batch
        self._reads: dict[tuple[str, str, bool], asyncio.Task[HistoryPage]] = {}
        self._oldest = {
            stream: SharedRead(partial(oldest_id, client, keys, stream)) for stream in STREAMS
        }
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT_READS)

    def clear(self) -> None:
        """Empty the cache: Redis has lost data."""
        for page in list(self._pages.values()):
            self._drop(page)

    async def read(self, live: Ring, position: ReaderPosition) -> HistoryPage:
        """Read the page at the position of a reader.

        Args:
            live: the ring of the stream.
            position: of the reader.

        Returns:
            A page with the batch of the reader, or one that begins with the next batch. It is empty
            if the stream retains nothing newer.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        stream = live.stream
        if position.epoch is None:
            oldest = await self._without_trimmed(live)
            if position.is_oldest:
                found = None if oldest is None else self._use(self._at.get((stream, oldest)))
                return found or await self._read(live, "-", position)
        found = self._find(stream, position)
        if found is not None:
            return found
        knows_batch = position.epoch is not None and position.position is None
        return await self._read(
            live, f"({position.entry}" if knows_batch else str(position.entry), position
        )

    def _find(self, stream: str, position: ReaderPosition) -> HistoryPage | None:
        index = self._after if position.position is None else self._at
        return self._use(index.get((stream, position.entry)))

    def _use(self, page: HistoryPage | None) -> HistoryPage | None:
        if page is not None:
            self._pages.move_to_end(id(page))
            self._evict()  # pages grow by what is encoded of them
        return page

    async def _read(self, live: Ring, start: str, position: ReaderPosition) -> HistoryPage:
        # Only who has the whole batch can use a cached page that begins after it.
        key = (live.stream, start, position.position is None)
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.create_task(self._fetch(live, start, position))
            task.add_done_callback(lambda _: self._reads.pop(key))
        return await result_of(task)

    async def _fetch(self, live: Ring, start: str, position: ReaderPosition) -> HistoryPage:
        stream, source = live.stream, live.source
        async with self._slots:
            if not position.is_oldest and (found := self._find(stream, position)) is not None:
                return found  # another task has read it
            count = _PAGE_BATCHES.get(source, _DEFAULT_PAGE_BATCHES)
            raw = await read_piece(self._redis, self._keys, source, start, count)
            before = str(position.entry) if start.startswith("(") else FIRST_ID
            size = sum(len(fields.get(b"m", b"")) for _, fields in raw.entries)
            if stream == V2 or size > _MAX_INLINE_BYTES:
                entries = await asyncio.to_thread(_decode, stream, before, raw.entries)
            else:
                entries = _decode(stream, before, raw.entries)
        head = raw.head
        first = None if head.first is None else parse_entry_id(head.first)
        oldest = entries[0].link if entries else None
        last = parse_entry_id(head.last)
        view = View(head.epoch, first_of(first, oldest), last, now=raw.now)
        page = HistoryPage(stream, before, entries, view)
        if page.links:
            self._cache(page, None if start == "-" else position.entry)
        return page

    def _cache(self, page: HistoryPage, read_from: EntryId | None) -> None:
        newest = next(reversed(self._pages.values()), None)
        if newest is not None and newest.epoch != page.epoch:
            self.clear()
        self._pages[id(page)] = page
        self.size += page.ring.size
        page.ring.on_encoded = self._grow
        stream, links = page.stream, page.links
        for link in links:
            self._at[stream, link.id] = page
        for link in links[:-1]:
            self._after[stream, link.id] = page
        if read_from is not None and read_from < links[0].id:
            page.read_from = read_from
            self._after[stream, read_from] = page
        self._evict()

    def _grow(self, size: int) -> None:
        self.size += size

    def _evict(self) -> None:
        """Drop the least recently used pages that exceed the limit, but not the last one used."""
        while len(self._pages) > 1 and self.size > self._max_bytes:
            self._drop(next(iter(self._pages.values())))

    def _drop(self, page: HistoryPage) -> None:
        del self._pages[id(page)]
        self.size -= page.ring.size
        page.ring.on_encoded = None  # its readers may still encode
        entries = [link.id for link in page.links]
        if page.read_from is not None:
            entries.append(page.read_from)
        for index in (self._at, self._after):
            for key in [(page.stream, entry) for entry in entries]:
                if index.get(key) is page:  # a later page may have taken the key
                    del index[key]

    async def _without_trimmed(self, live: Ring) -> EntryId | None:
        """Drop the pages whose first batch Redis has trimmed.

        Returns:
            Id of the oldest entry that the stream retains.
        """
        oldest = await self._oldest[live.source]()
        for page in [page for page in self._pages.values() if page.stream == live.stream]:
            if oldest is None or page.links[0].id < oldest:
                self._drop(page)
        return oldest


def _decode(stream: str, before: str, entries: list[Entry]) -> list[StreamBatch | Unreadable]:
    codec = Codec()
    decoded: list[StreamBatch | Unreadable] = []
    for entry_id, fields in entries:
        batch = decode_entry(codec, stream, entry_id.decode(), fields, before)
        if isinstance(batch, Unreadable):
            log.error("unreadable batch", stream=stream, id=str(batch.link.id), error=batch.error)
        elif stream == V2:
            batch = replace(batch, messages=v2_messages(batch))
        decoded.append(batch)
        before = str(batch.link.id)
    return decoded
