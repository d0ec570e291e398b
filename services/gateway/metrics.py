"""What a gateway can be measured by, in Prometheus' terms. Read from the service when asked."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from certbus.reader import Follower
from gateway.history import History
from gateway.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "certstream_gateway"


class ServiceCollector(Collector):
    """Reads a service's numbers."""

    def __init__(
        self, service: Service, history: History, follower: Follower, reloads: Mapping[str, int]
    ) -> None:
        self._reloads = reloads
        self._service = service
        self._history = history
        self._follower = follower

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as they are now."""
        service = self._service
        labels = ["stream", "form"]
        clients = GaugeMetricFamily(f"{_PREFIX}_clients", "Clients connected.", labels=labels)
        sent = CounterMetricFamily(f"{_PREFIX}_messages_sent", "Messages sent.", labels=labels)
        size = CounterMetricFamily(f"{_PREFIX}_bytes_sent", "Bytes of them.", labels=labels)
        for (stream, form), lane in service.lanes.items():
            clients.add_metric([stream, form.name], len(lane.clients))
            sent.add_metric([stream, form.name], lane.sent)
            size.add_metric([stream, form.name], lane.sent_bytes)
        ring = GaugeMetricFamily(f"{_PREFIX}_ring_bytes", "Held in memory.", labels=["stream"])
        age = GaugeMetricFamily(
            f"{_PREFIX}_stream_age_seconds", "Since the newest batch.", labels=["stream"]
        )
        for stream, held in service.rings.items():
            ring.add_metric([stream], held.size)
            if held.newest is not None:
                age.add_metric([stream], time.time() - held.head.cursor.entry.ms / 1000)
        yield from (clients, sent, size, ring, age)
        yield GaugeMetricFamily(
            f"{_PREFIX}_paused_clients", "Clients that read slowly.", len(service.paused)
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_waiting_connections", "Not clients yet.", len(service.waiting)
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_history_bytes", "Read from Redis for lagging clients.", self._history.size
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_redis_up", "Whether Redis is being followed.", self._follower.connected
        )
        reloads = CounterMetricFamily(
            f"{_PREFIX}_reloads", "Times the configuration was read again.", labels=["result"]
        )
        for result, count in self._reloads.items():
            reloads.add_metric([result], count)
        yield reloads


def metrics(
    service: Service, history: History, follower: Follower, reloads: Mapping[str, int]
) -> Callable[[], bytes]:
    """Make what writes the metrics of this process as text."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service, history, follower, reloads))
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)
