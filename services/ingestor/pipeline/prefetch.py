"""Concurrent fetches of the windows of one log, returned in the order of the log.

Windows are returned in runs of those that have arrived, so that one proof covers as many entries
as possible.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from ctparse.entry import Entry, Rejected
from ingestor.client.errors import ResponseTooLarge
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


async def prefetch_windows(
    client: LogClient, start: int, head: int, size: WindowSize, concurrency: int
) -> AsyncGenerator[list[Window]]:
    """Yield every window of [start, head), in order, in runs of at most `concurrency`.

    Besides the run that the caller holds, at most `concurrency` windows are being fetched or wait:
    this bounds memory if the log is fast and Redis is slow. `_MAX_AHEAD_BYTES` reduces their number
    if windows are unusually large. Close the generator (`contextlib.aclosing`) to cancel the
    fetches.

    Raises:
        LogError: a window cannot be read. All windows before it have been yielded.
    """
    loop = asyncio.get_running_loop()
    fetching: deque[asyncio.Task[Window]] = deque()
    limit = concurrency

    def fill() -> None:
        nonlocal start
        while start < head and len(fetching) < limit:
            end = size.end(start, head)
            fetching.append(asyncio.create_task(_fetch(client, start, end, size)))
            start = end

    try:
        fill()
        while fetching:
            began = loop.time()
            await asyncio.wait([fetching[0]])
            gather = max(_MIN_GATHER_SECS, concurrency * (loop.time() - began))
            await asyncio.wait(fetching, timeout=gather, return_when=asyncio.FIRST_EXCEPTION)
            run = [fetching[0].result()]
            fetching.popleft()
            while fetching and fetching[0].done() and fetching[0].exception() is None:
                run.append(fetching.popleft().result())
            limit = min(concurrency, max(1, _MAX_AHEAD_BYTES // max(1, _bytes(run[-1].entries))))
            fill()  # before the caller processes the run, so that the log serves the next one
            yield run
    finally:
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)


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
