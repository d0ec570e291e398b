"""What an ingestor can be measured by, in Prometheus' terms. Read from the worker when asked."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, get_args

from prometheus_client import ProcessCollector, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from certbus.logs.circuit_state import State as CircuitState
from certbus.streams.retention import Trimmer
from certhttp.server import Response
from ingestor.assignment.assigned_log import AssignedLog
from ingestor.assignment.worker import Worker
from ingestor.loglists.catalog import Catalog
from ingestor.metrics import PREFIX, Metrics
from ingestor.redis_retry import RedisRetry
from ingestor.verification.alerts import AlarmKind, State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CIRCUITS: Final[Sequence[CircuitState]] = ("closed", "half-open", "open")
_KINDS: Final[Sequence[AlarmKind]] = [
    kind for literal in get_args(AlarmKind) for kind in get_args(literal)
]


class WorkerCollector(Collector):
    """Reads a worker's numbers."""

    def __init__(self, worker: Worker, patience: RedisRetry, reloads: Mapping[str, int]) -> None:
        self._reloads = reloads
        self._worker = worker
        self._patience = patience

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as they are now."""
        worker = self._worker
        yield from _logs(worker.held)
        states = GaugeMetricFamily(
            f"{PREFIX}_logs",
            "Logs that it follows; of which it holds the entries back (`held`), as nothing proves "
            "them; and that it has yet to begin (`waiting`).",
            labels=["state"],
        )
        held_back = sum(held.follower.guard.is_blocking for held in worker.held)
        states.add_metric(["followed"], len(worker.held))
        states.add_metric(["held"], held_back)
        states.add_metric(["waiting"], worker.waiting)
        yield states
        yield GaugeMetricFamily(
            f"{PREFIX}_redis_up",
            "Whether Redis answers, be it by refusing to write.",
            self._patience.reached,
        )
        reloads = CounterMetricFamily(
            f"{PREFIX}_reloads", "Times the configuration was read again.", labels=["result"]
        )
        for result, count in self._reloads.items():
            reloads.add_metric([result], count)
        yield reloads


class MarksCollector(Collector):
    """Reads what a trimmer knows of deduplication marks and of the clock of Redis."""

    def __init__(self, trimmer: Trimmer) -> None:
        self._trimmer = trimmer

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as they are now."""
        trimmer = self._trimmer
        for name, what, value in (
            (
                "dedup_window_seconds",
                "Time for which every published certificate is known, in effect.",
                trimmer.remembered,
            ),
            ("dedup_marks_bytes", "Memory of Redis that marks use, about.", trimmer.marks_bytes),
            (
                "entry_id_ahead_seconds",
                "By how much the newest entry id is ahead of the clock of Redis.",
                trimmer.ahead,
            ),
        ):
            metric = GaugeMetricFamily(f"{PREFIX}_{name}", what)
            if value is not None:  # before the first round
                metric.add_metric([], value)
            yield metric


class ListCollector(Collector):
    """Reads a catalog's numbers."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Metric]:
        """Give all metrics as they are now."""
        library = self._catalog.library
        ages = GaugeMetricFamily(
            f"{PREFIX}_log_list_age_seconds",
            "Seconds since the list held was known to be its publisher's newest.",
            labels=["list"],
        )
        for name, seconds in library.ages().items():
            ages.add_metric([name], seconds)
        refusals = CounterMetricFamily(
            f"{PREFIX}_log_list_refusals",
            "How often this process asked for a list and got none that it believes.",
            labels=["list", "reason"],
        )
        for (name, reason), count in library.refusals.items():
            refusals.add_metric([name, reason], count)
        yield from (ages, refusals)


def _logs(followed: Sequence[AssignedLog]) -> Iterator[Metric]:
    def gauge(name: str, what: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{PREFIX}_{name}", what, labels=["log", *more])

    next_index = gauge("log_next_index", "Index of the next entry to publish.")
    tree_size = gauge("log_tree_size", "Entries in the newest tree head that the log has shown.")
    entries = gauge("log_lag_entries", "Entries that the log has and Redis has not.")
    seconds = gauge("log_lag_seconds", "Age of the oldest of them at most; 0 if there are none.")
    circuits = gauge("circuit_state", "Whether the log is asked: 0 closed, 1 half-open, 2 open.")
    missing = gauge("missing_issuers", "Issuers that the log names and does not serve.")
    integrity = gauge("integrity_state", "What is proven of the log; 1 at the present.", "state")
    alarms = CounterMetricFamily(
        f"{PREFIX}_integrity_alarms",
        "What was found wrong with the log; `no_proof` is no lie.",
        labels=["log", "kind"],
    )
    stale = CounterMetricFamily(
        f"{PREFIX}_stale_tree_heads",
        "Tree heads that were older than one before, which is nothing bad.",
        labels=["log"],
    )
    for name, held in _named(followed):
        follower = held.follower
        stale.add_metric([name], follower.guard.alarms.stale_heads)
        for kind in _KINDS:  # also those that are zero: alerts ask whether they grow
            alarms.add_metric([name, kind], follower.guard.alarms.counts[kind])
        lag = follower.lag
        next_index.add_metric([name], follower.pipeline.next)
        tree_size.add_metric([name], follower.health.tree_size)
        entries.add_metric([name], lag.entries)
        seconds.add_metric([name], lag.seconds)
        missing.add_metric([name], follower.missing_issuers)
        circuits.add_metric([name], _CIRCUITS.index(follower.breaker.circuit.status.state))
        for state in get_args(State):
            integrity.add_metric([name, state], state == follower.guard.state)
    yield from (next_index, tree_size, entries, seconds, circuits, missing, integrity)
    yield from (alarms, stale)


def _named(followed: Sequence[AssignedLog]) -> Iterator[tuple[str, AssignedLog]]:
    """The logs by names of which no two are the same: operators of logs choose them."""
    names = Counter(held.follower.log.name for held in followed)
    for held in followed:
        log = held.follower.log
        yield (log.name if names[log.name] == 1 else f"{log.name} ({log.id})"), held


def metrics(
    meter: Metrics,
    worker: Worker,
    catalog: Catalog,
    patience: RedisRetry,
    reloads: Mapping[str, int],
    trimmer: Trimmer,
) -> Callable[[], Response]:
    """Make what writes the metrics of this process as text."""
    # No series beside each counter that says when it began.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = meter.registry
    registry.register(WorkerCollector(worker, patience, reloads))
    registry.register(ListCollector(catalog))
    registry.register(MarksCollector(trimmer))
    ProcessCollector(registry=registry)
    return lambda: Response(200, CONTENT_TYPE, generate_latest(registry))
