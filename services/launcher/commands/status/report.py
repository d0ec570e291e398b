"""The snapshot of a cluster and its rates as one value. Pure: no connection, no clock.

Its JSON is an interface for scripts: names stay, new ones may be added.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from certbus.cluster import LogStatus, ProcessInfo, Snapshot, StreamRange
from certbus.cluster_health import (
    RATES,
    Health,
    HealthProblem,
    active_logs,
    evaluate,
    number,
    rates_of,
)
from certbus.server_state import ServerState


class Log(msgspec.Struct, frozen=True):
    """One log that is not retired. Times are Unix seconds.

    Attributes:
        id: SHA-256 of its key in hex, or derived from its URL while no key is known.
        name: in the log list or configuration; else its URL or id.
        url: base URL.
        operator: name.
        kind: rfc6962 or static-ct.
        state: as in the log list, "configured", or "draining" while it is being retired.
        status: its health.
        owner: the ingestor that reads it; null if none does.
        start: index of the first entry to publish; null until the log is started.
        next: index of the next entry to publish; null until the log is started.
        tree_size: entries by its newest tree head.
        behind: entries that are not yet published.
        tree_head_age_seconds: time since the log signed the largest tree head that it has shown;
            null before the first.
        ingest_delay_seconds: time since the log accepted the newest entry that is accounted for,
            as new certificate or as duplicate; null before the first.
        published: new certificates. published + duplicates + rejected + skipped = next - start.
        duplicates: entries with a certificate that was already published.
        rejected: entries that could not be decoded.
        skipped: entries skipped by an operator.
        published_per_second: over the last ten seconds.
        circuit: state of its circuit breaker: closed, half-open or open.
        failures: consecutive failures.
        retry_at: time of the next request, while the circuit is open.
        integrity: `proven`, `unsigned`, `unproven`, `lying` or `off`.
        alarms: number of integrity violations.
        alarm: the newest integrity violation.
        last_success: when everything up to its tree head was last published.
        last_error: the newest error.
        last_error_at: time of that error.
    """

    id: str
    name: str
    url: str
    operator: str
    kind: str
    state: str
    status: Health
    owner: str | None
    start: int | None
    next: int | None
    tree_size: int
    behind: int
    tree_head_age_seconds: float | None
    ingest_delay_seconds: float | None
    published: int
    duplicates: int
    rejected: int
    skipped: int
    published_per_second: float
    circuit: str
    failures: int
    retry_at: int | None
    integrity: str
    alarms: int
    alarm: str | None
    last_success: int | None
    last_error: str | None
    last_error_at: int | None

    @property
    def trouble(self) -> str:
        """The present problem, in a few words; empty if there is none."""
        if self.integrity == "lying":
            return f"misbehaving: {self.alarm or 'see docs/integrity.md'}"
        if self.failures or (self.last_error_at or 0) > (self.last_success or 0):
            return (self.last_error or self.circuit).removeprefix(self.url)
        if self.circuit != "closed":
            return f"circuit {self.circuit}"
        if self.owner is None:
            return "no ingestor reads it"
        return ""


class Retired(msgspec.Struct, frozen=True):
    """One log that is retired and drained; Redis keeps it for 30 days.

    Attributes:
        id: as in `Log.id`.
        name: as in `Log.name`.
        why: the reason of its retirement.
        at: when it was dropped, Unix seconds.
        next: index of the entry at which it would resume.
    """

    id: str
    name: str
    why: str | None
    at: int | None
    next: int | None


class Ingestor(msgspec.Struct, frozen=True):
    """One ingestor.

    Attributes:
        id: as in `Log.owner`.
        host: its host name.
        pid: its process id.
        admin: address of its admin listener; empty if it has none.
        logs: number of logs that it reads.
        published_per_second: over the last ten seconds.
    """

    id: str
    host: str
    pid: int
    admin: str
    logs: int
    published_per_second: float


class Gateway(msgspec.Struct, frozen=True):
    """One gateway.

    Attributes:
        id: random.
        host: its host name.
        url: base URL for clients.
        admin: address of its admin listener; empty if it has none.
        following: whether it reads the streams.
        clients: connected clients.
        websocket: clients over WebSocket.
        sse: clients over server-sent events.
        messages_sent: since its start.
        bytes_sent: since its start.
        messages_per_second: over the last ten seconds.
        bytes_per_second: over the last ten seconds.
    """

    id: str
    host: str
    url: str
    admin: str
    following: bool
    clients: int
    websocket: int
    sse: int
    messages_sent: int
    bytes_sent: int
    messages_per_second: float
    bytes_per_second: float


class Stream(msgspec.Struct, frozen=True):
    """The content of a stream in Redis.

    Attributes:
        name: full, lite, domains, or rejected.
        written: whether ingestors write it.
        batches: number.
        messages: in all batches.
        bytes: of all batches, packed.
        oldest_age_seconds: age of the oldest batch; null without one.
        newest_age_seconds: age of the newest batch; null without one.
    """

    name: str
    written: bool
    batches: int
    messages: int
    bytes: int
    oldest_age_seconds: float | None
    newest_age_seconds: float | None


class Report(msgspec.Struct, frozen=True):
    """The whole cluster.

    Attributes:
        status: "unhealthy" with a critical problem, "degraded" with any other one.
        time: of this report.
        certificates_per_second: published by all ingestors.
        messages_per_second: sent by all gateways.
        clients: connected to all gateways.
        redis_bytes: memory that Redis uses.
        redis_max_bytes: memory that it may use; 0 without a limit.
        dedup_window_seconds: time for which a published certificate is not published again; null
            until an ingestor has reported it.
        logs: not retired, by name.
        retired: retired logs, by name.
        ingestors: by id.
        gateways: by id.
        streams: full, lite, domains, rejected.
        problems: critical ones first; docs/runbook.md explains each code.
    """

    status: Health
    time: datetime
    certificates_per_second: float
    messages_per_second: float
    clients: int
    redis_bytes: int
    redis_max_bytes: int
    dedup_window_seconds: int | None
    logs: list[Log]
    retired: list[Retired]
    ingestors: list[Ingestor]
    gateways: list[Gateway]
    streams: list[Stream]
    problems: list[HealthProblem]


class StatusInput(msgspec.Struct, frozen=True):
    """The data of one report.

    Attributes:
        now: TIME of Redis, in seconds since the epoch.
        directory: logs, ingestors, gateways and streams.
        spans: of the streams.
        server: INFO of Redis; the error, if it is unavailable.
    """

    now: float
    directory: Snapshot
    spans: Mapping[str, StreamRange]
    server: ServerState | str

    def counts(self) -> dict[str, float]:
        """Return the counters of which the report has a rate."""
        seen = self.directory
        return {
            **{f"log:{log.log_id}": log.published for log in seen.logs},
            **{f"worker:{member.id}": _number(member, "published") for member in seen.workers},
            **{f"sent:{member.id}": _number(member, "sent") for member in seen.gateways},
            **{f"bytes:{member.id}": _number(member, "sent_bytes") for member in seen.gateways},
        }

    def rates(self) -> dict[str, float]:
        """Return the rates that processes report: once they have run for ten seconds."""
        directory = self.directory
        reported = {member.id: rates_of(member, RATES) for member in directory.workers}
        known = {f"log:{log}": rate for rates in reported.values() for log, rate in rates.items()}
        known |= {
            f"worker:{member.id}": sum(reported[member.id].values())
            for member in directory.workers
            if RATES in member.fields
        }
        if all(RATES in member.fields for member in directory.workers):  # a log without an owner
            known = {f"log:{log.log_id}": 0.0 for log in directory.logs} | known
        for member in directory.gateways:
            for counter, field in (
                ("sent", "sent_per_second"),
                ("bytes", "sent_bytes_per_second"),
            ):
                if field in member.fields:
                    known[f"{counter}:{member.id}"] = _number(member, field)
        return known


def unreachable(why: str, now: float) -> Report:
    """Return the report of a cluster whose Redis is unavailable."""
    return build_report(
        StatusInput(now, Snapshot(int(now * 1000), None, None, [], [], [], []), {}, why), {}, 1
    )


def build_report(
    sample: StatusInput, growth: Mapping[str, float], unhealthy_threshold: int
) -> Report:
    """Return a report.

    Args:
        sample: its data.
        growth: of `sample.counts()` per second; used where `sample.rates()` has no rate.
        unhealthy_threshold: failures in a row that make a log unhealthy.
    """
    directory = sample.directory
    now = int(sample.now * 1000)
    rates = {**growth, **sample.rates()}
    server = None if isinstance(sample.server, str) else sample.server
    health = evaluate(directory, sample.server, unhealthy_threshold=unhealthy_threshold)
    logs = [
        _log(log, now, health.logs[log.log_id], rates[f"log:{log.log_id}"])
        for log in active_logs(directory.logs)
    ]
    logs.sort(key=lambda log: (_in_order(log.name), log.id))
    retired = [_retired(log) for log in directory.logs if log.retired is not None]
    retired.sort(key=lambda log: (_in_order(log.name), log.id))
    gateways = [_gateway(member, rates) for member in directory.gateways]
    return Report(
        status=health.status,
        time=datetime.fromtimestamp(sample.now, UTC),
        certificates_per_second=_rounded(sum(log.published_per_second for log in logs)),
        messages_per_second=_rounded(sum(gateway.messages_per_second for gateway in gateways)),
        clients=sum(gateway.clients for gateway in gateways),
        redis_bytes=server.used_memory if server else 0,
        redis_max_bytes=server.max_memory if server else 0,
        dedup_window_seconds=_seconds(directory.dedup_window),
        logs=logs,
        retired=retired,
        ingestors=[_ingestor(member, rates) for member in directory.workers],
        gateways=gateways,
        streams=[
            Stream(
                stream.name,
                stream.written,
                stream.entries,
                stream.messages,
                stream.bytes,
                *_ages(now, sample.spans.get(stream.name)),
            )
            for stream in directory.streams
        ],
        problems=health.problems,
    )


def _log(log: LogStatus, now: int, status: Health, rate: float) -> Log:
    return Log(
        id=log.log_id,
        name=_name(log),
        url=log.url,
        operator=log.operator,
        kind=log.kind,
        state=log.state,
        status=status,
        owner=log.owner,
        start=log.start,
        next=log.next,
        tree_size=log.size,
        behind=log.behind,
        tree_head_age_seconds=log.tree_head_age(now),
        ingest_delay_seconds=log.ingest_delay(now),
        published=log.published,
        duplicates=log.duplicates,
        rejected=log.rejected,
        skipped=log.skipped,
        published_per_second=_rounded(rate),
        circuit=log.circuit,
        failures=log.failures,
        retry_at=_seconds(log.retry_at) if log.circuit == "open" else None,
        integrity=log.integrity,
        alarms=log.alarms,
        alarm=log.alarm,
        last_success=_seconds(log.last_success),
        last_error=log.last_error,
        last_error_at=_seconds(log.last_error_at),
    )


def _retired(log: LogStatus) -> Retired:
    return Retired(log.log_id, _name(log), log.retired_why, _seconds(log.retired), log.next)


def _name(log: LogStatus) -> str:
    return log.name or log.url or log.log_id


def _ingestor(member: ProcessInfo, rates: Mapping[str, float]) -> Ingestor:
    return Ingestor(
        id=member.id,
        host=member.fields.get("host", ""),
        pid=int(_number(member, "pid")),
        admin=member.fields.get("admin", ""),
        logs=int(_number(member, "logs")),
        published_per_second=_rounded(rates[f"worker:{member.id}"]),
    )


def _gateway(member: ProcessInfo, rates: Mapping[str, float]) -> Gateway:
    return Gateway(
        id=member.id,
        host=member.fields.get("host", ""),
        url=member.fields.get("url", ""),
        admin=member.fields.get("admin", ""),
        following=bool(_number(member, "following")),
        clients=int(_number(member, "clients")),
        websocket=int(_number(member, "websocket")),
        sse=int(_number(member, "sse")),
        messages_sent=int(_number(member, "sent")),
        bytes_sent=int(_number(member, "sent_bytes")),
        messages_per_second=_rounded(rates[f"sent:{member.id}"]),
        bytes_per_second=_rounded(rates[f"bytes:{member.id}"]),
    )


def _in_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders log 2 before log 10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _ages(now: int, span: StreamRange | None) -> tuple[float | None, float | None]:
    if span is None:
        return None, None
    return max(now - span.oldest, 0) / 1000, max(now - span.newest, 0) / 1000


def _number(member: ProcessInfo, name: str) -> float:
    return number(member.fields, name)


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000


def _rounded(rate: float) -> float:
    return round(rate, 1)
