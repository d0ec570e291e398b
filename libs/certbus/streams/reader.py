"""Reading the streams, as a gateway does it.

A `StreamReader` reads the streams from entry ids with one blocking XREAD, so no batch between two
reads is lost; `continuity.py` decides what follows. Batches are unpacked one by one as the caller
takes them, so a gateway that is catching up holds `COUNT` packed batches of each stream.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import redis.exceptions
import structlog
from redis.asyncio import Redis

from certbus.connection import connects
from certbus.errors import UNAVAILABLE
from certbus.ids import FIRST_ID, EntryId, parse_entry_id
from certbus.keys import STREAMS, Keys
from certbus.store import script_text
from certbus.streams.codec import Codec
from certbus.streams.continuity import (
    NOTHING,
    OLDEST,
    Action,
    ForkSearch,
    Link,
    LostRanges,
    ReaderPosition,
    Trail,
    View,
    decide,
    first_of,
)
from certbus.streams.events import (
    FORGOTTEN,
    NOT_RETAINED_REASON,
    EpochChanged,
    Event,
    Gap,
    Rewind,
    Unreadable,
    decode_entry,
    read_link,
)

COUNT = 16
"""Batches of a stream in one read."""

_STREAM_RANGE = script_text("streams/lua/stream_range.lua")
_UNREAD_PAUSES = 4  # between reads while the messages of no stream are read
_UNREAD_PAUSE_SECS = 0.05
_BLOCK_MS = 1000  # of a read; after an empty one, the reader checks whether Redis was rewound
_RETRY_SECS = (0.05, 0.1, 0.2, 0.5, 1.0)  # between attempts to reach Redis
_PRECEDING = 4  # batches before the first one that a reader reads, to recognise a fork
_REPLICA_CHECK_SECS = 0.2  # between checks whether a replica has reached the primary
_HEAD = ("epoch", "last", "streams", "first")

log = structlog.get_logger(__name__)

Entry = tuple[bytes, dict[bytes, bytes]]
"""A stream entry as redis-py gives it: id and fields."""


class Malformed(redis.exceptions.RedisError):
    """Redis holds an invalid value. The text states where, and what is accepted."""


class Head(msgspec.Struct, frozen=True):
    """The state of all streams.

    Attributes:
        epoch: random; another one means that Redis was emptied. None if nothing was ever written.
        last: newest entry id.
        streams: those being written; a name that this release does not know is left out.
        first: id of the epoch's first batch; None if there is none, or a release before this field
            published it.
    """

    epoch: str | None
    last: str
    streams: tuple[str, ...]
    first: str | None = None


async def read_head(client: Redis, keys: Keys) -> Head:
    """Read the state of all streams.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached, or holds what is no such state.
    """
    values: Any = await client.hmget(keys.head, list(_HEAD))
    return _head(keys, values)


def _head(keys: Keys, values: Sequence[bytes | None]) -> Head:
    epoch, last, streams, first = (
        None if value is None else value.decode("utf-8", "replace") for value in values
    )
    for name, entry in (("last", last), ("first", first)):
        try:
            parse_entry_id(entry or FIRST_ID)
        except ValueError as error:
            raise Malformed(f"{keys.head} has {name}: {error}") from error
    written = tuple(name for name in (streams or "").split() if name in STREAMS)
    return Head(epoch, last or FIRST_ID, written, first)


class Piece(msgspec.Struct, frozen=True):
    """Consecutive entries of a stream, and the state of all streams at the same moment.

    Attributes:
        head: the state.
        entries: the oldest first.
        now: TIME of that Redis, milliseconds since the epoch.
    """

    head: Head
    entries: list[Entry]
    now: int

    def view(self, entry: EntryId) -> View:
        """What it shows to a reader at an entry id, if it was read from there on."""
        links = self.links()
        at = links[0] if links and links[0].id == entry else None
        after = next((link for link in links if link.id > entry), None)
        return View(
            self.head.epoch,
            first_of(_entry_id(self.head.first), at or after),
            parse_entry_id(self.head.last),
            at,
            after,
            self.now,
        )

    def links(self) -> list[Link]:
        """What identifies the entries."""
        return [read_link(entry_id.decode(), fields) for entry_id, fields in self.entries]


def _entry_id(text: str | None) -> EntryId | None:
    return None if text is None else parse_entry_id(text)


async def read_piece(client: Redis, keys: Keys, stream: str, start: str, count: int) -> Piece:
    """Read entries of a stream and the state of all streams at one moment.

    Args:
        client: primary or replica.
        keys: names of the keys.
        stream: its name.
        start: entry id to begin with; with "(" before it, to begin after; "-" for the oldest.
        count: entries at most.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached, or holds what is no such state.
    """
    async with client.pipeline(transaction=True) as transaction:
        transaction.hmget(keys.head, list(_HEAD))
        transaction.xrange(keys.stream(stream), min=start, count=count)
        transaction.time()
        values, entries, (seconds, microseconds) = await transaction.execute()
    return Piece(_head(keys, values), entries, seconds * 1000 + microseconds // 1000)


class StreamReader:
    """Follows streams for as long as it is iterated, whatever happens to Redis.

    Iterating gives the batches of each stream in order, and beside them what is to be reported of
    them: a `Gap`, a `Rewind`, an `EpochChanged`.

    Args:
        client: what to read from, the primary or a replica.
        keys: names of the keys.
        streams: which streams to read.
        after: entry ids to continue from, by stream ("0-0": from the oldest batch); a stream that
            is not in it begins with the next batch to be published.
        primary: if `client` is a replica: distinguishes a late replica from a rewound Redis.

    Attributes:
        is_read: whether the messages of a stream are read now; those of others are unpacked when
            they are first read. While none is, batches are read 5 times a second.
        connected: whether the last attempt to read succeeded.
        last_error: why not; None if it did.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        streams: Sequence[str],
        after: Mapping[str, str] | None = None,
        *,
        primary: Redis | None = None,
    ) -> None:
        self.is_read: Callable[[str], bool] = lambda _: True
        self.connected = False
        self.last_error: str | None = None
        self._redis = client
        self._primary = primary or client
        self._keys = keys
        self._streams = tuple(streams)
        self._names = {keys.stream(name).encode(): name for name in STREAMS}
        self._trails = {name: Trail(_behind(entry)) for name, entry in (after or {}).items()}
        self._epoch: str | None = None
        self._first: EntryId | None = None
        self._check_next = True  # whether the head of Redis is to be read before the next batches
        self._behind = False  # whether it reads a replica that is not where the primary is
        self._check_all = False  # whether Redis has still what was read last is to be checked
        self._connects = 0  # of the client, before Redis was last checked
        self._has_more = False  # whether the last read has left batches
        self._codec = Codec()

    @property
    def positions(self) -> dict[str, str]:
        """Entry id of the newest batch given out (or begun after), by stream.

        Empty until Redis has first been reached.
        """
        return {name: str(trail.place.entry) for name, trail in self._trails.items()}

    def losses(self, stream: str) -> LostRanges:
        """The ranges of ids of a stream that it has seen Redis lose."""
        trail = self._trails.get(stream)
        return LostRanges() if trail is None else trail.losses

    def has_read(self, stream: str, entry: EntryId) -> bool:
        """Whether a batch is among the newest that it has read."""
        trail = self._trails.get(stream)
        return trail is not None and any(link.id == entry for link in trail.links)

    def set_streams(self, streams: Sequence[str]) -> None:
        """Read these streams from now on; a new one from the next batch to be published."""
        self._streams = tuple(streams)
        self._trails = {name: trail for name, trail in self._trails.items() if name in streams}

    async def __aiter__(self) -> AsyncIterator[Event]:
        failures = 0
        while True:
            try:
                async with aclosing(self._read_once()) as events:
                    async for event in events:
                        yield event
                failures = 0
            except redis.exceptions.RedisError as error:
                if not failures:
                    self._log_failure(error)
                self.connected, self.last_error = False, str(error)
                self._check_next = self._check_all = True
                await asyncio.sleep(_RETRY_SECS[min(failures, len(_RETRY_SECS) - 1)])
                failures += 1

    async def _read_once(self) -> AsyncGenerator[Event]:
        """Check the position of the reader if that is due, then read and yield what follows it."""
        if self._check_next or self._trails.keys() != set(self._streams):
            for event in await self._check_head():
                yield event
            if self._behind:
                self.connected = True
                await asyncio.sleep(_REPLICA_CHECK_SECS)
                return
        entries = await self._read()
        self.connected, self.last_error = True, None
        self._check_next = not entries or self._epoch is None
        if self._connects != connects(self._redis):
            # Redis may have restarted, and lost or replaced batches that were read.
            self._check_all = self._check_next = True
            return
        for stream, entry in entries:
            if stream not in self._trails:
                continue  # it was left out while it was read
            events, continues = await self._take(stream, entry)
            for event in events:
                yield event
            if not continues:
                self._check_next = True
                break

    @staticmethod
    def _log_failure(error: redis.exceptions.RedisError) -> None:
        """Log why a read failed: an outage, or a key that does not hold what it should."""
        if isinstance(error, UNAVAILABLE):
            log.warning("redis read failed", error=str(error))
        else:
            log.error("redis read rejected", error=str(error), exc_info=error)

    async def _read(self) -> list[tuple[str, Entry]]:
        if not self._trails:
            await asyncio.sleep(_BLOCK_MS / 1000)
            return []
        if not self._has_more:
            await self._pause()
        after = {name: str(trail.place.entry) for name, trail in self._trails.items()}
        if not after:
            return []  # other streams were set during the pause
        reply: Any = await self._redis.xread(
            {self._keys.stream(name): entry for name, entry in after.items()},
            count=COUNT,
            block=_BLOCK_MS,
        )
        self._has_more = any(len(entries) == COUNT for _, entries in reply or ())
        return [
            (name, entry)
            for key, entries in reply or ()
            for entry in entries
            if (name := self._names[key]) in self._trails
            and str(self._trails[name].place.entry) == after[name]  # else it was begun anew
        ]

    async def _pause(self) -> None:
        """Wait while no stream is read, for more batches in one read.

        Redis answers a blocked read with the first stream of a batch, so reading at once takes two
        reads for each batch, and a read costs more than a batch that is not unpacked.
        """
        for _ in range(_UNREAD_PAUSES):
            if not self._trails or any(map(self.is_read, self._trails)):
                return
            await asyncio.sleep(_UNREAD_PAUSE_SECS)

    async def _take(self, stream: str, entry: Entry) -> tuple[list[Event], bool]:
        """Advance by one stream entry.

        Returns:
            Events, and whether what was read with this entry is to be read on.
        """
        trail = self._trails[stream]
        before = str(trail.place.entry)
        entry_id = entry[0].decode()
        packed = not self.is_read(stream)
        batch = decode_entry(self._codec, stream, entry_id, entry[1], before, packed=packed)
        place, link = trail.place, batch.link
        verdict = decide(place, View(place.epoch, None, link.id, None, link))
        events: list[Event] = []
        if verdict.gap is not None or place.entry == NOTHING:
            # A Redis that was emptied breaks every chain, but for one after 0-0: each epoch begins
            # there. So the head is checked first.
            events = await self._check_head(suspect=stream)
            if (
                events
                or self._behind
                or trail.place is not place
                or self._trails.get(stream) is not trail
            ):
                return events, False
            if verdict.gap == "trimmed":
                events.append(Gap(stream, before, entry_id, NOT_RETAINED_REASON))
            elif verdict.gap is not None:
                log.error("batch chain broken", stream=stream, id=entry_id)
        if isinstance(batch, Unreadable):
            log.error("unreadable batch", stream=stream, id=entry_id, error=batch.error)
            trail.skip(link.id, place.epoch or self._epoch or "")
            return [Gap(stream, before, entry_id, f"unreadable: {batch.error}")], True
        trail.advance(link, place.epoch or self._epoch or "")
        if batch.forgot and not events:
            events.append(Gap(stream, before, entry_id, FORGOTTEN))
        return [*events, batch], True

    async def _check_head(self, suspect: str | None = None) -> list[Event]:
        """Find where to begin, and whether Redis has lost batches that this reader has read."""
        self._behind = False
        self._connects = connects(self._redis)
        head = await read_head(self._redis, self._keys)
        last = parse_entry_id(head.last)
        for name in self._streams:
            if name not in self._trails:
                trail = Trail(_behind(head.last, head.epoch or ""))
                await self._remember_preceding(name, trail)
                if name in self._streams:  # else it was left out during the look-up
                    self._trails[name] = trail
        if head.epoch is None:
            return []  # never written, or emptied: the next epoch decides
        if self._epoch not in (None, head.epoch):
            return await self._change_epoch(head)
        self._epoch = head.epoch
        self._first = _entry_id(head.first)
        events: list[Event] = []
        for name, trail in tuple(self._trails.items()):
            if trail.place.epoch == "":
                trail.place = msgspec.structs.replace(trail.place, epoch=head.epoch)
                await self._remember_preceding(name, trail)
            if self._check_all or name == suspect or trail.place.entry > last:
                try:
                    events += await self._check(name, trail)
                except redis.exceptions.RedisError:
                    if not events:
                        raise
                    # These trails have been rewound already: their events must not get lost.
                    self._check_all = True
                    return events
        self._check_all = False
        return events

    async def _remember_preceding(self, stream: str, trail: Trail) -> None:
        """Take note of the batches up to where a reader begins, if the stream has that one."""
        begin = trail.place.entry
        if trail.links or begin == NOTHING:
            return
        entries: Any = await self._redis.xrevrange(
            self._keys.stream(stream), max=str(begin), count=_PRECEDING
        )
        links = [read_link(entry.decode(), fields) for entry, fields in reversed(entries)]
        if links and links[-1].id == begin:
            trail.remember(links)

    async def _change_epoch(self, head: Head) -> list[Event]:
        if self._primary is not self._redis:
            primary = await read_head(self._primary, self._keys)
            if primary.epoch != head.epoch:
                self._behind = True
                return []
        event = EpochChanged(self._epoch or "", head.epoch or "")
        for trail in self._trails.values():
            trail.start_epoch(event.epoch, self._first)
        self._epoch = head.epoch
        self._first = _entry_id(head.first)
        return [event]

    async def _check(self, stream: str, trail: Trail) -> list[Event]:
        """Return to the fork if Redis has lost batches that were read of a stream."""
        place = trail.place
        if place.is_oldest:
            return []
        seen = str(place.entry)
        piece = await read_piece(self._redis, self._keys, stream, seen, 2)
        if decide(place, piece.view(place.entry)).action is not Action.BACK:
            return []  # of a new epoch: the next check reports it
        if await self._is_replica_behind(place.entry, piece.head):
            self._behind = True
            return []
        fork = await self._fork(stream, trail)
        if trail.place is not place:
            return []
        trail.rewind(fork, place.epoch)
        since = None if fork is None else str(fork.id)
        log.error("stream rewound", stream=stream, seen=seen, has=since)
        return [Rewind(stream, since=since, seen=seen)]

    async def _fork(self, stream: str, trail: Trail) -> Link | None:
        """Find the newest batch that was read and that Redis still has."""
        first = (await read_piece(self._redis, self._keys, stream, "-", 1)).links()
        search = ForkSearch(trail.links, first[0].id if first else None)
        while (link := search.question) is not None:
            found = (await read_piece(self._redis, self._keys, stream, str(link.id), 1)).links()
            search.answer(has=found == [link])
        return search.found

    async def _is_replica_behind(self, seen: EntryId, head: Head) -> bool:
        if self._primary is self._redis or seen <= parse_entry_id(head.last):
            return False
        try:
            primary = await read_head(self._primary, self._keys)
        except redis.exceptions.RedisError:
            return True  # a loss cannot be proven
        return primary.epoch == head.epoch and parse_entry_id(primary.last) >= seen


def _behind(entry: str, epoch: str | None = None) -> ReaderPosition:
    """Return the position after a batch: of a reader, never of a moment.

    Args:
        entry: its id.
        epoch: None if none was seen yet; then 0-0 means the oldest.
    """
    if epoch is None and entry == FIRST_ID:
        return OLDEST
    return ReaderPosition(parse_entry_id(entry), None, epoch or "")


async def oldest_id(client: Redis, keys: Keys, stream: str) -> EntryId | None:
    """Read the id of the oldest entry that a stream retains, without the entry."""
    ids: Any = await client.register_script(_STREAM_RANGE)(keys=[keys.stream(stream)])
    return parse_entry_id(ids[0].decode()) if ids else None
