"""Serve clients from Redis whose position is not in the ring.

One short-lived task per client writes what the streams hold, at the pace of the client, until the
client can read the ring. `certbus.streams.continuity` decides how a client continues. A `gap`
message reports what is missing or repeated, before what follows.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
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
    earlier,
)
from certbus.streams.reader import Malformed, read_head
from gateway.clients.base import Client
from gateway.delivery.channel import MAX_SLICE_SECS, MAX_WRITE_BYTES
from gateway.delivery.encoding import GAP_REASONS, Selection, gap_message
from gateway.delivery.history import HistoryPage, HistoryReader, SharedRead
from gateway.delivery.ring_buffer import BehindRing, RingPosition, Slot
from gateway.metrics import Metrics

_RETRY_SECS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # before the next read of ring and Redis
_SCAN_PAUSE: Final = 3.0  # pause after a scan for a filter / its duration
_MAX_SCAN_SECS: Final = 10.0
_LOSS_REASONS: Final = ("reset", "lost", "future")  # a lagging replica resembles these


class LiveReader(Protocol):
    """The state of the reader of the live streams."""

    @property
    def positions(self) -> dict[str, str]:
        """Stream -> entry id after which its ring begins; empty until it is known."""

    def losses(self, stream: str) -> LostRanges:
        """Return what Redis has lost of a stream since this process started."""

    def has_read(self, stream: str, entry: EntryId) -> bool:
        """Whether a batch is among the newest ones that the reader has read."""


class Replayer:
    """Starts a task for each client that the ring cannot serve.

    Args:
        history: reads the streams in Redis.
        primary: to detect a replica that lags.
        keys: names of the keys.
        reader: of the live streams.
        group: of the tasks.
        metrics: counts gaps.

    Attributes:
        primary: reads the state of the primary, once for concurrent callers.
    """

    def __init__(
        self,
        history: HistoryReader,
        primary: Redis,
        keys: Keys,
        reader: LiveReader,
        group: asyncio.TaskGroup,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._history = history
        self.primary = SharedRead(partial(read_head, primary, keys))
        self._reader = reader
        self._group = group
        self._scanning = asyncio.Lock()  # held during a scan and the pause after it

    def start(self, client: Client, cursor: Cursor) -> asyncio.Task[None]:
        """Serve a client that has everything up to `cursor`, until the ring can."""
        return self._group.create_task(self._run(client, cursor))

    async def _run(self, client: Client, cursor: Cursor) -> None:
        """Serve a client; an unexpected error ends this client only."""
        try:
            await _ClientReplay(client, cursor, self._history, self._reader, self).run()
        except Exception as error:  # noqa: BLE001
            client.fail(error)

    @asynccontextmanager
    async def scan(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Scan for the filter of one client; all clients together use a quarter of a core.

        Yields a function that pauses between two slices of the scan, while other tasks run. The
        pause after the scan is that of the next client: this one may leave.
        """
        await self._scanning.acquire()
        began = perf_counter()

        async def pause() -> None:
            nonlocal began
            try:
                await asyncio.sleep(_pause_after(perf_counter() - began))
            finally:
                began = perf_counter()

        try:
            yield pause
        finally:
            secs = _pause_after(perf_counter() - began)
            asyncio.get_running_loop().call_later(secs, self._scanning.release)

    def count(self, reason: Reason, *, seen: bool) -> None:
        """Count a gap message that one client received.

        Args:
            reason: of the gap.
            seen: whether the reader of the live streams has detected this loss. An id that a client
                invents does not count as a loss.
        """
        match reason:
            case "reset" | "lost":
                self._metrics.count_gap("lost" if seen else "unknown")
            case _:
                self._metrics.count_gap(reason)


