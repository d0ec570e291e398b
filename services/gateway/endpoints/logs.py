"""/api/logs: every log that is read, how it does, and who reads it."""

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
        name: what its operator calls it.
        url: where it is.
        operator: who runs it.
        status: how it does; "excluded" if a configuration excludes it.
        current_index: of the next entry to publish.
        tree_size: entries in its newest tree head.
        total_errors: requests to it that failed.
        last_success: when it last answered as it should; null if it never did.
        log_id: SHA-256 of its key in hex, or made of its URL while no key is known.
        kind: rfc6962 or static-ct.
        state: that of the log list, "configured", "draining" once it is retired, or "excluded".
        retired_why: why it is retired; null if it is not.
        circuit: "closed" while requests are sent to it, "open" while none are, "half-open" during
            a trial request.
        consecutive_errors: since it last answered.
        retry_at: time of the next request, while the circuit is open.
        lag: entries that are yet to be published.
        tree_head_age_seconds: time since the log signed the largest tree head that it has shown;
            null before the first.
        ingest_delay_seconds: time since the log accepted the newest entry that is accounted for,
            as new certificate or as duplicate; null before the first.
        owner: the ingestor that reads it; null if none does.
        last_error: what was wrong last.
        last_error_at: when.
        integrity: `proven`, `unsigned`, `unproven`, `lying` or `off`.
        alarms: how often it contradicted itself.
        published: new certificates; with the next three, what became of its entries.
        duplicates: certificates that were known already.
        rejected: entries that could not be read.
        skipped: entries left out by the operator.
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


class Logs(msgspec.Struct, frozen=True):
    """All logs that are not over.

    Attributes:
        total_logs: how many there are.
        healthy: number of them; the same for the next two.
        degraded: fail now and then, or were not heard of yet.
        unhealthy: do not answer, or misbehave.
        logs: each of them, by name.
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
