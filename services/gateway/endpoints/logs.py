"""/api/logs: health, position and owner of every log that is not retired."""

from collections import Counter

import msgspec

from certbus.cluster_health import LogHealth
from certbus.cluster_report import ClusterReport, LogReport

_SOURCES = {
    "current_index": "next",
    "total_errors": "errors",
    "log_id": "id",
    "consecutive_errors": "failures",
    "lag": "behind",
}
"""Field -> the attribute of `LogReport` that it shows, where their names differ."""


class Log(msgspec.Struct, frozen=True):
    """One log. Times are Unix seconds.

    Attributes:
        name: in the log list or configuration; else its URL or id.
        url: base URL.
        operator: its operator.
        status: its health; "excluded" if a configuration excludes it.
        current_index: index of the next entry to publish.
        tree_size: entries by its newest tree head.
        total_errors: failed requests.
        last_success: time of the last valid response; null before the first.
        log_id: SHA-256 of its key in hex, or derived from its URL while no key is known.
        kind: rfc6962 or static-ct.
        state: as in the log list, "configured", "draining" while it is being retired, or
            "excluded".
        retired_why: why it is being retired; null if it is not.
        circuit: state of its circuit breaker: "closed", "open" (no requests), or "half-open" during
            a trial request.
        consecutive_errors: failed requests since the last valid response.
        retry_at: time of the next request, while the circuit is open.
        lag: entries that are not published yet.
        tree_head_age_seconds: time since the log signed the largest tree head that it has shown;
            null before the first.
        ingest_delay_seconds: time since the log accepted the newest entry that is accounted for,
            as new certificate or as duplicate; null before the first.
        owner: the ingestor that reads it; null if none does.
        last_error: the newest error.
        last_error_at: time of that error.
        integrity: `proven`, `unsigned`, `unproven`, `lying` or `off`.
        alarms: number of integrity violations.
        published: new certificates.
        duplicates: entries with a certificate that was already published.
        rejected: entries that could not be decoded.
        skipped: entries skipped, by an operator or because the log was too far behind.
        skip: the range skipped last, and the reason; null if there is none.
        skip_at: time of that skip.
    """

    name: str
    url: str
    operator: str
    status: LogHealth
    current_index: int
    tree_size: int
    total_errors: int
    last_success: int | None
    log_id: str
    kind: str
    state: str
    retired_why: str | None
    circuit: str
    consecutive_errors: int
    retry_at: int | None
    lag: int
    tree_head_age_seconds: float | None
    ingest_delay_seconds: float | None
    owner: str | None
    last_error: str | None
    last_error_at: int | None
    integrity: str
    alarms: int
    published: int
    duplicates: int
    rejected: int
    skipped: int
    skip: str | None
    skip_at: int | None


class Logs(msgspec.Struct, frozen=True):
    """All logs that are not retired.

    Attributes:
        total_logs: number of logs.
        healthy: number of healthy logs.
        degraded: number of logs with recent errors, without proofs, or not read yet.
        unhealthy: number of logs that do not answer, or misbehave.
        logs: each log, by name.
    """

    total_logs: int
    healthy: int
    degraded: int
    unhealthy: int
    logs: list[Log]


def logs(report: ClusterReport) -> Logs:
    """Show every log."""
    shown = [_log(log) for log in report.logs]
    counts = Counter(log.status for log in shown)
    return Logs(len(shown), counts["healthy"], counts["degraded"], counts["unhealthy"], shown)


def _log(log: LogReport) -> Log:
    fields = {name: getattr(log, _SOURCES.get(name, name)) for name in Log.__struct_fields__}
    return Log(**fields | {"current_index": log.next or 0})