class _ClientReplay:
    """The replay of one client."""

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
        self._position = ReaderPosition(cursor.entry, cursor.position, is_moment=cursor.is_moment)
        self._pending_gap: tuple[str, Reason] | None = None  # requested id and reason of a gap

    @property
    def _stream(self) -> str:
        """The stream of Redis; a reload may change that of v2."""
        return self._client.channel.ring.source

    async def run(self) -> None:
        client, waits = self._client, 0
        ring = client.channel.ring
        while await client.writable():
            if not ring.has_begun and (entry := self._reader.positions.get(self._stream)):
                ring.begin_after(entry)
            await self._scan_ring()
            if client.closed:
                return
            if self._pending_gap is None and client.resume(self._position.cursor):
                return
            before = self._position
            try:
                if await self._write_page():
                    return
            except (*UNAVAILABLE, Malformed):
                pass  # the stream reader logs it
            # No progress: the ring lags behind Redis, or Redis is unavailable.
            waits = waits + 1 if self._position == before else 0
            await asyncio.sleep(_RETRY_SECS[min(waits, len(_RETRY_SECS)) - 1] if waits else 0)

    async def _write_page(self) -> bool:
        """Write one page, and keep no other in memory while the client reads it.

        Returns:
            Whether the client has left, or reads the ring.
        """
        position = self._position
        page = await self._history.read(self._client.channel.ring, position)
        view = page.view(position.entry)
        decision = decide(position, view, self._reader.losses(self._stream))
        ends_at_view = position.is_moment and decision.action is Action.END
        if (decision.gap in _LOSS_REASONS or ends_at_view) and await self._is_behind(view):
            return self._client.closed
        if self._client.closed:
            return True
        if decision.gap in _LOSS_REASONS and position.epoch is not None:
            self._history.clear()  # a cached page may lead back to the same position
        if decision.action is Action.BACK:
            self._rewind(view)
            return False
        if decision.gap is not None:
            self._add_gap(decision.gap)
        match decision.action:
            case Action.WAIT:
                pass
            case Action.OLDEST if not position.is_oldest:
                self._position = OLDEST
            case Action.EARLIER:
                self._position = earlier(position.entry)
            case Action.END:
                return self._end(decision, view)
            case _ if self._client.channel.encoding.selection is None:
                self._write(page, position)
            case _:
                return await self._scan(page, position)
        return False

    async def _scan_ring(self) -> None:
        """Apply the filter of the client to what the ring holds, like `_scan`."""
        channel = self._client.channel
        selection = channel.encoding.selection
        if selection is None:
            return
        await selection.place()
        for slot in channel.unseen(self._position.cursor):
            async with self._replay.scan() as pause:
                if not selection.must_look_up(slot):  # another client, or the filter became heavy
                    continue
                try:
                    if not await self._evaluate(selection, slot, pause):
                        return
                finally:
                    selection.forget((slot,))

    async def _scan(self, page: HistoryPage, position: ReaderPosition) -> bool:
        """Write what passes the filter of the client, after evaluating it in slices.

        Returns:
            Whether the client has left.
        """
        selection = self._client.channel.encoding.selection
        assert selection is not None
        slots: list[Slot] = []
        size = 0
        async with self._replay.scan() as pause:
            try:
                for slot in page.slots_after(position):
                    if selection.evaluates(slot):
                        size += slot.text_bytes
                    slots.append(slot)
                    if not await self._evaluate(selection, slot, pause):
                        return True
                    if size >= MAX_WRITE_BYTES:
                        break
                if not self._client.closed:
                    self._write(page, position, slots[-1].after.number if slots else None)
            finally:
                selection.forget(slots)
        return self._client.closed

    async def _evaluate(
        self, selection: Selection, slot: Slot, pause: Callable[[], Awaitable[None]]
    ) -> bool:
        """Evaluate the messages of a slot in slices; return False if the client has left."""
        while not self._client.closed:
            if selection.evaluate(slot, MAX_SLICE_SECS):
                return True
            await pause()
        return False

    def _write(self, page: HistoryPage, position: ReaderPosition, end: int | None = None) -> None:
        """Write what follows a position in a page.

        Args:
            page: of history.
            position: of the client.
            end: number of the slot before which the filter was evaluated; None without a filter.
        """
        client = self._client
        ring, form = page.ring, client.channel.encoding
        if not page.links:
            view = page.view(position.entry)
            self._send_gap(None)
            if view.epoch is not None:  # what is published and trimmed from now on is missing
                self._position = ReaderPosition(view.last, None, view.epoch)
            # A switch to another channel must not report the gap again.
            client.read_up_to(Cursor(view.last, None))
            return
        try:
            data, at, messages = ring.read_from_cursor(position.cursor, form)
        except BehindRing:
            data, at, messages = b"", ring.first_after, 0
        self._send_gap(_next_of(page, at))
        if not data:
            begin = at
            data, at = ring.read(begin, form, MAX_WRITE_BYTES, end)
            messages = at.total - begin.total
        if data:
            client.send(data, at, messages)
        self._position = page.reader_position(at)
        client.read_up_to(self._position.cursor)

    def _rewind(self, view: View) -> None:
        """Move to the newest batch that both the client and Redis have."""
        entry = self._position.entry
        lost = self._reader.losses(self._stream).find(entry)
        if lost is None and self._reader.has_read(self._stream, entry):
            return  # the reader of the live stream will find the fork
        self._add_gap("lost")
        if lost is None or lost.fork is None:
            self._position = OLDEST
        else:
            self._position = ReaderPosition(lost.fork, None, view.epoch)

    def _end(self, decision: Decision, view: View) -> bool:
        """Continue a client with what is published after the view.

        The ring may begin, or end, later than the view: batches between are only in Redis.
        """
        ring = self._client.channel.ring
        first = ring.first_after
        if decision.gap != "future" and self._position.entry < first.cursor.entry <= view.last:
            # The ring holds batches that Redis has trimmed.
            self._add_gap("trimmed")
            self._send_gap(ring.oldest)
            self._client.continue_live(first)
            return True
        self._send_gap(None)
        if decision.gap is not None or self._position.is_moment:
            self._position = ReaderPosition(view.last, None, view.epoch or "")
            self._client.read_up_to(self._position.cursor)
        return False

    def _add_gap(self, reason: Reason) -> None:
        """Have a gap message precede the next messages."""
        if self._pending_gap is None:
            self._pending_gap = str(self._position.cursor), reason

    def _send_gap(self, oldest: str | None) -> None:
        """Send the pending gap message, if there is one."""
        if self._pending_gap is None:
            return
        requested, reason = self._pending_gap
        self._pending_gap = None
        self._client.send_notice(gap_message(requested, oldest, GAP_REASONS[reason]))
        seen = self._reader.losses(self._stream).find(_entry_of(requested)) is not None
        self._replay.count(reason, seen=seen)

    async def _is_behind(self, view: View) -> bool:
        """Whether the page is of a replica that lags behind the primary."""
        primary = await self._replay.primary()
        if primary.epoch != view.epoch:
            return True
        entry = self._position.entry
        return entry > view.last and parse_entry_id(primary.last) >= entry


def _pause_after(secs: float) -> float:
    """Return the seconds of the pause after a scan, which a stopped process does not prolong."""
    return _SCAN_PAUSE * min(secs, _MAX_SCAN_SECS)


def _next_of(page: HistoryPage, at: RingPosition) -> str | None:
    """Return the id of the batch after a position of a page."""
    after = page.view(at.cursor.entry).after
    return None if after is None else str(after.id)


def _entry_of(text: str) -> EntryId:
    return parse_entry_id("-".join(text.split("-")[:2]))
