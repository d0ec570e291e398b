"""Where to start a log that Redis does not know yet.

Only then: once Redis has the log, its `next` is where every worker goes on, whatever these
settings say.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from ctparse.treehead import TreeHead
from ingestor.catalog.log import Log, normalise
from ingestor.ctclient.backoff import jittered
from ingestor.ctclient.errors import LogError
from ingestor.ctclient.fetch import Retry
from ingestor.ctclient.protocol import LogClient
from ingestor.follow.follower import warn_unavailable


class Starts(msgspec.Struct, frozen=True):
    """What the operator said.

    Attributes:
        index: of the first entry to publish of every log (`ct_log.start_index`), if set.
        taken_over: normalised URL -> that index, from another server's state file.
        overlap: otherwise, this many entries before the log's head.
    """

    index: int | None = None
    taken_over: Mapping[str, int] = {}
    overlap: int = 0


class Start(msgspec.Struct, frozen=True):
    """Where a log starts, and why.

    Attributes:
        index: of the first entry to publish.
        why: for the log line.
    """

    index: int
    why: str


def choose(log: Log, size: int, starts: Starts) -> Start:
    """Decide where to start.

    Args:
        log: the log.
        size: of its newest tree.
        starts: what the operator said.
    """
    if starts.index is not None:
        return Start(starts.index, "start_index is set")
    taken_over = starts.taken_over.get(normalise(log.url))
    if taken_over is not None:
        return Start(taken_over, "another server's state file")
    return Start(max(0, size - starts.overlap), f"its head {size} less {starts.overlap} entries")


async def find_start(
    log: Log,
    client: LogClient,
    retry: Retry,
    starts: Starts,
    failed: Callable[[str], Awaitable[None]],
    check: Callable[[TreeHead], None] | None = None,
) -> Start:
    """Ask a log for its head until it answers, and decide where to start.

    Args:
        log: the log.
        client: reads it.
        retry: delays while it does not answer.
        starts: what the operator said.
        failed: is told each failure, one line for a person.
        check: raises LogError for a tree head that is not the log's.
    """
    attempt = 0
    while True:
        try:
            head = await client.tree_head()
            if check is not None:
                check(head)
        except LogError as error:
            wait = jittered(attempt, retry.initial, retry.maximum)
            if attempt == 0:
                warn_unavailable(log, error, wait)
            await failed(error.summary)
            await asyncio.sleep(wait)
            attempt += 1
        else:
            return choose(log, head.size, starts)
