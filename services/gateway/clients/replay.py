"""Serving clients from Redis: those whose place in the ring is gone, or was never in it.

One short-lived task a client. It writes what the streams hold at the client's own pace until the
ring takes over. `certbus.streams.continuity` says how a client continues; what it will not get, or
gets again, is reported by a `gap` message before what follows.
"""

import asyncio
from functools import partial
from typing import Final, Protocol

from redis.asyncio import Redis

from certbus.errors import UNAVAILABLE
from certbus.ids import Cursor, EntryId, parse_entry_id
from certbus.keys import Keys
from certbus.streams.continuity import (
    OLDEST,
    Action,
    Decision,
    LostRanges,
    ReaderPosition,
    Reason,
    View,
    decide,
)
from certbus.streams.reader import Malformed, read_head
from gateway.clients.base import Client
from gateway.delivery import gap_messages
from gateway.delivery.channel import MAX_WRITE_BYTES
from gateway.delivery.history import HistoryPage, HistoryReader
from gateway.delivery.ring_buffer import BehindRing, RingPosition
from gateway.delivery.shared_read import SharedRead
from gateway.metrics import Metrics

_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds until the ring or Redis is asked again
_OF_REDIS: Final = ("reset", "lost", "future")  # what a replica that is behind seems to show, too


class LiveReader(Protocol):
    """What the reader of the live streams knows."""

    @property
    def positions(self) -> dict[str, str]:
        """Entry ids behind which the rings begin, by stream; empty while not known."""

    def losses(self, stream: str) -> LostRanges:
        """What it has seen Redis lose of a stream."""

    def has_read(self, stream: str, entry: EntryId) -> bool:
        """Whether a batch is among the newest that it has read."""


class Replayer:
    """Brings clients from their cursor to the ring.

    Args:
        history: the streams in Redis.
        primary: what is asked whether a replica is behind.
        keys: names of the keys.
        reader: fills the rings.
        group: for the clients' tasks.
        meter: counts gaps.

    Attributes:
        primary: reads the state of the primary, once for all who ask at the same time.
    """

    def __init__(
        self,
        history: HistoryReader,
        primary: Redis,
        keys: Keys,
        reader: LiveReader,
        group: asyncio.TaskGroup,
        meter: Metrics,
    ) -> None:
        self._meter = meter
        self._history = history
        self.primary = SharedRead(partial(read_head, primary, keys))
        self._reader = reader
        self._group = group

    def start(self, client: Client, cursor: Cursor) -> None:
        """Serve a client that has everything up to `cursor`, until the ring takes over."""
        self._group.create_task(self._run(client, cursor))

    async def _run(self, client: Client, cursor: Cursor) -> None:
        """Serve a client; what goes wrong with it ends it alone."""
        try:
            await _ClientReplay(client, cursor, self._history, self._reader, self).run()
        except Exception as error:  # noqa: BLE001
            client.fail(error)

    def count(self, reason: Reason, *, seen: bool) -> None:
        """Count a gap that one client was told of.

        Args:
            reason: of the gap.
            seen: whether the reader of the live streams has seen Redis lose what is missing. An id
                that a client makes up is not to look like a loss.
        """
        match reason:
            case "reset" | "lost":
                self._meter.count_gap("lost" if seen else "unknown")
            case _:
                self._meter.count_gap(reason)


