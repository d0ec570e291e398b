"""certstream-server-rust's state file: how far it had read each log.

Read once, at start, for logs that Redis does not know yet, so that whoever changes over to this
server misses nothing and repeats nothing.
"""

from pathlib import Path

import msgspec
import structlog

from ingestor.log import normalise

_log = structlog.get_logger(__name__)


class _LogState(msgspec.Struct):
    current_index: int


class _State(msgspec.Struct):
    logs: dict[str, _LogState]
    version: int = 1


def read_state(path: Path) -> dict[str, int]:
    """Read a state file.

    Args:
        path: the file; it need not exist.

    Returns:
        Normalised URL of a log -> index of the next entry to read. Empty when there is no file;
        an unreadable one is reported and counts as none, for Redis holds the real state.
    """
    try:
        state = msgspec.json.decode(path.read_bytes(), type=_State)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("state file ignored", file=str(path), problem=str(error))
        return {}
    return {normalise(url): max(0, log.current_index) for url, log in state.logs.items()}
