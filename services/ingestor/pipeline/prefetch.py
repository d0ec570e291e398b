"""Several windows of one log at once, handed on in the order of the log.

They are handed on in runs of what is there, so that one proof covers as much as possible.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

import msgspec

from ctparse.entry import Entry, Rejected
from ingestor.client.errors import ResponseTooLarge
from ingestor.client.interface import LogClient
from ingestor.pipeline.window_size import WindowSize

# Seconds, at least, that a run waits for the windows after its first. Those that come with it need
# no proof of their own; at the tree head a whole run needs none. Where requests wait for their
# turns, a proof would cost a window more of them than the window did.
_GATHER = 0.5
# Bytes of entries that are fetched ahead, as far as the last window shows how large they are. A
# real window of 1,024 entries has 3 MB.
_AHEAD = 64 << 20


class Window(msgspec.Struct, frozen=True):
    """Consecutive entries: `entries[k]` is at log index `first + k`."""

    first: int
    entries: list[Entry | Rejected]


async def prefetch_windows(
    client: LogClient, start: int, head: int, size: WindowSize, concurrency: int
) -> AsyncGenerator[list[Window]]:
    """Every window of [start, head), in order, in runs of at most `concurrency`.

    As many windows are being fetched or wait to be taken, besides the run in the caller's hands:
    that bounds what a fast log and a slow Redis can pile up. Fewer are, where windows are as large
    as no real ones: `_AHEAD` bounds their bytes. Close the generator
    (`contextlib.aclosing`) to stop what is still being fetched.

    Raises:
        LogError: a window cannot be had. All windows before it have been handed on.
    """
    loop = asyncio.get_running_loop()
    fetching: deque[asyncio.Task[Window]] = deque()

    most = concurrency

    def fill() -> None:
        nonlocal start
        while start < head and len(fetching) < most:
            end = size.end(start, head)
            fetching.append(asyncio.create_task(_fetch(client, start, end, size)))
            start = end

    try:
        fill()
        while fetching:
            began = loop.time()
            await asyncio.wait([fetching[0]])
            gather = max(_GATHER, concurrency * (loop.time() - began))
            await asyncio.wait(fetching, timeout=gather, return_when=asyncio.FIRST_EXCEPTION)
            run = [fetching[0].result()]
            fetching.popleft()
            while fetching and fetching[0].done() and fetching[0].exception() is None:
                run.append(fetching.popleft().result())
            most = min(concurrency, max(1, _AHEAD // max(1, _bytes(run[-1].entries))))
            fill()  # before the caller turns to the run, so that the log has work meanwhile
            yield run
    finally:
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)


def _bytes(entries: Sequence[Entry | Rejected]) -> int:
    """Memory that entries take, about; they share chains."""
    read = [entry for entry in entries if type(entry) is Entry]
    chains = {entry.chain for entry in read}
    return (
        sum([len(entry.leaf) for entry in entries])
        + sum([len(entry.certificate) for entry in read])
        + sum(map(len, chains))
    )


async def _fetch(client: LogClient, start: int, end: int, size: WindowSize) -> Window:
    """All entries of [start, end), in as many requests as the log makes us send."""
    entries: list[Entry | Rejected] = []
    step = end - start
    while (at := start + len(entries)) < end:
        asked = min(step, end - at)
        try:
            answer = await client.entries(at, at + asked)
        except ResponseTooLarge:
            if asked <= size.least:
                raise
            size.too_large(asked)
            step = asked // 2
            continue
        size.answered(asked, len(answer))
        entries += answer
    return Window(start, entries)
