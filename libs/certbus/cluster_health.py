"""The health of the whole service: one evaluation, for /health/deep, `status` and the metrics.

Every fault has a code that stays the same from release to release. docs/runbook.md has a table of
them. Faults have three sources: the state of Redis (`server_state.py`), the cluster, and
what each process saw itself and reports in its heartbeat (`Faults`).

Texts name logs, processes and settings. They contain no address, no URL and no error message of a
log, because /health/deep is public by default.

Pure: no connection, no clock.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from certbus.cluster import EXCLUDED, LogStatus, ProcessInfo, Snapshot
from certbus.ids import parse_entry_id
from certbus.keys import STREAMS
from certbus.server_state import ServerState
from certbus.store import read_json

Health = Literal["healthy", "degraded", "unhealthy"]
LogHealth = Literal["healthy", "degraded", "unhealthy", "excluded"]
Severity = Literal["critical", "warning"]

CODES: Final[Mapping[str, Severity]] = {
    "redis_unreachable": "critical",
    "redis_full": "critical",
    "redis_misconf": "critical",
    "redis_read_only": "critical",
    "redis_lacks_replicas": "critical",
    "redis_emptied": "warning",
    "redis_rewound": "warning",
    "redis_clock_ahead": "warning",
    "redis_clock_behind": "warning",
    "stream_ids_ahead": "warning",
    "dedup_window_shortened": "warning",
    "no_ingestor": "critical",
    "no_gateway": "warning",
    "gateway_not_following": "warning",
    "no_log_healthy": "critical",
    "log_unhealthy": "warning",
    "log_failing": "warning",
    "log_unproven": "warning",
    "log_misbehaving": "warning",
    "log_costly": "warning",
    "log_redis_error": "warning",
    "stream_not_written": "warning",
    "ingestors_differ": "warning",
    "connections_exhausted": "warning",
    "descriptors_exhausted": "warning",
    "task_failing": "warning",
    "starting": "warning",
}
"""Every code that a problem can have. A critical one makes the service unhealthy, any other one
degraded."""

FAULTS: Final = "faults"
"""Field of a heartbeat: the faults that the process saw, as JSON: code -> text."""

STREAMS_SERVED: Final = "serves"
"""Field of a gateway's heartbeat: the streams that it offers, separated by spaces."""

STREAMS_WRITTEN: Final = "writes"
"""Field of an ingestor's heartbeat: the streams of its configuration, separated by spaces."""

RATES: Final = "rates"
"""Field of an ingestor's heartbeat: certificates published a second, over the last ten, as JSON:
log id -> number."""

CLOCK_TOLERANCE_MS: Final = 5_000
"""How far two clocks may differ before that is a problem."""

BARREN: Final = 100
"""Entries rejected in a row after which a log is unhealthy although others were published."""

_LOG_SILENCE_MS: Final = 300_000  # after which a log that answered once is unhealthy
_NAMES: Final = 5  # named in one text; the others are counted
_TEXT: Final = 500  # characters


class HealthProblem(msgspec.Struct, frozen=True):
    """One fault that holds now.

    Attributes:
        code: a key of `CODES`; stays the same from release to release.
        severity: "critical": clients miss something now. "warning": they do not yet.
        text: what is wrong, with the names and numbers.
    """

    code: str
    severity: Severity
    text: str


class HealthReport(msgspec.Struct, frozen=True):
    """The health of the service.

    Attributes:
        status: "unhealthy" with a critical problem, "degraded" with any other one.
        problems: critical ones first, otherwise in the order of `CODES`.
        logs: the health of each log that is not retired, by log id.
    """

    status: Health
    problems: list[HealthProblem]
    logs: dict[str, LogHealth]


class Faults:
    """The faults that one process sees itself. Each lasts for a while after it was last noted.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._noted: dict[str, tuple[float, str]] = {}

    def report(self, code: str, text: str, lasts: float) -> None:
        """Report a fault for the next `lasts` seconds. A later note of the code replaces it."""
        self._noted[code] = self._clock() + lasts, text

    def end(self, code: str) -> None:
        """Report that fault no more."""
        self._noted.pop(code, None)

    def current(self) -> dict[str, str]:
        """The faults that hold now: code -> text."""
        now = self._clock()
        self._noted = {code: noted for code, noted in self._noted.items() if noted[0] > now}
        return {code: text for code, (_, text) in self._noted.items()}

    def field(self) -> str:
        """The value of the heartbeat's field `FAULTS`."""
        return msgspec.json.encode(self.current()).decode()


