"""/api/stats: clients, throughput and content of the streams, over all processes."""

from collections.abc import Mapping, Sequence

import msgspec

from certbus.cluster_report import ClusterReport, EntryTotals, StreamReport


class Connections(msgspec.Struct, frozen=True):
    """Connected clients of all gateways.

    Attributes:
        total: number of clients.
        websocket: over WebSocket.
        sse: over server-sent events.
        full: of the stream full.
        lite: of the stream lite.
        domains: of the stream domains.
        v2: of the stream v2.
    """

    total: int
    websocket: int
    sse: int
    full: int
    lite: int
    domains: int
    v2: int


class Throughput(msgspec.Struct, frozen=True):
    """Messages to clients. Counters start with each gateway.

    Attributes:
        messages_sent: number of messages.
        certificates_processed: published by ingestors, since the creation of the store.
        bytes_sent: bytes of the messages, with framing.
        messages_per_second: over the last ten seconds.
        bytes_per_second: over the last ten seconds.
    """

    messages_sent: int
    certificates_processed: int
    bytes_sent: int
    messages_per_second: float
    bytes_per_second: float


class Memory(msgspec.Struct, frozen=True):
    """Certificates that /api/cert finds.

    Attributes:
        cache_entries: number of certificates in Redis.
        cache_capacity: estimate of how many the byte limit admits, at their present mean size.
    """

    cache_entries: int
    cache_capacity: int


class Stream(msgspec.Struct, frozen=True):
    """The content of a stream in Redis.

    Attributes:
        written: whether ingestors write it.
        batches: number of batches.
        messages: in all batches.
        bytes: of all batches, packed.
        reach_seconds: how far back a cursor reaches; null without a batch.
    """

    written: bool
    batches: int
    messages: int
    bytes: int
    reach_seconds: float | None


class Stats(msgspec.Struct, frozen=True):
    """The whole service.

    Attributes:
        uptime_seconds: of the gateway that has run longest.
        connections: clients.
        throughput: messages to clients.
        memory: certificates that can be looked up.
        entries: entries of all logs by outcome.
        streams: content of Redis, by stream.
        gateways: number of gateways.
        ingestors: number of ingestors.
        logs: number of logs that are not retired.
    """

    uptime_seconds: int
    connections: Connections
    throughput: Throughput
    memory: Memory
    entries: EntryTotals
    streams: dict[str, Stream]
    gateways: int
    ingestors: int
    logs: int


def stats(report: ClusterReport, budgets: Mapping[str, int]) -> Stats:
    """Show the sums over all gateways and ingestors.

    Args:
        report: of the cluster.
        budgets: bytes that Redis may hold of each stream.
    """
    gateways = report.gateways
    return Stats(
        uptime_seconds=max((each.uptime_seconds for each in gateways), default=0),
        connections=Connections(
            total=report.clients,
            websocket=sum(each.websocket for each in gateways),
            sse=sum(each.sse for each in gateways),
            full=sum(each.full for each in gateways),
            lite=sum(each.lite for each in gateways),
            domains=sum(each.domains for each in gateways),
            v2=sum(each.v2 for each in gateways),
        ),
        throughput=Throughput(
            messages_sent=sum(each.messages_sent for each in gateways),
            certificates_processed=report.entries.published,
            bytes_sent=sum(each.bytes_sent for each in gateways),
            messages_per_second=report.messages_per_second,
            bytes_per_second=round(sum(each.bytes_per_second for each in gateways), 1),
        ),
        memory=_memory(report.streams, budgets),
        entries=report.entries,
        streams={
            each.name: Stream(
                each.written, each.batches, each.messages, each.bytes, each.oldest_age_seconds
            )
            for each in report.streams
        },
        gateways=len(gateways),
        ingestors=len(report.ingestors),
        logs=len(report.logs),
    )


def _memory(streams: Sequence[StreamReport], budgets: Mapping[str, int]) -> Memory:
    """Certificates are looked up in the stream `full`, else in `lite`."""
    by_name = {stream.name: stream for stream in streams if stream.name in ("full", "lite")}
    held = by_name["full"] if by_name["full"].messages else by_name["lite"]
    room = held.messages * budgets[held.name] // held.bytes if held.bytes else 0
    return Memory(held.messages, max(room, held.messages))
