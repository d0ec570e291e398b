"""Where to start a log that Redis does not know yet.

Only then: once Redis has the log, its `next` is where every worker goes on, whatever these
settings say.
"""

from collections.abc import Callable, Mapping

import msgspec

from ctparse.tree_head import TreeHead
from ingestor.client.errors import IntegrityViolation, LogError
from ingestor.client.interface import LogClient
from ingestor.client.log_availability import LogAvailability
from ingestor.log import Log, normalise
from ingestor.verification.alerts import IntegrityAlerts


class StartSettings(msgspec.Struct, frozen=True):
    """What the operator said.

    Attributes:
        index: of the first entry to publish of every log (`ct_log.start_index`), if set.
        taken_over: normalised URL -> that index, from another server's state file.
        overlap: otherwise, this many entries before the log's head.
    """

    index: int | None = None
    taken_over: Mapping[str, int] = {}
    overlap: int = 0


class StartPosition(msgspec.Struct, frozen=True):
    """Where a log starts, and why.

    Attributes:
        index: of the first entry to publish.
        why: for the log line.
    """

    index: int
    why: str


def choose_start(log: Log, size: int, starts: StartSettings) -> StartPosition:
    """Decide where to start.

    Args:
        log: the log.
        size: of its newest tree.
        starts: what the operator said.
    """
    if starts.index is not None:
        return StartPosition(starts.index, "start_index is set")
    taken_over = starts.taken_over.get(normalise(log.url))
    if taken_over is not None:
        return StartPosition(taken_over, "another server's state file")
    return StartPosition(
        max(0, size - starts.overlap), f"its head {size} less {starts.overlap} entries"
    )


async def find_start(
    log: Log,
    client: LogClient,
    breaker: LogAvailability,
    starts: StartSettings,
    alarms: IntegrityAlerts,
    check: Callable[[TreeHead], None] | None = None,
) -> StartPosition:
    """Ask a log for its head until it answers, and decide where to start.

    Args:
        log: the log.
        client: reads it.
        breaker: says when it is tried again.
        starts: what the operator said.
        alarms: of the log.
        check: raises LogError for a tree head that is not the log's.
    """
    await breaker.load()
    while True:
        await breaker.can_poll()
        try:
            head = await client.tree_head()
            if check is not None:
                check(head)
        except LogError as error:
            await breaker.record_failure(error)
            if isinstance(error, IntegrityViolation):
                await alarms.violation(error, 0)
        else:
            await breaker.record_progress()
            return choose_start(log, head.size, starts)
