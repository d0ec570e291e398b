"""Entries of one log, fetched ahead of its position and returned in the order of the log.

One request is one page. Requests are sent for the first missing pages, as many at a time as
`InFlight` allows, and survive new tree heads: a larger head covers all entries of an older one.
A request for the next entries of a tile returns those before them, too, so the first answer serves
all requests for that tile.
Answers that wait for an earlier one are bounded in bytes, per log and per ingestor.

`Prefetch.run` returns a run of consecutive entries that have arrived. Each run needs one proof,
unless it ends at the tree head. So a run is complete when it ends there, has waited for
`GATHER_SECS`, or when the entries after it are not in flight; and when it has `RUN_BYTES`, unless
all entries up to the tree head fit into the memory of the log. While more than one round of
requests is missing, or `_FIRST_REQUESTS` are still to be sent, a run is also complete with
`RUN_REQUESTS` answers, and the first runs since the log was at its head wait for less: then the
first entries of a large tree head, or those of a new owner of the log, are not published with the
last.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import msgspec

from ctparse.entry import Entry, Rejected
from ingestor.client.errors import ResponseTooLarge
from ingestor.client.interface import LogClient
from ingestor.pipeline.page_size import PageSize
from ingestor.window import Window

RUN_BYTES = 8 << 20
"""Of the entries that one proof covers, about; 1,024 real entries have 3 MB."""

RUN_REQUESTS = 16
"""Answers after which a run does not wait while more than one round is missing: a proof costs one
request more."""

GATHER_SECS = 5.0
"""For which arrived entries wait for the entries after them, so that one proof covers both."""

_FIRST_GATHER_SECS = 0.5
_FIRST_REQUESTS = 4
"""Answers with which the first run since the log was at its head does not wait; they double with
each run, and so does its wait for more."""

MAX_LOG_BYTES = 32 << 20
MAX_PROCESS_BYTES = 256 << 20
"""Of entries fetched ahead. Besides, each log may have one answer, so that none is stopped."""

WINDOW_ENTRIES = 1024
"""Of a window: one lookup of known certificates, and a few batches."""

_MAX_RUN_ENTRIES = 32 << 10
"""Of entries that are tiny: their leaves are hashed in one step, in about 50 ms."""

_ENTRY_BYTES = 300
"""Of the objects of an entry, besides their contents."""

_INITIAL_IN_FLIGHT = 20
_UNKNOWN_PAGE_IN_FLIGHT = 4
_FIRST_ESTIMATE_BYTES = 3 << 10  # of an entry, before the first answer


class InFlight:
    """How many requests of one log are sent at the same time.

    One more after each round of answers in which a request waited, half as many after a failure,
    never more than configured. So a slow log settles where it answers in time, and a fast one is
    filled.
    Failures of requests that were sent before the last reduction do not count again.

    Args:
        most: the configured bound (`ct_log.fetch_concurrency`).

    Attributes:
        limit: at present.
        most: as given.
    """

    def __init__(self, most: int) -> None:
        self.limit = min(_INITIAL_IN_FLIGHT, most)
        self.most = most
        self._answers = 0  # of the present round
        self._waited = False  # whether a request waited in it
        self._ignored = 0  # outcomes of requests sent before the last reduction

    def answered(self, *, waiting: bool) -> None:
        """Count an answer; `waiting`: whether a request waits for another one to end."""
        self._ignored = max(0, self._ignored - 1)
        self._answers += 1
        self._waited = self._waited or waiting
        if self._answers >= self.limit:
            self.limit = min(self.limit + self._waited, self.most)
            self._answers, self._waited = 0, False

    def failed(self) -> None:
        """Count a lost connection, a time-out or another failure of a request."""
        if self._ignored:
            self._ignored -= 1
            return
        self._ignored = self.limit - 1
        self.limit = max(1, self.limit // 2)
        self._answers, self._waited = 0, False


class FetchedBytes:
    """Bytes of the entries that all logs of a process have fetched ahead.

    Attributes:
        used: at present, requests in flight included, about.
    """

    def __init__(self) -> None:
        self.used = 0


class _Piece(msgspec.Struct, eq=False):
    """A range of entries that one request fetches.

    Attributes:
        start: index of the first entry.
        end: index after the last.
        task: the request, while it is in flight.
        entries: the answer.
        error: why there is none; the request is sent again after `Prefetch.run` has raised it.
        arrived: when the answer arrived, loop time.
        bytes: of the answer, estimated while it is in flight.
    """

    start: int
    end: int
    task: asyncio.Task[None] | None = None
    entries: list[Entry | Rejected] | None = None
    arrived: float = 0.0
    error: Exception | None = None
    bytes: int = 0


class Prefetch:
    """The entries of one log from its position on. The follower's task owns it.

    Args:
        client: reads the log.
        start: the first entry.
        page: size of the log's pages.
        in_flight: how many requests are sent at the same time.
        fetched: shared with the other logs of the process.
        waiting: returns how many requests in flight wait for a slot, and are not sent.

    Attributes:
        next: index of the first entry that was not taken.
        head: entries that may be requested.
        arrived: set when an answer or an error arrives.
    """

    def __init__(
        self,
        client: LogClient,
        start: int,
        page: PageSize,
        in_flight: InFlight,
        fetched: FetchedBytes | None = None,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        self.next = self.head = start
        self.arrived = asyncio.Event()
        self._client = client
        self._page = page
        self._in_flight = in_flight
        self._fetched = fetched or FetchedBytes()
        self._pieces: list[_Piece] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # also those whose requests others have ended
        self._bytes = 0  # of all pieces
        self._entry_bytes = float(_FIRST_ESTIMATE_BYTES)
        self._interrupted = False
        self._waiting = waiting
        self._gather = _FIRST_GATHER_SECS
        self._enough = _FIRST_REQUESTS

    @property
    def missing_requests(self) -> int:
        """Requests in flight and still to send below `head`, about."""
        end = self._pieces[-1].end if self._pieces else self.next
        absent = sum(piece.entries is None for piece in self._pieces)
        return absent + -((end - self.head) // self._page.size)

    @property
    def in_flight(self) -> int:
        """Number of requests that are sent or wait for a slot."""
        return self._running

    def extend(self, head: int) -> None:
        """Allow entries up to `head` to be requested, and send requests."""
        self.head = max(self.head, head)
        self._fill()

    def interrupt(self) -> None:
        """Make `run` return, at the latest when it waits next."""
        self._interrupted = True
        self.arrived.set()

    async def run(self, target: int, deadline: float | None = None) -> list[Window]:
        """Wait for a run of entries below `target` and return it; it stays until `take`.

        Args:
            target: size of the tree that proves them, above `next`.
            deadline: time of the event loop; None: wait as long as it takes.

        Returns:
            Consecutive windows from `next`; empty after the deadline or `interrupt`.

        Raises:
            LogError: the next entry cannot be read. The next call requests it again.
        """
        loop = asyncio.get_running_loop()
        self._retry_failed()
        while True:
            self.arrived.clear()
            ready, is_complete = self._ready(target)
            now = loop.time()
            missing = self.missing_requests
            unsent = missing - self._running + self._waiting()
            is_behind = missing > self._in_flight.limit or unsent >= _FIRST_REQUESTS
            gather = self._gather if is_behind else GATHER_SECS
            is_complete = is_complete or (is_behind and len(ready) >= self._enough)
            if ready and (is_complete or now - ready[0].arrived >= gather):
                return list(_windows(self.next, ready, target))
            if self._pieces and (error := self._pieces[0].error) is not None:
                for piece in self._pieces:  # those of later pieces are out of date by then
                    piece.error = None
                raise error
            interrupted, self._interrupted = self._interrupted, False
            if interrupted or (deadline is not None and now >= deadline):
                return []
            ends = [] if deadline is None else [deadline]
            if ready:
                ends.append(ready[0].arrived + gather)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(ends, default=None)):
                    await self.arrived.wait()

    def take(self, end: int) -> None:
        """Drop the entries before `end`: they are published or read."""
        self.next = end
        if end >= self.head:
            self._gather, self._enough = _FIRST_GATHER_SECS, _FIRST_REQUESTS
        else:
            self._gather = min(2 * self._gather, GATHER_SECS)
            self._enough = min(2 * self._enough, RUN_REQUESTS)
        while self._pieces and self._pieces[0].end <= end:
            self._release(self._pieces.pop(0))
        first = self._pieces[0] if self._pieces else None
        if first is not None and first.entries is not None and first.start < end:
            first.entries = first.entries[end - first.start :]
            first.start = end
        self._fill()

    async def restart(self, start: int) -> None:
        """Drop all entries, cancel all requests, and continue at `start`; `head` is reset."""
        pieces, self._pieces = self._pieces, []
        tasks = list(self._tasks)
        for piece in pieces:
            self._release(piece)
            self._end(piece)  # a request that is cancelled before it begins does not
        self.next = self.head = start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ready(self, target: int) -> tuple[list[_Piece], bool]:
        """Return the consecutive pieces that have arrived, and whether the run is complete."""
        ready: list[_Piece] = []
        size = count = 0
        fits = (target - self.next) * self._entry_bytes <= MAX_LOG_BYTES
        limit = MAX_LOG_BYTES if fits else RUN_BYTES
        for piece in self._pieces:
            if piece.start >= target or size >= limit or count >= _MAX_RUN_ENTRIES:
                return ready, True
            if piece.entries is None:
                return ready, piece.task is None
            ready.append(piece)
            size += piece.bytes
            count += len(piece.entries)
        return ready, True  # nothing follows: a bound does not allow it

    def _retry_failed(self) -> None:
        """Send the requests again whose errors were raised or are out of date."""
        failed = [piece for piece in self._pieces if piece.entries is None and piece.task is None]
        for piece in failed:
            self._split(piece)
        self._fill()

    def _split(self, piece: _Piece) -> None:
        """Replace a piece without an answer by pieces of the present page size."""
        at = self._pieces.index(piece)
        parts = []
        start = piece.start
        while start < piece.end:
            end = self._page.end(start, piece.end)
            parts.append(_Piece(start, end))
            start = end
        if parts:
            parts[0].error = piece.error
        self._pieces[at : at + 1] = parts

    def _fill(self) -> None:
        """Send requests for the first missing entries."""
        for piece in self._pieces:
            is_missing = piece.entries is None and piece.task is None and piece.error is None
            if is_missing and not self._send(piece):
                return
        while (start := self._pieces[-1].end if self._pieces else self.next) < self.head:
            piece = _Piece(start, self._page.end(start, self.head))
            if not self._may_send(piece):
                return
            self._pieces.append(piece)
            self._send(piece)

    def _may_send(self, piece: _Piece) -> bool:
        limit = self._in_flight.limit
        if self._running >= (limit if self._page.is_known else min(limit, _UNKNOWN_PAGE_IN_FLIGHT)):
            return False
        expected = self._expected(piece)
        is_first = piece.start <= self.next
        return is_first or (
            self._bytes + expected <= MAX_LOG_BYTES
            and self._fetched.used + expected <= MAX_PROCESS_BYTES
        )

    def _expected(self, piece: _Piece) -> int:
        return int((piece.end - piece.start) * self._entry_bytes)

    def _send(self, piece: _Piece) -> bool:
        if not self._may_send(piece):
            return False
        self._hold(piece, self._expected(piece))
        self._running += 1
        self._page.record_request(piece.start, piece.end - piece.start)
        piece.task = task = asyncio.create_task(self._fetch(piece))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _fetch(self, piece: _Piece) -> None:
        earlier = self._earlier(piece)
        start = earlier[0].start if earlier else piece.start
        try:
            entries = await self._client.entries(start, piece.end)
        except Exception as error:  # noqa: BLE001  (the follower handles it, in the order of the log)
            if piece.task is not None:
                self._failed(piece, error)
        else:
            for each in earlier:
                self._fill_from_tile(each, entries[each.start - start : each.end - start])
            self._received(piece, entries[piece.start - start :])
        finally:
            self._end(piece)
        self._fill()
        self.arrived.set()

    def _end(self, piece: _Piece) -> None:
        """Count the request for a piece as ended, once."""
        if piece.task is not None:
            piece.task = None
            self._running -= 1

    def _earlier(self, piece: _Piece) -> list[_Piece]:
        """Return the pieces of the same tile, next to each other up to `piece`, in flight."""
        if self._client.tile is None or not self._client.has_partial_tiles:
            return []
        begin = piece.start - piece.start % self._client.tile
        found: list[_Piece] = []
        for each in reversed(self._pieces[: self._pieces.index(piece)]):
            if each.start < begin or each.task is None:
                break
            found.insert(0, each)
        return found

    def _fill_from_tile(self, piece: _Piece, entries: list[Entry | Rejected]) -> None:
        """Take over the entries of an earlier piece, and end its request."""
        if piece.entries is not None or piece not in self._pieces:
            return
        if piece.task is not None:
            piece.task.cancel()
            self._end(piece)
        piece.entries, piece.error = entries, None
        piece.arrived = asyncio.get_running_loop().time()
        self._hold(piece, _bytes(entries))

    def _failed(self, piece: _Piece, error: Exception) -> None:
        requested = piece.end - piece.start
        self._hold(piece, 0)
        if isinstance(error, ResponseTooLarge) and requested > self._page.least:
            self._page.record_too_large(requested)
            middle = piece.start + requested // 2
            at = self._pieces.index(piece)
            self._pieces.insert(at + 1, _Piece(middle, piece.end))
            piece.end = middle
            return
        piece.error = error

    def _received(self, piece: _Piece, entries: list[Entry | Rejected]) -> None:
        requested, returned = piece.end - piece.start, len(entries)
        self._page.record_answer(piece.start, requested, returned)
        waiting = self._pieces[-1].end < self.head or any(
            each.entries is None and each.task is None for each in self._pieces
        )
        self._in_flight.answered(waiting=waiting)
        if returned < requested:
            at = self._pieces.index(piece)
            rest = _Piece(piece.start + returned, piece.end)
            piece.end = rest.start
            if piece is not self._pieces[-1]:  # otherwise `_fill` requests the rest
                self._pieces.insert(at + 1, rest)
                self._split(rest)
        piece.entries, piece.arrived = entries, asyncio.get_running_loop().time()
        size = _bytes(entries)
        self._entry_bytes = 0.8 * self._entry_bytes + 0.2 * size / max(1, returned)
        self._hold(piece, size)

    def _hold(self, piece: _Piece, size: int) -> None:
        self._bytes += size - piece.bytes
        self._fetched.used += size - piece.bytes
        piece.bytes = size

    def _release(self, piece: _Piece) -> None:
        self._hold(piece, 0)


def _windows(first: int, pieces: Sequence[_Piece], target: int) -> Iterator[Window]:
    """Divide the entries of consecutive pieces below `target` into windows."""
    entries = [entry for piece in pieces for entry in piece.entries or ()][: target - first]
    for at in range(0, len(entries), WINDOW_ENTRIES):
        yield Window(first + at, entries[at : at + WINDOW_ENTRIES])


def _bytes(entries: Sequence[Entry | Rejected]) -> int:
    """Return the memory that entries take, about; they share chains."""
    read = [entry for entry in entries if type(entry) is Entry]
    chains = {entry.chain for entry in read}
    unread = [entry for entry in entries if type(entry) is Rejected]
    return (
        len(entries) * _ENTRY_BYTES
        + sum([len(entry.raw) for entry in unread if entry.raw is not entry.leaf])
        + sum([len(entry.leaf) for entry in entries])
        + sum([len(entry.certificate) for entry in read])
        + sum(map(len, chains))
    )
