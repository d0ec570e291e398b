"""Series scraped from real processes, stretched to the time that alerts wait for."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import msgspec
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.manifests.tools import DEPLOY, promtool

ALERTS = DEPLOY / "prometheus" / "alerts.yml"

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Name and labels of a series."""


class Scrape(msgspec.Struct, frozen=True):
    """The series of all processes at one moment.

    Attributes:
        at: seconds of a clock that never goes back.
        values: of each series.
        counters: those that only grow, parts of histograms among them.
    """

    at: float
    values: Mapping[Key, float]
    counters: frozenset[Key]


class Phase(msgspec.Struct, frozen=True):
    """Two scrapes of one state, and for how many minutes that state is to last."""

    first: Scrape
    last: Scrape
    minutes: int


async def scrape(targets: Mapping[str, str]) -> Scrape:
    """Scrape each target (instance -> URL); one that does not answer has no metrics."""
    values: dict[Key, float] = {}
    counters: set[Key] = set()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        for instance, url in targets.items():
            try:
                text = (await http.get(url)).text
            except httpx.TransportError:
                continue
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    key = (
                        sample.name,
                        tuple(sorted({**sample.labels, "instance": instance}.items())),
                    )
                    values[key] = sample.value
                    if family.type in ("counter", "histogram"):
                        counters.add(key)
    return Scrape(time.monotonic(), values, frozenset(counters))


def firing(phases: Sequence[Phase], place: Path, alerts: Sequence[str]) -> None:
    """Check with promtool that these alerts, and perhaps others, fire at the end."""
    tests = [
        {
            "expr": f'group(ALERTS{{alertname="{alert}",alertstate="firing"}})',
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for alert in alerts
    ]
    end = sum(phase.minutes for phase in phases) - 1
    _check(phases, place, [{**test, "eval_time": f"{end}m"} for test in tests])


def firing_only(phases: Sequence[Phase], place: Path, alert: str) -> None:
    """Check with promtool that this alert fires at the end, and no other."""
    test = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}],
        "eval_time": f"{sum(phase.minutes for phase in phases) - 1}m",
    }
    _check(phases, place, [test])


def silent(phases: Sequence[Phase], place: Path) -> None:
    """Check with promtool that no alert fires at any time."""
    test = {"expr": 'ALERTS{alertstate="firing"}', "exp_samples": list[object]()}
    end = sum(phase.minutes for phase in phases)
    _check(phases, place, [{**test, "eval_time": f"{at}m"} for at in range(0, end, 2)])


def present(phases: Sequence[Phase], place: Path, expressions: Sequence[str]) -> None:
    """Check with promtool that each expression has a value at the end."""
    end = sum(phase.minutes for phase in phases) - 1
    _check(
        phases,
        place,
        [
            {"expr": f"absent({expression})", "eval_time": f"{end}m", "exp_samples": list[object]()}
            for expression in expressions
        ],
    )


def _check(phases: Sequence[Phase], place: Path, tests: Sequence[Mapping[str, object]]) -> None:
    keys = sorted({key for phase in phases for key in phase.last.values})
    document = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _text(key), "values": " ".join(_stretched(key, phases))}
                    for key in keys
                ],
                "promql_expr_test": list(tests),
            }
        ],
    }
    place.write_text(yaml.safe_dump(document))
    promtool("test", "rules", place)


def _stretched(key: Key, phases: Sequence[Phase]) -> list[str]:
    """One value a minute. Counters keep their rate, ages that grow as time passes keep growing."""
    points: list[str] = []
    value: float | None = None  # a counter so far
    before: float | None = None  # its value then
    for phase in phases:
        first, last = phase.first.values.get(key), phase.last.values.get(key)
        if last is None:
            points += ["stale"] + ["_"] * (phase.minutes - 1)
            value = before = None
            continue
        seconds = phase.last.at - phase.first.at
        slope = 0.0 if first is None else (last - first) / seconds
        if key not in phase.last.counters:
            growing = key[0].endswith(("_age_seconds", "_lag_seconds")) and slope > 0.9
            points += [repr(last + growing * 60 * minute) for minute in range(phase.minutes)]
            continue
        start = last if first is None else first
        if value is None or before is None or start < before:
            value = start  # it is new, or its process was started again
        else:
            value += start - before
        points += [repr(value + max(slope, 0.0) * 60 * minute) for minute in range(phase.minutes)]
        value += max(slope, 0.0) * 60 * (phase.minutes - 1)
        before = last
    return points


def _text(key: Key) -> str:
    name, labels = key
    escaped = (
        (label, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for label, value in labels
    )
    inner = ",".join(f'{label}="{value}"' for label, value in escaped)
    return f"{name}{{{inner}}}"
