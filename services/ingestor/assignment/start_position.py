"""Where to start a log that Redis does not know yet.

Once Redis has the log, every worker continues from its `next`, and these settings have no effect.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from certconf.compat_rust import read_state_file
from ctparse.signatures import LogKey
from ingestor.client.errors import IntegrityViolation, LogError
from ingestor.client.interface import LogClient
from ingestor.client.log_availability import LogAvailability
from ingestor.log import Log, normalise
from ingestor.verification.alerts import IntegrityAlerts
from ingestor.verification.tree_heads import check_signature

_log = structlog.get_logger(__name__)


class StartSettings(msgspec.Struct, frozen=True):
    """The settings of the operator.

    Attributes:
        index: of the first entry to publish of every log (`ct_log.start_index`), if set.
        taken_over: normalised URL -> that index, from another server's state file.
        overlap: otherwise, start this many entries before the log's head.
    """

    index: int | None = None
    taken_over: Mapping[str, int] = {}
    overlap: int = 0


class StartPosition(msgspec.Struct, frozen=True):
    """Where a log starts.

    Attributes:
        index: of the first entry to publish.
        why: the reason, for the log line.
    """

    index: int
    why: str


def choose_start(log: Log, size: int, settings: StartSettings) -> StartPosition:
    """Return where to start a log whose newest tree has `size` entries."""
    if settings.index is not None:
        return StartPosition(settings.index, "start_index is set")
    taken_over = settings.taken_over.get(normalise(log.url))
    if taken_over is not None:
        return StartPosition(taken_over, "another server's state file")
    return StartPosition(
        max(0, size - settings.overlap), f"its head {size} less {settings.overlap} entries"
    )


async def find_start(
    log: Log,
    client: LogClient,
    key: LogKey | None,
    availability: LogAvailability,
    settings: StartSettings,
    alerts: IntegrityAlerts,
) -> StartPosition:
    """Request a log's tree head until it answers, and return where to start.

    Args:
        log: the log.
        client: reads it.
        key: verifies its tree heads; None if they need not be signed.
        availability: decides when to retry it.
        settings: those of the operator.
        alerts: of the log.
    """
    await availability.load()
    while True:
        await availability.can_poll()
        try:
            head = await client.tree_head()
            check_signature(log, key, head)
        except LogError as error:
            await availability.record_failure(error)
            if isinstance(error, IntegrityViolation):
                await alerts.report(error, 0)
        else:
            await availability.record_progress()
            return choose_start(log, head.size, settings)


def read_rust_state(path: Path) -> dict[str, int]:
    """Read the state file of certstream-server-rust: how far it had read each log.

    It applies to logs that Redis does not know yet, so that a change to this server neither loses
    nor repeats entries.

    Args:
        path: the file; it need not exist.

    Returns:
        Normalised URL of a log -> index of the next entry to read. Empty if there is no file, or
        if it is unreadable, which is logged: Redis has the real state.
    """
    try:
        positions = read_state_file(path)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("state file ignored", file=str(path), problem=str(error))
        return {}
    return {normalise(url): max(0, index) for url, index in positions.items()}
