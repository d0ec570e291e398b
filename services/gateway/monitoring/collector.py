"""The metrics of a gateway that are read at scrape time."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

import msgspec
from prometheus_client import ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from certbus.cluster_health import CODES
from certbus.streams.reader import StreamReader
from gateway.delivery.history import HistoryReader
from gateway.hub import Hub
from gateway.metrics import PREFIX, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


REFUSED: Final = {
    "token": "token",
    "network": "network",
    "rate": "rate",
    "full": "connections",
    "site": "address",
    "waiting": "waiting",
    "descriptors": "descriptors",
}
"""Reason in `AdmissionController.refused` -> label value of the metric."""


class MetricsSources(msgspec.Struct, frozen=True):
    """What the collector reads.

    Attributes:
        hub: rings, channels and clients.
        history: the cache for lagging clients.
        reader: of the streams.
        refused: rejected requests by reason.
        reloads: reloads of the configuration by result.
        problems: returns the codes of the present problems.
        reach: returns the seconds that a cursor reaches back, by stream.
    """

    hub: Hub
    history: HistoryReader
    reader: StreamReader
    refused: Mapping[str, int]
    reloads: Mapping[str, int]
    problems: Callable[[], Collection[str]]
    reach: Callable[[], Mapping[str, float]]


class GatewayCollector(Collector):
    """Collects the metrics of one gateway."""

    def __init__(self, sources: MetricsSources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        sources = self._sources
        hub = sources.hub
        labels = ["stream", "form"]
        clients = GaugeMetricFamily(f"{PREFIX}_clients", "Connected clients.", labels=labels)
        sent = CounterMetricFamily(f"{PREFIX}_messages_sent", "Messages sent.", labels=labels)
        size = CounterMetricFamily(
            f"{PREFIX}_bytes_sent", "Bytes of the messages sent, with framing.", labels=labels
        )
        filtered: Counter[tuple[str, str]] = Counter()
        for narrowed in hub.filters.channels.values():
            filtered[narrowed.stream, narrowed.encoding.name] += len(narrowed.clients)
        for (stream, encoding), channel in hub.channels.items():
            connected = len(channel.clients) + filtered[stream, encoding.name]
            clients.add_metric([stream, encoding.name], connected)
            sent.add_metric([stream, encoding.name], channel.sent)
            size.add_metric([stream, encoding.name], channel.sent_bytes)
        yield GaugeMetricFamily(
            f"{PREFIX}_filters", "Distinct filters of clients.", hub.filters.count
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_filter_bytes",
            "Memory of the filters, an upper estimate; the limit is 256 MiB.",
            hub.filters.size,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_filter_scans",
            "Lines with a regex without a literal part; the limit is 100.",
            hub.filters.shared.index.scans,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_filters_heavy",
            "Filters that many certificates pass, or that are slow: they are evaluated in turns.",
            len(hub.filters.shared.heavy),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_filter_turns_waiting",
            "Filters with messages to send, and lagging clients with a filter, before their turn.",
            len(hub.filters.due),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_unfinished_bytes",
            "Received of incomplete messages of WebSocket clients; the limit is 64 MiB.",
            hub.clients.unfinished_bytes,
        )
        ring = GaugeMetricFamily(
            f"{PREFIX}_ring_bytes",
            "Memory of the ring buffer in all encodings.",
            labels=["stream"],
        )
        age = GaugeMetricFamily(
            f"{PREFIX}_stream_age_seconds",
            "Age of the newest batch of the stream; of this process while it has none.",
            labels=["stream"],
        )
        ages = hub.stream_ages()
        for stream, buffered in hub.rings.items():
            ring.add_metric([stream], buffered.size)
            if stream in ages:
                age.add_metric([stream], ages[stream])
        yield from (clients, sent, size, ring, age)
        reach = GaugeMetricFamily(
            f"{PREFIX}_cursor_reach_seconds",
            "Age of the oldest batch in Redis: how far back a cursor reaches. Not present without "
            "a batch.",
            labels=["stream"],
        )
        for stream, seconds in sources.reach().items():
            if stream in hub.rings:
                reach.add_metric([stream], seconds)
        yield reach
        yield GaugeMetricFamily(
            f"{PREFIX}_paused_clients",
            "Clients with a full send buffer.",
            len(hub.clients.paused),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_waiting_connections",
            "Connections without a stream.",
            len(hub.pending_connections),
        )
        limits = GaugeMetricFamily(
            f"{PREFIX}_buffer_limit_bytes",
            "Maximum memory of message buffers. Memory of the gateway converges to their sum, "
            "the process and the connections.",
            labels=["buffer"],
        )
        limits.add_metric(["rings"], hub.settings.ring_bytes * len(hub.rings))
        limits.add_metric(["history"], hub.settings.history_bytes)
        yield limits
        yield GaugeMetricFamily(
            f"{PREFIX}_history_bytes",
            "Memory of batches read from Redis for lagging clients.",
            sources.history.size,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_redis_up",
            "1 while the gateway reads the streams from Redis, 0 otherwise.",
            sources.reader.connected,
        )
        refused = CounterMetricFamily(
            f"{PREFIX}_refused", "Rejected requests and connections.", labels=["reason"]
        )
        for refused_as, reason in REFUSED.items():
            refused.add_metric([reason], sources.refused.get(refused_as, 0))
        yield refused
        yield CounterMetricFamily(
            f"{PREFIX}_connection_errors",
            "Connections closed by an unexpected error, which is a bug.",
            hub.errors.count,
        )
        reloads = CounterMetricFamily(
            f"{PREFIX}_reloads", "Reloads of the configuration by result.", labels=["result"]
        )
        for result, count in sources.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        problems = GaugeMetricFamily(
            f"{PREFIX}_problem",
            "1 while /health/deep shows a problem with this code, 0 otherwise.",
            labels=["code", "severity"],
        )
        found = sources.problems()
        for code, severity in CODES.items():
            problems.add_metric([code, severity], code in found)
        yield problems


def metrics(own: Metrics, sources: MetricsSources) -> Callable[[], bytes]:
    """Return a function that writes the metrics of this process as text."""
    # No series beside each counter with its creation time.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = own.registry
    registry.register(GatewayCollector(sources))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)
