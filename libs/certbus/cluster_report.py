"""The whole cluster as one value: what `status` prints, and the HTTP API and `up` show parts of.

`status --json` prints it as it is, so its JSON is an interface for scripts: names stay, new ones
may be added. The evaluation of it is in `cluster_health.py`.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from redis.asyncio import Redis

from certbus.cluster import (
    LogStatus,
    ProcessInfo,
    Snapshot,
    StreamRange,
    StreamStatus,
    snapshot,
    stream_ranges,
)
from certbus.cluster_health import (
    RATES,
    Health,
    HealthProblem,
    LogHealth,
    active_logs,
    evaluate,
    number,
    rates_of,
)
from certbus.keys import Keys
from certbus.server_state import ServerState, server_state

_CLIENTS = ("clients", "websocket", "sse", "full", "lite", "domains", "v2")
"""Fields of a gateway's heartbeat that count clients."""


class LogReport(msgspec.Struct, frozen=True):
    """One log that is not retired. Times are Unix seconds.

    Attributes:
        id: SHA-256 of its key in hex, or derived from its URL while no key is known.
        name: in the log list or configuration; else its URL or id.
        url: base URL.
        operator: name.
        kind: rfc6962 or static-ct.
        state: as in the log list, "configured", "draining" while it is being retired, or
            "excluded" if no ingestor follows it because a configuration excludes it.
        retired_why: why it is being retired; null if it is not.
        status: its health, or "excluded".
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
        skipped: entries skipped, by an operator or because the log was too far behind.
        skip: the range skipped last, and the reason.
        skip_at: time of that skip.
        published_per_second: over the last ten seconds.
        circuit: state of its circuit breaker: closed, half-open or open.
        failures: consecutive failures.
        errors: failed requests.
        retry_at: time of the next request, while the circuit is open.
        integrity: `proven`, `unsigned`, `unproven`, `lying` or `off`.
        alarms: number of integrity violations.
        alarm: the newest integrity violation.
        limited_by: the setting that has kept it behind its tree head for a minute; null if none.
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
    retired_why: str | None
    status: LogHealth
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
    skip: str | None
    skip_at: int | None
    published_per_second: float
    circuit: str
    failures: int
    errors: int
    retry_at: int | None
    integrity: str
    alarms: int
    alarm: str | None
    limited_by: str | None
    last_success: int | None
    last_error: str | None
    last_error_at: int | None


class RetiredLog(msgspec.Struct, frozen=True):
    """One log that is retired and drained.

    Redis keeps it for 30 days if a list retired it, otherwise until the retirement is undone.

    Attributes:
        id: as in `LogReport.id`.
        name: as in `LogReport.name`.
        why: the reason of its retirement.
        at: when it was dropped, Unix seconds.
        next: index of the entry at which it would resume.
    """

    id: str
    name: str
    why: str | None
    at: int | None
    next: int | None


class EntryTotals(msgspec.Struct, frozen=True):
    """The entries of all logs, also of retired ones.

    Attributes:
        published: new certificates.
        duplicates: entries with a certificate that was already published.
        rejected: entries that could not be decoded.
        skipped: entries skipped by an operator.
        duplicate_share: duplicates of all entries, from 0 to 1.
    """

    published: int
    duplicates: int
    rejected: int
    skipped: int
    duplicate_share: float


class IngestorReport(msgspec.Struct, frozen=True):
    """One ingestor.

    Attributes:
        id: as in `LogReport.owner`.
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


class GatewayReport(msgspec.Struct, frozen=True):
    """One gateway.

    Attributes:
        id: random.
        host: its host name.
        url: base URL for clients.
        admin: address of its admin listener; empty if it has none.
        uptime_seconds: since its start.
        following: whether it reads the streams.
        clients: connected clients.
        websocket: clients over WebSocket.
        sse: clients over server-sent events.
        full: clients of the stream full.
        lite: clients of the stream lite.
        domains: clients of the stream domains.
        v2: clients of the stream v2.
        messages_sent: since its start.
        bytes_sent: since its start.
        messages_per_second: over the last ten seconds.
        bytes_per_second: over the last ten seconds.
    """

    id: str
    host: str
    url: str
    admin: str
    uptime_seconds: int
    following: bool
    clients: int
    websocket: int
    sse: int
    full: int
    lite: int
    domains: int
    v2: int
    messages_sent: int
    bytes_sent: int
    messages_per_second: float
    bytes_per_second: float


class StreamReport(msgspec.Struct, frozen=True):
    """The content of a stream in Redis.

    Attributes:
        name: full, lite, domains, or rejected.
        written: whether ingestors write it.
        batches: number.
        messages: in all batches.
        bytes: of all batches, packed.
        oldest_age_seconds: age of the oldest batch; null without one, or if it was not read.
        newest_age_seconds: the same of the newest batch.
    """

    name: str
    written: bool
    batches: int
    messages: int
    bytes: int
    oldest_age_seconds: float | None
    newest_age_seconds: float | None


class ClusterReport(msgspec.Struct, frozen=True):
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
        entries: of all logs.
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
    entries: EntryTotals
    logs: list[LogReport]
    retired: list[RetiredLog]
    ingestors: list[IngestorReport]
    gateways: list[GatewayReport]
    streams: list[StreamReport]
    problems: list[HealthProblem]


