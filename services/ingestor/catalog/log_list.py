"""A log list in Google's v3 format: JSON -> logs.

Format: https://www.gstatic.com/ct/log_list/v3/log_list_schema.json. RFC 6962 logs stand under
`logs`, static-ct logs under `tiled_logs`; the state of a log is the one key of its `state` object.
Fields that do not matter here are not looked at, so a newer schema still reads.
"""

from datetime import datetime

import msgspec

from ctparse.entry import Malformed
from ingestor.catalog.log import Kind, Log, log_id

# States in which a log has, or will have, certificates that browsers trust.
FOLLOWED_STATES = frozenset({"qualified", "usable", "readonly"})
# A shard takes certificates that expire before its end; when that has passed, so has their use.
# The margin lets whoever was behind read the last of them.
MARGIN = 7 * 86400.0


class _Interval(msgspec.Struct):
    end_exclusive: datetime


class _Log(msgspec.Struct):
    key: bytes  # base64 in the list
    description: str = ""
    url: str = ""
    submission_url: str = ""
    monitoring_url: str = ""
    mmd: float = 86400.0
    state: dict[str, msgspec.Raw] = {}
    temporal_interval: _Interval | None = None


class _Operator(msgspec.Struct):
    name: str
    logs: list[_Log] = []
    tiled_logs: list[_Log] = []


class _List(msgspec.Struct):
    operators: list[_Operator]
    version: str = ""
    log_list_timestamp: str = ""


class LogList(msgspec.Struct, frozen=True):
    """What a list says.

    Attributes:
        version: the list's own version.
        timestamp: when it was made, as it says.
        logs: every log on it, in whatever state.
    """

    version: str
    timestamp: str
    logs: tuple[Log, ...]


def parse(body: bytes) -> LogList:
    """Read a list.

    Raises:
        Malformed: it is not a log list; says where.
    """
    try:
        read = msgspec.json.decode(body, type=_List)
    except msgspec.DecodeError as error:
        raise Malformed(f"not a v3 log list: {error}") from error
    logs = []
    for operator in read.operators:
        logs += [_log(log, operator.name, Kind.RFC6962, log.url) for log in operator.logs]
        logs += [
            _log(log, operator.name, Kind.STATIC_CT, log.monitoring_url)
            for log in operator.tiled_logs
        ]
    return LogList(read.version, read.log_list_timestamp, tuple(logs))


def _log(log: _Log, operator: str, kind: Kind, url: str) -> Log:
    if not url.startswith(("https://", "http://")):
        raise Malformed(f"not a v3 log list: {log.description!r} of {operator} has URL {url!r}")
    interval = log.temporal_interval
    return Log(
        id=log_id(log.key),
        name=log.description or url,
        url=url,
        kind=kind,
        operator=operator,
        state=next(iter(log.state), "unknown"),
        key=log.key,
        mmd=log.mmd,
        # "The submission prefix of the log as a schema-less URL with no trailing slashes."
        origin=log.submission_url.partition("://")[2].rstrip("/") or None,
        end_exclusive=interval.end_exclusive.timestamp() if interval else None,
    )


def is_followed(log: Log, now: float) -> bool:
    """Whether a listed log still matters.

    Args:
        log: a log of a list.
        now: seconds since the epoch.
    """
    ended = log.end_exclusive is not None and log.end_exclusive <= now - MARGIN
    return log.state in FOLLOWED_STATES and not ended
