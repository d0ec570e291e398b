"""The metrics of many processes as one text: each family once, each sample with its process."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class Told(msgspec.Struct, frozen=True):
    """What a process says.

    Attributes:
        kind: "gateway" or "ingestor": the label that its samples get.
        name: the value of that label.
        text: in Prometheus' text format; None if it gave none.
    """

    kind: str
    name: str
    text: bytes | None


def merge(told: Sequence[Told]) -> bytes:
    """Put the metrics of processes together.

    Returns:
        Text, where what cannot be read counts as not given.
    """
    ups = {
        kind: GaugeMetricFamily(
            f"certstream_{kind}_up",
            "Whether it told its metrics. Needs an admin address.",
            labels=[kind],
        )
        for kind in dict.fromkeys(each.kind for each in told)
    }
    families: dict[str, Metric] = {}
    for each in told:
        said = _read(each.text)
        ups[each.kind].add_metric([each.name], said is not None)
        for family in said or ():
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            merged.samples += [
                sample._replace(labels={**sample.labels, each.kind: each.name})
                for sample in family.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Given([*ups.values(), *families.values()]))
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