class _ClientReplay:
    """One client on its way to the ring."""

    def __init__(
        self,
        client: Client,
        cursor: Cursor,
        history: HistoryReader,
        reader: LiveReader,
        replay: Replayer,
    ) -> None:
        self._client = client
        self._history = history
        self._reader = reader
        self._replay = replay
        self._stream = client.channel.ring.stream
        self._place = ReaderPosition(cursor.entry, cursor.position)
        self._owed: tuple[str, Reason] | None = None  # a gap to report before what follows

    async def run(self) -> None:
        client, waits = self._client, 0
        ring = client.channel.ring
        while await client.writable():
            if not ring.has_begun and (entry := self._reader.positions.get(self._stream)):
                ring.begin_after(entry)
            if self._owed is None and client.resume(self._place.cursor):
                return
            before = self._place
            try:
                if await self._go_on():
                    return
            except (*UNAVAILABLE, Malformed):
                pass  # the reader of the streams says so in the log
            # The same place: the ring is about to have what Redis has, or Redis is not reached.
            waits = waits + 1 if self._place == before else 0
            await asyncio.sleep(_PAUSES[min(waits, len(_PAUSES)) - 1] if waits else 0)

    async def _go_on(self) -> bool:
        """Write one piece. The client may take long to read it, so no more is held meanwhile.

        Returns:
            Whether the client has gone, or follows the ring.
        """
        place = self._place
        piece = await self._history.read(self._stream, place)
        view = piece.view(place.entry)
        verdict = decide(place, view, self._reader.losses(self._stream))
        if verdict.gap in _OF_REDIS and await self._is_behind(view):
            return self._client.closed
        if self._client.closed:
            return True
        if verdict.gap in _OF_REDIS and place.epoch is not None:
            self._history.clear()  # it may lead to where the client is again
        if verdict.action is Action.BACK:
            self._go_back(view)
            return False
        if verdict.gap is not None:
            self._owe(verdict.gap)
        match verdict.action:
            case Action.WAIT:
                pass
            case Action.OLDEST if not place.is_oldest:
                self._place = OLDEST
            case Action.END:
                return self._end(verdict, view)
            case _:
                self._write(piece, place)
        return False

    def _write(self, piece: HistoryPage, place: ReaderPosition) -> None:
        """Write what a piece has behind a place."""
        client = self._client
        ring, form = piece.ring, client.channel.encoding
        if not piece.links:
            self._pay(None)
            return
        try:
            data, at, messages = ring.read_from_cursor(place.cursor, form)
        except BehindRing:
            data, at, messages = b"", ring.first_after, 0
        self._pay(str(_next_of(piece, at) or at.cursor.entry))
        if not data:
            begin = at
            data, at = ring.read(begin, form, MAX_WRITE_BYTES)
            messages = at.total - begin.total
        if data:
            client.send(data, at, messages)
        self._place = piece.place(at)

    def _go_back(self, view: View) -> None:
        """Go back to the newest batch that the client has and Redis has still."""
        entry = self._place.entry
        lost = self._reader.losses(self._stream).find(entry)
        if lost is None and self._reader.has_read(self._stream, entry):
            return  # the reader of the live stream is about to find the fork
        self._owe("lost")
        if lost is None or lost.fork is None:
            self._place = OLDEST
        else:
            self._place = ReaderPosition(lost.fork, None, view.epoch)

    def _end(self, verdict: Decision, view: View) -> bool:
        """Everything that Redis retains of the stream is older than what the client has."""
        ring = self._client.channel.ring
        if verdict.gap is None:
            self._pay(None)
            return False
        if verdict.gap == "future":
            self._pay(None)
            self._client.continue_live(ring.head)
            return True
        if ring.first_after.cursor.entry > self._place.entry:
            self._pay(ring.oldest)
            self._client.continue_live(ring.first_after)
            return True
        self._pay(None)
        self._place = ReaderPosition(view.last, None, view.epoch or "")
        return False

    def _owe(self, reason: Reason) -> None:
        """Report a gap before anything else is written."""
        if self._owed is None:
            self._owed = _text(self._place.cursor), reason

    def _pay(self, oldest: str | None) -> None:
        """Report the gap that is owed, if one is."""
        if self._owed is None:
            return
        requested, reason = self._owed
        self._owed = None
        self._client.send_notice(
            gap_messages.gap_message(requested, oldest, gap_messages.WORDS[reason])
        )
        seen = self._reader.losses(self._stream).find(_entry_of(requested)) is not None
        self._replay.count(reason, seen=seen)

    async def _is_behind(self, view: View) -> bool:
        """Whether what was read is a replica's that is not where the primary is."""
        primary = await self._replay.primary()
        if primary.epoch != view.epoch:
            return True
        entry = self._place.entry
        return entry > view.last and parse_entry_id(primary.last) >= entry


def _next_of(piece: HistoryPage, at: RingPosition) -> EntryId | None:
    """Id of the batch that follows a position of a piece."""
    after = piece.view(at.cursor.entry).after
    return None if after is None else after.id


def _entry_of(text: str) -> EntryId:
    return parse_entry_id("-".join(text.split("-")[:2]))


def _text(cursor: Cursor) -> str:
    entry, position = cursor
    return str(entry) if position is None else f"{entry}-{position}"
