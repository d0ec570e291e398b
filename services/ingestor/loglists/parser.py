"""Parses a log list in Google's v3 format, or Apple's: JSON -> logs.

Formats: https://www.gstatic.com/ct/log_list/v3/log_list_schema.json and
https://valid.apple.com/ct/log_list/schema_versions/log_list_schema_v5.json, which differ in the
date of the list. RFC 6962 logs are under `logs`, static-ct logs under `tiled_logs`; the state of a
log is the one key of its `state` object. The parser ignores all other fields, so it reads newer
schemas, and skips an entry that it cannot read. It accepts a byte order mark and an invalid date,
on which nothing depends.
"""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from ctparse.entry import Malformed
from ingestor.client.addresses import FILE
from ingestor.log import READ_MARGIN_SECS, Kind, Log, log_id, normalise

# States in which browsers trust the certificates of a log, or will.
FOLLOWED_STATES = frozenset({"qualified", "usable", "readonly"})
# States in which no browser trusts a log any more.
ENDED_STATES = frozenset({"retired", "rejected"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The real lists have some 200 logs, most of them ended.
MAX_LOGS = 2000
_MAX_NAME_CHARS = 200
_MAX_MMD_SECS = 7 * 86400.0

T = TypeVar("T")


class _Interval(msgspec.Struct):
    end_exclusive: datetime


class _State(msgspec.Struct):
    timestamp: datetime | None = None


class _Log(msgspec.Struct):
    key: bytes  # base64 in the list
    log_id: bytes = b""
    description: str = ""
    url: str = ""
    submission_url: str = ""
    monitoring_url: str = ""
    mmd: float = 86400.0
    state: dict[str, _State] = {}
    temporal_interval: _Interval | None = None


class _Operator(msgspec.Struct):
    name: str
    logs: list[msgspec.Raw] = []
    tiled_logs: list[msgspec.Raw] = []


class _List(msgspec.Struct):
    operators: list[msgspec.Raw]
    version: str | int = ""
    log_list_timestamp: msgspec.Raw = msgspec.Raw(b"null")


class LogList(msgspec.Struct, frozen=True):
    """The content of a list.

    Attributes:
        version: as the list states it.
        published_at: as the list states it, seconds since the epoch; None without a date.
        logs: every log that can be read, in any state.
        unreadable: one line for each entry that cannot be read.
    """

    version: str
    published_at: float | None
    logs: tuple[Log, ...]
    unreadable: tuple[str, ...] = ()

    @property
    def rank(self) -> str:
        """Text that orders lists: by date, and by version if they have none."""
        numbers = "".join(f"{int(part):020d}." for part in re.findall(r"\d{1,20}", self.version))
        return f"{int(max(self.published_at or 0.0, 0.0)):012d} {numbers[:200]}"


def parse(body: bytes, listed_at: str = FILE, unsigned_list: str = "") -> LogList:
    """Parse a list.

    Args:
        body: as it was served.
        listed_at: scheme and authority of its URL, or "file", as `Log.listed_at`. Only a list that
            came over plain HTTP, or from a file, may have logs at plain HTTP.
        unsigned_list: its name if it is unsigned, as `Log.unsigned_list`.

    Raises:
        Malformed: it is not a log list, or has more than `MAX_LOGS` logs or operators.
    """
    try:
        read = _read(body.removeprefix(_BYTE_ORDER_MARK), _List)
    except ValueError as error:
        raise Malformed(f"not a log list: {error}") from error
    if len(read.operators) > MAX_LOGS:
        raise Malformed(f"more than {MAX_LOGS:,} operators")
    logs: list[Log] = []
    unreadable: list[str] = []
    for operator, kind, entry in _entries(read, unreadable):
        if len(logs) + len(unreadable) >= MAX_LOGS:
            raise Malformed(f"more than {MAX_LOGS:,} logs")
        where = f"log {len(logs) + len(unreadable) + 1} ({operator})"
        try:
            log = _log(_read(entry, _Log), operator, kind, listed_at)
            logs.append(msgspec.structs.replace(log, unsigned_list=unsigned_list))
        except ValueError as error:
            unreadable.append(f"{where}: {error}")
    made = _time(read.log_list_timestamp)
    return LogList(
        version=str(read.version)[:_MAX_NAME_CHARS],
        published_at=None if made is None else _seconds(made),
        logs=tuple(logs),
        unreadable=tuple(unreadable),
    )


def _entries(read: _List, unreadable: list[str]) -> Iterator[tuple[str, Kind, msgspec.Raw]]:
    """Yield every entry with its operator; add operators that cannot be read to `unreadable`."""
    for position, raw in enumerate(read.operators, 1):
        try:
            operator = _read(raw, _Operator)
        except ValueError as error:
            unreadable.append(f"operator {position}: {error}")
            continue
        name = _line(operator.name)
        yield from ((name, Kind.RFC6962, entry) for entry in operator.logs)
        yield from ((name, Kind.STATIC_CT, entry) for entry in operator.tiled_logs)


def _read(text: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Decode JSON.

    Raises:
        ValueError: it is no JSON of this type.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:  # nested too deeply
        raise ValueError(str(error)) from error


def _time(text: msgspec.Raw) -> datetime | None:
    """Parse a date (RFC 3339); None if it is invalid."""
    try:
        return msgspec.json.decode(text, type=datetime)
    except msgspec.DecodeError:
        return None


def _log(log: _Log, operator: str, kind: Kind, listed_at: str) -> Log:
    url = log.url if kind is Kind.RFC6962 else log.monitoring_url
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"{_line(log.description)!r} has URL {url[:_MAX_NAME_CHARS]!r}")
    if url.startswith("http://") and listed_at.startswith("https://"):
        problem = f"{_line(log.description)!r} has URL {url[:_MAX_NAME_CHARS]!r}"
        raise ValueError(
            f"{problem}: a list that was read over https:// may have logs at https:// only"
        )
    normalise(url)
    identity = log_id(log.key)
    if log.log_id and log.log_id.hex() != identity:
        shown = base64.b64encode(log.log_id[:_MAX_NAME_CHARS]).decode()
        raise ValueError(f"{_line(log.description)!r} has log id {shown}, but its key has another")
    interval = log.temporal_interval
    state, entered = next(iter(log.state.items()), ("unknown", _State()))
    return Log(
        id=identity,
        name=_line(log.description) or url,
        url=url,
        kind=kind,
        operator=operator,
        state=_line(state),
        since=None if entered.timestamp is None else _seconds(entered.timestamp),
        key=log.key,
        listed_at=listed_at,
        mmd=min(max(log.mmd, 0.0), _MAX_MMD_SECS),
        # "The submission prefix of the log as a schema-less URL with no trailing slashes."
        origin=log.submission_url.partition("://")[2].rstrip("/") or None,
        end_exclusive=None if interval is None else _seconds(interval.end_exclusive),
    )


def _line(text: str) -> str:
    """Return a name for log lines and labels: one line of bounded length."""
    return " ".join(text.split())[:_MAX_NAME_CHARS]


def _seconds(moment: datetime) -> float:
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def is_followed(log: Log, now: float) -> bool:
    """Return whether a listed log should be followed at `now`, seconds since the epoch."""
    return log.state in FOLLOWED_STATES and not has_ended(log, now)


def has_ended(log: Log, now: float) -> bool:
    """Return whether a log's temporal interval has ended, and the margin after it.

    A shard takes certificates that expire before its end.
    """
    return log.end_exclusive is not None and log.end_exclusive <= now - READ_MARGIN_SECS
