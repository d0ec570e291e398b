"""The metrics of many gateways as one text: each family once, each sample with its gateway."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def merge(texts: Mapping[str, bytes | None]) -> bytes:
    """Put the metrics of gateways together.

    Args:
        texts: by gateway, in Prometheus' text format; None from one that gave none.

    Returns:
        Text, where what cannot be read counts as not given.
    """
    up = GaugeMetricFamily(
        "certstream_gateway_up",
        "Whether it told its metrics. Needs an admin address.",
        labels=["gateway"],
    )
    families: dict[str, Metric] = {}
    for gateway, text in texts.items():
        told = _read(text)
        up.add_metric([gateway], told is not None)
        for family in told or ():
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            merged.samples += [
                sample._replace(labels={**sample.labels, "gateway": gateway})
                for sample in family.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Given([up, *families.values()]))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _read(text: bytes | None) -> list[Metric] | None:
    if text is None:
        return None
    try:
        return list(text_string_to_metric_families(text.decode()))
    except ValueError:
        return None
