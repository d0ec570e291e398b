"""Every metric that a gateway and an ingestor register."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from certbus.cluster_health import CODES
from certconf import Config, ConfigHolder
from docs.generate.tables import code, table
from gateway.config import Settings
from gateway.hub import Hub
from gateway.metrics import GapReason
from gateway.metrics import Metrics as GatewayMeter
from gateway.monitoring.collector import REFUSED, GatewayCollector, MetricsSources
from ingestor.metrics import FailureReason, FetchOutcome
from ingestor.metrics import Metrics as IngestorMeter
from ingestor.monitoring.collector import ListCollector, MarksCollector, WorkerCollector
from ingestor.verification.alerts import AlarmKind, State


def gateway_metrics() -> str:
    """Return the table of a gateway's metrics."""
    absent: Any = SimpleNamespace(size=0, connected=False)
    meter = GatewayMeter()
    service = Hub(Settings(), absent, meter)
    numbers = MetricsSources(service, absent, absent, {}, _reloads(), tuple, dict)
    return _table(meter.registry, GatewayCollector(numbers))


def ingestor_metrics() -> str:
    """Return the table of an ingestor's metrics."""
    lists = SimpleNamespace(ages=dict, rejections={})
    absent: Any = SimpleNamespace(
        assigned=(),
        waiting=0,
        problem=None,
        reached=True,
        lists=lists,
        remembered=None,
        marks_bytes=None,
        ahead=None,
    )
    meter = IngestorMeter()
    return _table(
        meter.registry,
        WorkerCollector(absent, absent, _reloads()),
        ListCollector(absent),
        MarksCollector(absent),
    )


def label_values() -> str:
    """Return the table of labels that have a fixed set of values."""
    kinds = [kind for literal in get_args(AlarmKind) for kind in get_args(literal)]
    rows = {
        "gateway_gaps_total{reason}": get_args(GapReason),
        "gateway_refused_total{reason}": REFUSED.values(),
        "gateway_problem{code}": CODES,
        "gateway_buffer_limit_bytes{buffer}": ("rings", "history"),
        "ingestor_entries_total{outcome}": ("published", "duplicate", "rejected"),
        "ingestor_fetches_total{outcome}": get_args(FetchOutcome),
        "ingestor_integrity_state{state}": get_args(State),
        "ingestor_integrity_alarms_total{kind}": kinds,
        "ingestor_logs{state}": ("followed", "held", "waiting"),
        "ingestor_publish_failures_total{reason}": get_args(FailureReason),
    }
    return table(
        ["metric and label", "values"],
        (
            [code(f"certstream_{name}"), ", ".join(map(code, values))]
            for name, values in rows.items()
        ),
    )


def _reloads() -> Any:
    return ConfigHolder(Config()).reloads


def _table(registry: CollectorRegistry, *collectors: Collector) -> str:
    rows = sorted(
        [code(name), kind, ", ".join(map(code, labels)), about]
        for name, kind, labels, about in (
            *_families(registry._collector_to_names),  # noqa: SLF001  (there is no other way)
            *(row for collector in collectors for row in _families(collector.collect())),
        )
    )
    return table(["metric", "type", "labels", "meaning"], rows)


def _families(families: Iterable[Any]) -> Iterator[tuple[str, str, Iterable[str], str]]:
    """Return name, type, labels and help of counted and of collected metrics."""
    for family in families:
        (described,) = family.describe() if hasattr(family, "describe") else (family,)
        total = "_total" if described.type == "counter" else ""
        labels = family._labelnames  # noqa: SLF001  (the same)
        yield f"{described.name}{total}", described.type, labels, described.documentation
