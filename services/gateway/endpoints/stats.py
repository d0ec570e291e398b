"""/api/stats: how many are connected, and what has been sent, over all gateways and ingestors."""

from collections.abc import Mapping, Sequence

import msgspec

from certbus.cluster import ProcessInfo, Snapshot, StreamStatus
from certbus.cluster_health import active_logs, number


class Connections(msgspec.Struct, frozen=True):
    """Clients of all gateways.

    Attributes:
        total: all of them.
        websocket: over WebSocket.
        sse: over server-sent events.
        full: of the stream `full`.
    """

    total: int
    websocket: int
    sse: int
    full: int
    lite: int
    domains: int


class Throughput(msgspec.Struct, frozen=True):
    """What has been done, since the gateways that run now were started.

    Attributes:
        messages_sent: to clients.
        certificates_processed: published, since the store was made.
        bytes_sent: to clients.
        messages_per_second: messages per second over the last seconds.
    """

    messages_sent: int
    certificates_processed: int
    bytes_sent: int
    messages_per_second: float
    bytes_per_second: float


class Memory(msgspec.Struct, frozen=True):
    """Certificates that /api/cert answers for.

    Attributes:
        cache_entries: held in Redis.
        cache_capacity: about how many its byte budget has room for, at their present size.
    """

    cache_entries: int
    cache_capacity: int


class Entries(msgspec.Struct, frozen=True):
    """What the entries of all logs came to.

    Attributes:
        published: new certificates.
        duplicates: certificates that another entry had brought already.
        rejected: could not be read.
        skipped: left out by the operator.
        duplicate_share: of all entries, from 0 to 1.
    """

    published: int
    duplicates: int
    rejected: int
    skipped: int
    duplicate_share: float


class Stream(msgspec.Struct, frozen=True):
    """What Redis holds of a stream.

    Attributes:
        written: whether it is being written.
        batches: held.
        messages: in them.
        bytes: of them, packed.
    """

    written: bool
    batches: int
    messages: int
    bytes: int


class Stats(msgspec.Struct, frozen=True):
    """The whole service.

    Attributes:
        uptime_seconds: of the gateway that has run longest.
        connections: of clients.
        throughput: to clients.
        memory: what can be looked up.
        entries: of the logs; what deduplication does.
        streams: held in Redis, by name.
        gateways: that run.
        ingestors: that run.
        logs: that are read.
    """

    uptime_seconds: int
    connections: Connections
    throughput: Throughput
    memory: Memory
    entries: Entries
    streams: dict[str, Stream]
    gateways: int
    ingestors: int
    logs: int


def stats(seen: Snapshot, now: float, budgets: Mapping[str, int]) -> Stats:
    """Sum up the directory.

    Args:
        seen: the directory.
        now: Unix time in seconds.
        budgets: bytes that Redis may hold of each stream.
    """
    gateways = seen.gateways
    published = sum(log.published for log in seen.logs)
    return Stats(
        uptime_seconds=max((_uptime(member, now) for member in gateways), default=0),
        connections=Connections(
            *(int(_sum(gateways, name)) for name in ("clients", "websocket", "sse")),
            *(int(_sum(gateways, name)) for name in ("full", "lite", "domains")),
        ),
        throughput=Throughput(
            int(_sum(gateways, "sent")),
            published,
            int(_sum(gateways, "sent_bytes")),
            round(_sum(gateways, "sent_per_second"), 1),
            round(_sum(gateways, "sent_bytes_per_second"), 1),
        ),
        memory=_memory(seen.streams, budgets),
        entries=_entries(seen, published),
        streams={
            stream.name: Stream(stream.written, stream.entries, stream.messages, stream.bytes)
            for stream in seen.streams
        },
        gateways=len(gateways),
        ingestors=len(seen.workers),
        logs=len(active_logs(seen.logs)),
    )


def _uptime(gateway: ProcessInfo, now: float) -> int:
    """Return seconds since a gateway started; the previous release reports its start instead."""
    if "uptime" in gateway.fields:
        return int(number(gateway.fields, "uptime"))
    return max(int(now - (number(gateway.fields, "started") or now)), 0)


def _sum(members: Sequence[ProcessInfo], name: str) -> float:
    return sum(number(member.fields, name) for member in members)


def _memory(streams: Sequence[StreamStatus], budgets: Mapping[str, int]) -> Memory:
    """Certificates are looked up in the stream `full`, else in `lite`."""
    by_name = {stream.name: stream for stream in streams if stream.name in ("full", "lite")}
    held = by_name["full"] if by_name["full"].messages else by_name["lite"]
    room = held.messages * budgets[held.name] // held.bytes if held.bytes else 0
    return Memory(held.messages, max(room, held.messages))


def _entries(seen: Snapshot, published: int) -> Entries:
    duplicates = sum(log.duplicates for log in seen.logs)
    rejected = sum(log.rejected for log in seen.logs)
    skipped = sum(log.skipped for log in seen.logs)
    total = published + duplicates + rejected + skipped
    share = round(duplicates / total, 4) if total else 0.0
    return Entries(published, duplicates, rejected, skipped, share)