def evaluate(
    seen: Snapshot | None,
    server: ServerState | str,
    *,
    unhealthy_threshold: int,
    own: Mapping[str, str] | None = None,
    starting: bool = False,
) -> HealthReport:
    """Evaluate the health of the service.

    Args:
        seen: the cluster, as last read; None if it was never read.
        server: the state of Redis; a text with the reason if it cannot be read.
        unhealthy_threshold: see `log_health`.
        own: faults that the caller saw itself, code -> text. They count even if the heartbeat
            with them does not reach Redis.
        starting: whether the caller started a moment ago, so that what is not there yet may be
            about to come.
    """
    logs: dict[str, LogHealth] = {}
    if seen is not None:  # times in Redis are compared with its own clock
        logs = {
            log.log_id: log_health(log, seen.now, unhealthy_threshold)
            for log in active_logs(seen.logs)
        }
    found: list[tuple[str, str]] = list((own or {}).items())
    if isinstance(server, str):
        code = "starting" if starting else "redis_unreachable"
        found.append((code, f"Redis does not answer: {server}"))
    else:
        found += _of_server(server, seen)
    refused = {"redis_misconf", "redis_read_only", "redis_lacks_replicas"} & {
        code for code, _ in found
    }
    if seen is not None:
        # What Redis refuses to write includes heartbeats: who runs is not known then.
        if not isinstance(server, str) and not refused:
            found += _of_members(seen, starting=starting)
        found += _of_streams(seen)
        followed = [log for log in active_logs(seen.logs) if log.state != EXCLUDED]
        found += _of_logs(followed, logs)
        found += _reported([*seen.workers, *seen.gateways])
    problems = _sorted(found)
    return HealthReport(_status(problems), problems, logs)


def active_logs(logs: Iterable[LogStatus]) -> list[LogStatus]:
    """Return the logs that are not retired."""
    return [log for log in logs if log.retired is None]


def log_health(log: LogStatus, now: int, unhealthy_threshold: int) -> LogHealth:
    """Judge one log: the one definition, for /health/deep, /api/logs and `status`.

    Args:
        log: as Redis knows it.
        now: milliseconds since the epoch.
        unhealthy_threshold: failures in a row that make it unhealthy.

    Returns:
        "unhealthy" if its circuit is open, it has failed that often in a row, has not answered for
        five minutes, contradicts what it signed, or yields nothing because its entries are
        rejected. "degraded" if it has just failed, is being tried again, has not answered yet, or
        nothing proves its entries. "excluded" if a configuration excludes it.
    """
    if log.state == EXCLUDED:
        return "excluded"
    if log.circuit == "open" or log.failures >= unhealthy_threshold or log.integrity == "lying":
        return "unhealthy"
    if log.barren >= BARREN or (log.barren and not log.published + log.duplicates):
        return "unhealthy"
    success, failure = log.last_success or 0, log.last_error_at or 0
    if now - success > _LOG_SILENCE_MS:
        return "unhealthy" if success or failure else "degraded"
    if log.failures or log.circuit != "closed" or _is_unproven(log):
        return "degraded"
    return "healthy"


def _is_unproven(log: LogStatus) -> bool:
    """Whether the log was found to give no proof of its entries, and has given none since."""
    return log.integrity == "unproven" and log.alarms_by_kind.get("no_proof", 0) > 0


