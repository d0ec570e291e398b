"""What a gateway can be measured by, in Prometheus' terms. Read from the service when asked."""

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
"""Why requests are turned away, in the words of `Door.refused` and of the metric."""


class MetricsSources(msgspec.Struct, frozen=True):
    """What is read when it is asked.

    Attributes:
        service: has the clients.
        history: what was read from Redis for lagging ones.
        follower: reads the streams.
        refused: requests turned away, by why.
        reloads: times that the configuration was read again, by result.
        problems: gives the codes of what is wrong with the service.
    """

    service: Hub
    history: HistoryReader
    follower: StreamReader
    refused: Mapping[str, int]
    reloads: Mapping[str, int]
    problems: Callable[[], Collection[str]]


class GatewayCollector(Collector):
    """Gives numbers in Prometheus' terms."""

    def __init__(self, numbers: MetricsSources) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as they are now."""
        numbers = self._numbers
        service = numbers.service
        labels = ["stream", "form"]
        clients = GaugeMetricFamily(f"{PREFIX}_clients", "Connected clients.", labels=labels)
        sent = CounterMetricFamily(f"{PREFIX}_messages_sent", "Messages sent.", labels=labels)
        size = CounterMetricFamily(
            f"{PREFIX}_bytes_sent", "Bytes of the messages sent, with framing.", labels=labels
        )
        for (stream, form), lane in service.channels.items():
            clients.add_metric([stream, form.name], len(lane.clients))
            sent.add_metric([stream, form.name], lane.sent)
            size.add_metric([stream, form.name], lane.sent_bytes)
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
        ages = service.stream_ages()
        for stream, held in service.rings.items():
            ring.add_metric([stream], held.size)
            age.add_metric([stream], ages[stream])
        yield from (clients, sent, size, ring, age)
        yield GaugeMetricFamily(
            f"{PREFIX}_paused_clients",
            "Clients with a full send buffer.",
            len(service.clients.paused),
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_waiting_connections",
            "Connections without a stream.",
            len(service.pending_connections),
        )
        limits = GaugeMetricFamily(
            f"{PREFIX}_buffer_limit_bytes",
            "Maximum memory of message buffers. Memory of the gateway converges to their sum, "
            "the process and the connections.",
            labels=["buffer"],
        )
        limits.add_metric(["rings"], service.settings.ring_bytes * len(service.rings))
        limits.add_metric(["history"], service.settings.history_bytes)
        yield limits
        yield GaugeMetricFamily(
            f"{PREFIX}_history_bytes",
            "Memory of batches read from Redis for lagging clients.",
            numbers.history.size,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_redis_up",
            "1 while the gateway reads the streams from Redis, 0 otherwise.",
            numbers.follower.connected,
        )
        refused = CounterMetricFamily(
            f"{PREFIX}_refused", "Rejected requests and connections.", labels=["reason"]
        )
        for why, reason in REFUSED.items():
            refused.add_metric([reason], numbers.refused.get(why, 0))
        yield refused
        yield CounterMetricFamily(
            f"{PREFIX}_connection_errors",
            "Connections closed by an unexpected error, which is a bug.",
            service.errors.count,
        )
        reloads = CounterMetricFamily(
            f"{PREFIX}_reloads", "Reloads of the configuration by result.", labels=["result"]
        )
        for result, count in numbers.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        problems = GaugeMetricFamily(
            f"{PREFIX}_problem",
            "1 while /health/deep shows a problem with this code, 0 otherwise.",
            labels=["code", "severity"],
        )
        found = numbers.problems()
        for code, severity in CODES.items():
            problems.add_metric([code, severity], code in found)
        yield problems


def metrics(meter: Metrics, numbers: MetricsSources) -> Callable[[], bytes]:
    """Make what writes the metrics of this process as text."""
    # No series beside each counter that says when it began.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = meter.registry
    registry.register(GatewayCollector(numbers))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)
