"""Concurrent fetches of the windows of one log, returned in the order of the log.

Windows are returned in runs of those that have arrived, so that one proof covers as many entries
as possible.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

from certbus.streams.batch import MAX_MESSAGES
from ctparse.entry import Entry, Rejected
from ingestor.client.errors import LogError, ResponseTooLarge
from ingestor.client.interface import LogClient
from ingestor.pipeline.window_size import WindowSize
from ingestor.window import Window

# For which a run waits, at least, for the windows after its first. Each run needs one proof; at
# the tree head it needs none. Where requests are throttled, a proof delays a window by more than
# the request of the window does.
_MIN_GATHER_SECS = 0.5
# Of entries that are fetched ahead, estimated by the last window. A real window of 1,024 entries
# has 3 MB.
_MAX_AHEAD_BYTES = 64 << 20
# For which a run waits, at most, for windows that are late.
_MAX_GATHER_SECS = 2.0
_INITIAL_IN_FLIGHT = 4


class InFlight:
    """How many requests of one log are under way.

    One more after each round of good answers, half as many after a failure, never more than
    configured. So a slow log settles where it answers in time, and a fast one is filled.

    Args:
        most: the configured bound (`ct_log.fetch_concurrency`).

    Attributes:
        limit: at present.
    """

    def __init__(self, most: int) -> None:
        self.limit = min(_INITIAL_IN_FLIGHT, most)
        self._most = most
        self._answers = 0

    def answered(self) -> None:
        """Count an answer."""
        self._answers += 1
        if self._answers >= self.limit and self.limit < self._most:
            self.limit += 1
            self._answers = 0

    def failed(self) -> None:
        """Count a lost connection, a time-out or another failure of a request."""
        self.limit = max(1, self.limit // 2)
        self._answers = 0


async def prefetch_windows(
    client: LogClient,
    start: int,
    head: int,
    size: WindowSize,
    in_flight: InFlight,
    paused: Callable[[LogError], Awaitable[None]] | None = None,
) -> AsyncGenerator[list[Window]]:
    """Yield every window of [start, head), in order, in runs of at most `in_flight.limit`.

    Besides the run that the caller holds, at most `in_flight.limit` windows are being fetched or
    wait: this bounds memory if the log is fast and Redis is slow. `_MAX_AHEAD_BYTES` reduces their
    number if windows are unusually large. Close the generator (`contextlib.aclosing`) to cancel
    the fetches.

    Args:
        client: reads the log.
        start: the first entry.
        head: entries of the tree.
        size: of the windows.
        in_flight: how many are fetched at the same time.
        paused: waits after a 429, whose request is then sent again; None: a 429 is a failure.

    Raises:
        LogError: a window cannot be read. All windows before it have been yielded.
    """
    loop = asyncio.get_running_loop()
    fetching: deque[asyncio.Task[Window]] = deque()
    limit = in_flight.limit

    async def fetch(first: int, end: int) -> Window:
        while True:
            try:
                window = await _fetch(client, first, end, size)
            except LogError as error:
                if not error.is_rate_limit:
                    in_flight.failed()
                    raise
                if paused is None:
                    raise
                await paused(error)
            else:
                in_flight.answered()
                return window

    def fill() -> None:
        nonlocal start
        while start < head and len(fetching) < limit:
            end = size.end(start, head)
            fetching.append(asyncio.create_task(fetch(start, end)))
            start = end

    try:
        fill()
        while fetching:
            began = loop.time()
            await asyncio.wait([fetching[0]])
            gather = min(_MAX_GATHER_SECS, max(_MIN_GATHER_SECS, loop.time() - began))
            await asyncio.wait(fetching, timeout=gather, return_when=asyncio.FIRST_EXCEPTION)
            run = [fetching[0].result()]
            fetching.popleft()
            while fetching and fetching[0].done() and fetching[0].exception() is None:
                run.append(fetching.popleft().result())
            limit = min(
                in_flight.limit, max(1, _MAX_AHEAD_BYTES // max(1, _bytes(run[-1].entries)))
            )
            fill()  # before the caller processes the run, so that the log serves the next one
            yield list(_joined(run))
    finally:
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)


def _joined(run: Sequence[Window]) -> Iterator[Window]:
    """Join consecutive windows to as many entries as one batch holds: a batch costs a script."""
    first, entries = run[0].first, list(run[0].entries)
    for window in run[1:]:
        if len(entries) + len(window.entries) > MAX_MESSAGES:
            yield Window(first, entries)
            first, entries = window.first, []
        entries += window.entries
    yield Window(first, entries)


def _bytes(entries: Sequence[Entry | Rejected]) -> int:
    """Return the memory that entries take, about; they share chains."""
    read = [entry for entry in entries if type(entry) is Entry]
    chains = {entry.chain for entry in read}
    return (
        sum([len(entry.leaf) for entry in entries])
        + sum([len(entry.certificate) for entry in read])
        + sum(map(len, chains))
    )


async def _fetch(client: LogClient, start: int, end: int, size: WindowSize) -> Window:
    """Fetch all entries of [start, end), in as many requests as the log requires."""
    entries: list[Entry | Rejected] = []
    step = end - start
    while (at := start + len(entries)) < end:
        requested = min(step, end - at)
        try:
            answer = await client.entries(at, at + requested)
        except ResponseTooLarge:
            if requested <= size.least:
                raise
            size.record_too_large(requested)
            step = requested // 2
            continue
        size.record_answer(requested, len(answer))
        entries += answer
    return Window(start, entries)
