"""The directory, and how fast its counters grow, as one value. Pure: no connection, no clock.

Its JSON is a promise to scripts: names stay, new ones may come.
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
    """One log. Moments are Unix seconds.

    Attributes:
        id: SHA-256 of its key in hex, or made of its URL while no key is known.
        name: for people.
        url: where it is.
        operator: who runs it.
        kind: rfc6962 or static-ct.
        state: in the log list's words, "configured", or "draining" if it is over.
        status: how it does.
        owner: the ingestor that reads it; null if none does.
        start: index of the first entry that was wanted; null while it is not known.
        next: index of the next entry to publish, likewise.
        tree_size: entries in it, as it last said.
        behind: entries that it has and Redis has not.
        published: new certificates; with the next three, what became of the entries up to `next`.
        duplicates: certificates that were known already.
        rejected: entries that could not be read.
        skipped: entries left out by the operator.
        published_per_second: of the last seconds.
        circuit: closed, half-open or open: whether it is asked.
        failures: in a row, until now.
        retry_at: when it is asked again, while the circuit is open.
        integrity: proven, unsigned, unproven, lying or off.
        alarms: how many lies were found.
        alarm: the newest.
        last_success: when everything up to its tree head was last published.
        last_error: what was wrong last.
        last_error_at: when.
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
        """What is wrong now, in a few words; empty if nothing is."""
        if self.integrity == "lying":
            return f"lies: {self.alarm or 'see docs/integrity.md'}"
        if self.failures or (self.last_error_at or 0) > (self.last_success or 0):
            return (self.last_error or self.circuit).removeprefix(self.url)
        if self.circuit != "closed":
            return f"circuit {self.circuit}"
        if self.owner is None:
            return "nobody reads it"
        return ""


class Retired(msgspec.Struct, frozen=True):
    """One log that is over and drained: it is remembered for 30 days.

    Attributes:
        id: as in `Log.id`.
        name: for people.
        why: it is over.
        at: when it was dropped, Unix seconds.
        next: index of the entry that it would go on with.
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
        host: where it runs.
        pid: its process there.
        admin: where it gives /health and /metrics; empty if nowhere.
        logs: that it reads.
        published_per_second: of the last seconds.
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
        id: its own.
        host: where it runs.
        url: where clients connect.
        admin: where it gives /health, /ready and /metrics; empty if nowhere.
        following: whether it reads the streams.
        clients: all of them.
        websocket: of them, over WebSocket.
        sse: of them, over server-sent events.
        messages_sent: since it was started, likewise the bytes.
        messages_per_second: of the last seconds, likewise the bytes.
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
    """What Redis holds of a stream.

    Attributes:
        name: full, lite, domains, or rejected.
        written: whether it is being written.
        batches: that it holds.
        messages: in them.
        bytes: of them, packed.
        oldest_age_seconds: of the oldest batch; null if there is none.
        newest_age_seconds: of the newest.
    """

    name: str
    written: bool
    batches: int
    messages: int
    bytes: int
    oldest_age_seconds: float | None
    newest_age_seconds: float | None


class Report(msgspec.Struct, frozen=True):
    """The whole service.

    Attributes:
        status: "unhealthy" with a critical problem, "degraded" with any other one.
        time: of this report.
        certificates_per_second: published by all ingestors, of the last seconds.
        messages_per_second: sent by all gateways, likewise.
        clients: of all gateways.
        redis_bytes: of memory that Redis uses.
        redis_max_bytes: that it may use; 0 if there is no limit.
        dedup_window_seconds: for which every published certificate is known, in effect; null while
            no ingestor has reported it.
        logs: that are not over, by name.
        retired: logs that are, likewise.
        ingestors: by id.
        gateways: by id.
        streams: full, lite, domains, rejected.
        problems: what is wrong, critical problems first; docs/runbook.md explains each code.
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
    """What was asked of Redis at one moment.

    Attributes:
        now: TIME of Redis, in seconds since the epoch.
        directory: logs, ingestors, gateways and streams.
        spans: of the streams.
        server: what Redis says of itself; why it cannot be asked, otherwise.
    """

    now: float
    directory: Snapshot
    spans: Mapping[str, StreamRange]
    server: ServerState | str

    def counts(self) -> dict[str, float]:
        """The counters whose growth is shown, unless their process says how fast they grow."""
        seen = self.directory
        return {
            **{f"log:{log.log_id}": log.published for log in seen.logs},
            **{f"worker:{member.id}": _number(member, "published") for member in seen.workers},
            **{f"sent:{member.id}": _number(member, "sent") for member in seen.gateways},
            **{f"bytes:{member.id}": _number(member, "sent_bytes") for member in seen.gateways},
        }

    def rates(self) -> dict[str, float]:
        """How fast those counters grow that their processes have watched for ten seconds."""
        seen = self.directory
        said = {member.id: rates_of(member, RATES) for member in seen.workers}
        known = {f"log:{log}": rate for rates in said.values() for log, rate in rates.items()}
        known |= {
            f"worker:{member.id}": sum(said[member.id].values())
            for member in seen.workers
            if RATES in member.fields
        }
        if all(RATES in member.fields for member in seen.workers):  # a log that nobody reads
            known = {f"log:{log.log_id}": 0.0 for log in seen.logs} | known
        for member in seen.gateways:
            for counter, field in (
                ("sent", "sent_per_second"),
                ("bytes", "sent_bytes_per_second"),
            ):
                if field in member.fields:
                    known[f"{counter}:{member.id}"] = _number(member, field)
        return known


def unreachable(why: str, now: float) -> Report:
    """The report when Redis cannot be asked."""
    return build_report(
        StatusInput(now, Snapshot(int(now * 1000), None, None, [], [], [], []), {}, why), {}, 1
    )


def build_report(seen: StatusInput, rates: Mapping[str, float], unhealthy_threshold: int) -> Report:
    """Put it together.

    Args:
        seen: what was asked.
        rates: of `seen.counts()`, where `seen.rates()` does not have them.
        unhealthy_threshold: failures in a row that make a log unhealthy.
    """
    directory = seen.directory
    now = int(seen.now * 1000)
    rates = {**rates, **seen.rates()}
    server = None if isinstance(seen.server, str) else seen.server
    judged = evaluate(directory, seen.server, unhealthy_threshold=unhealthy_threshold)
    logs = [
        _log(log, judged.logs[log.log_id], rates[f"log:{log.log_id}"])
        for log in active_logs(directory.logs)
    ]
    logs.sort(key=lambda log: (_in_order(log.name), log.id))
    retired = [_retired(log) for log in directory.logs if log.retired is not None]
    retired.sort(key=lambda log: (_in_order(log.name), log.id))
    gateways = [_gateway(member, rates) for member in directory.gateways]
    return Report(
        status=judged.status,
        time=datetime.fromtimestamp(seen.now, UTC),
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
                *_ages(now, seen.spans.get(stream.name)),
            )
            for stream in directory.streams
        ],
        problems=judged.problems,
    )


def _log(log: LogStatus, status: Health, rate: float) -> Log:
    size = max(log.tree_size or 0, log.newest or 0)  # the newest one may not be proven yet
    behind = 0 if log.next is None else max(size - log.next, 0)
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
        tree_size=size,
        behind=behind,
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
    """Orders log 2 before log 10."""
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