async def read_report(
    client: Redis, keys: Keys, unhealthy_threshold: int, *, starting: bool = False
) -> ClusterReport:
    """Read the cluster from any of its Redis servers.

    Args:
        client: of that Redis.
        keys: names of the keys.
        unhealthy_threshold: failures in a row that make a log unhealthy.
        starting: whether the service started a moment ago, see `evaluate`.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    return cluster_report(
        await snapshot(client, keys),
        await server_state(client),
        unhealthy_threshold=unhealthy_threshold,
        ranges=await stream_ranges(client, keys),
        starting=starting,
    )


def cluster_report(
    seen: Snapshot,
    server: ServerState | str,
    *,
    unhealthy_threshold: int,
    ranges: Mapping[str, StreamRange] | None = None,
    own: Mapping[str, str] | None = None,
    starting: bool = False,
) -> ClusterReport:
    """Return a report. Pure.

    Args:
        seen: the cluster, as last read.
        server: the state of Redis; a text with the reason if it cannot be read.
        unhealthy_threshold: failures in a row that make a log unhealthy.
        ranges: of the streams; None if they were not read.
        own: faults that the caller detected itself, see `evaluate`.
        starting: whether the caller started a moment ago, see `evaluate`.
    """
    health = evaluate(
        seen, server, unhealthy_threshold=unhealthy_threshold, own=own, starting=starting
    )
    rates = {
        log_id: rate for worker in seen.workers for log_id, rate in rates_of(worker, RATES).items()
    }
    in_order = sorted(seen.logs, key=lambda log: (_natural(_name(log)), log.log_id))
    logs = [
        _log(log, seen.now, health.logs[log.log_id], rates.get(log.log_id, 0.0))
        for log in active_logs(in_order)
    ]
    gateways = [_gateway(member) for member in seen.gateways]
    return ClusterReport(
        status=health.status,
        time=datetime.fromtimestamp(seen.now / 1000, UTC),
        certificates_per_second=_rounded(sum(log.published_per_second for log in logs)),
        messages_per_second=_rounded(sum(gateway.messages_per_second for gateway in gateways)),
        clients=sum(gateway.clients for gateway in gateways),
        redis_bytes=0 if isinstance(server, str) else server.used_memory,
        redis_max_bytes=0 if isinstance(server, str) else server.max_memory,
        dedup_window_seconds=_seconds(seen.dedup_window),
        entries=_entries(seen.logs),
        logs=logs,
        retired=[
            RetiredLog(log.log_id, _name(log), log.retired_why, _seconds(log.retired), log.next)
            for log in in_order
            if log.retired is not None
        ],
        ingestors=[_ingestor(member) for member in seen.workers],
        gateways=gateways,
        streams=[_stream(seen.now, each, (ranges or {}).get(each.name)) for each in seen.streams],
        problems=health.problems,
    )


def _log(log: LogStatus, now: int, status: LogHealth, rate: float) -> LogReport:
    same = {name: getattr(log, name) for name in LogReport.__struct_fields__ if hasattr(log, name)}
    return LogReport(
        **same
        | {
            "id": log.log_id,
            "name": _name(log),
            "status": status,
            "tree_size": log.size,
            "tree_head_age_seconds": log.tree_head_age(now),
            "ingest_delay_seconds": log.ingest_delay(now),
            "published_per_second": _rounded(rate),
            "retry_at": _seconds(log.retry_at) if log.circuit == "open" else None,
            "last_success": _seconds(log.last_success),
            "last_error_at": _seconds(log.last_error_at),
            "skip_at": _seconds(log.skip_at),
        }
    )


def _entries(logs: Sequence[LogStatus]) -> EntryTotals:
    published, duplicates, rejected, skipped = (
        sum(getattr(log, name) for log in logs)
        for name in ("published", "duplicates", "rejected", "skipped")
    )
    total = published + duplicates + rejected + skipped
    share = round(duplicates / total, 4) if total else 0.0
    return EntryTotals(published, duplicates, rejected, skipped, share)


def _ingestor(member: ProcessInfo) -> IngestorReport:
    return IngestorReport(
        id=member.id,
        host=member.fields.get("host", ""),
        pid=_integer(member, "pid"),
        admin=member.fields.get("admin", ""),
        logs=_integer(member, "logs"),
        published_per_second=_rounded(sum(rates_of(member, RATES).values())),
    )


def _gateway(member: ProcessInfo) -> GatewayReport:
    return GatewayReport(
        id=member.id,
        host=member.fields.get("host", ""),
        url=member.fields.get("url", ""),
        admin=member.fields.get("admin", ""),
        uptime_seconds=_integer(member, "uptime"),
        following=bool(_integer(member, "following")),
        **{name: _integer(member, name) for name in _CLIENTS},
        messages_sent=_integer(member, "sent"),
        bytes_sent=_integer(member, "sent_bytes"),
        messages_per_second=_rounded(number(member.fields, "sent_per_second")),
        bytes_per_second=_rounded(number(member.fields, "sent_bytes_per_second")),
    )


def _stream(now: int, stream: StreamStatus, held: StreamRange | None) -> StreamReport:
    return StreamReport(
        stream.name,
        stream.written,
        stream.entries,
        stream.messages,
        stream.bytes,
        oldest_age_seconds=None if held is None else max(now - held.oldest, 0) / 1000,
        newest_age_seconds=None if held is None else max(now - held.newest, 0) / 1000,
    )


def _name(log: LogStatus) -> str:
    return log.name or log.url or log.log_id


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders log 2 before log 10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _integer(member: ProcessInfo, name: str) -> int:
    return int(number(member.fields, name))


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000


def _rounded(rate: float) -> float:
    return round(rate, 1)