def number(fields: Mapping[str, str], name: str) -> float:
    """A number from a heartbeat; 0 if it is missing or no number."""
    try:
        value = float(fields.get(name) or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def rates_of(member: ProcessInfo, name: str) -> dict[str, float]:
    """A JSON object of numbers from a heartbeat; empty if it is missing or something else."""
    return read_json(member.fields.get(name), dict[str, float]) or {}


def _of_server(server: ServerState, seen: Snapshot | None) -> Iterable[tuple[str, str]]:
    if server.is_full:
        text = f"Redis uses {server.used_memory:,} of {server.max_memory:,} bytes of maxmemory and"
        yield "redis_full", f"{text} rejects batches; see maxmemory and retention"
    if server.disk_error is not None:
        text = f"Redis rejects all writes (MISCONF): {server.disk_error}; see its disk and its log"
        yield "redis_misconf", text
    if server.is_replica:
        yield "redis_read_only", "redis_url names a replica, which rejects all writes (READONLY)"
    if server.lacks_replicas:
        text = "Redis rejects all writes (NOREPLICAS): fewer replicas than min-replicas-to-write"
        yield "redis_lacks_replicas", f"{text} are connected and up to date"
    if abs(server.ahead) > CLOCK_TOLERANCE_MS:
        code = "redis_clock_ahead" if server.ahead > 0 else "redis_clock_behind"
        side = "ahead of" if server.ahead > 0 else "behind"
        yield code, f"the clock of Redis is {_seconds(abs(server.ahead))} {side} this host's clock"
    last = _milliseconds(seen.last if seen else None)
    if seen is not None and last is not None and last - server.now > CLOCK_TOLERANCE_MS:
        text = f"the newest entry id {seen.last} is {_seconds(last - server.now)} ahead of"
        yield "stream_ids_ahead", f"{text} the clock of Redis, which was set back"


def _of_members(seen: Snapshot, *, starting: bool) -> Iterable[tuple[str, str]]:
    if not seen.workers:
        code = "starting" if starting else "no_ingestor"
        yield code, "no ingestor has sent a heartbeat for 5 s: nothing is published"
    if not seen.gateways and not starting:
        yield "no_gateway", "no gateway has sent a heartbeat for 15 s"
    lost = [member.id for member in seen.gateways if member.fields.get("following") == "0"]
    if lost and not starting:
        yield "gateway_not_following", f"gateways that do not read the streams: {_names(lost)}"


def _of_streams(seen: Snapshot) -> Iterable[tuple[str, str]]:
    written = {stream.name for stream in seen.streams if stream.written}
    if seen.epoch is not None and any(name in written for name in STREAMS):
        served = {
            stream: member.id
            for member in seen.gateways
            for stream in member.fields.get(STREAMS_SERVED, "").split()
        }
        for stream in STREAMS:
            if stream in served and stream not in written:
                text = f"gateway {served[stream]} serves the stream {stream}, which no ingestor"
                setting = "see streams in the configuration of the ingestors"
                yield "stream_not_written", f"{text} writes; {setting}"
    streams_of = {
        member.id: member.fields[STREAMS_WRITTEN]
        for member in seen.workers
        if STREAMS_WRITTEN in member.fields
    }
    if len(set(streams_of.values())) > 1:
        each = _names(
            [f"{worker} writes {streams}" for worker, streams in sorted(streams_of.items())]
        )
        yield "ingestors_differ", f"streams differ between ingestors: {each}"


def _of_logs(
    logs: Sequence[LogStatus], health: Mapping[str, LogHealth]
) -> Iterable[tuple[str, str]]:
    def named(wanted: Callable[[LogStatus], object]) -> list[str]:
        return sorted(log.name or log.log_id for log in logs if wanted(log))

    bad = named(lambda log: health[log.log_id] == "unhealthy")
    weak = named(lambda log: health[log.log_id] == "degraded" and not _is_unproven(log))
    if bad and all(health[log.log_id] != "healthy" for log in logs):
        yield "no_log_healthy", f"none of {len(logs)} logs is healthy"
    if bad:
        yield "log_unhealthy", f"{len(bad)} of {len(logs)} logs: {_names(bad)}"
    if weak:
        yield "log_failing", f"{len(weak)} of {len(logs)} logs: {_names(weak)}"
    misbehaving = named(lambda log: log.integrity == "lying")
    if misbehaving:
        yield "log_misbehaving", f"logs that contradict what they signed: {_names(misbehaving)}"
    unproven = named(_is_unproven)
    if unproven:
        yield "log_unproven", f"logs that give no proof of their entries: {_names(unproven)}"


def _reported(members: Iterable[ProcessInfo]) -> Iterable[tuple[str, str]]:
    for member in members:
        faults = read_json(member.fields.get(FAULTS), dict[str, str]) or {}
        for code, text in faults.items():
            if code in CODES:
                yield code, f"{member.id}: {text}"


def _sorted(found: Iterable[tuple[str, str]]) -> list[HealthProblem]:
    """One problem for each code: the texts of several processes are joined."""
    texts: dict[str, list[str]] = {}
    for code, text in found:
        known = texts.setdefault(code, [])
        if not any(text in other or other in text for other in known):
            known.append(text)
    order = list(CODES)
    problems = [
        HealthProblem(code, CODES[code], _line(_names(known, "; ")))
        for code, known in texts.items()
    ]
    return sorted(
        problems, key=lambda problem: (problem.severity != "critical", order.index(problem.code))
    )


def _status(problems: Sequence[HealthProblem]) -> Health:
    if any(problem.severity == "critical" for problem in problems):
        return "unhealthy"
    return "degraded" if problems else "healthy"


def _names(names: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES} more"


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:_TEXT]


def _milliseconds(entry: str | None) -> int | None:
    try:
        return None if entry is None else parse_entry_id(entry).ms
    except ValueError:
        return None


def _seconds(ms: int) -> str:
    return f"{ms / 1000:,.0f} s"
