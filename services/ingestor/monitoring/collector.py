"""Prometheus metrics that are read from the parts of an ingestor at scrape time."""

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
from ingestor.metrics import LOG_PREFIX, PREFIX, Metrics
from ingestor.redis_retry import RedisRetry
from ingestor.verification.alerts import AlarmKind, State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_CIRCUITS: Final[Sequence[CircuitState]] = ("closed", "half-open", "open")
_KINDS: Final[Sequence[AlarmKind]] = [
    kind for literal in get_args(AlarmKind) for kind in get_args(literal)
]


class WorkerCollector(Collector):
    """Reads the metrics of a worker."""

    def __init__(self, worker: Worker, redis_retry: RedisRetry, reloads: Mapping[str, int]) -> None:
        self._reloads = reloads
        self._worker = worker
        self._redis_retry = redis_retry

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        worker = self._worker
        yield from _logs(worker.assigned)
        states = GaugeMetricFamily(
            f"{PREFIX}_logs",
            "Logs by state: followed by this ingestor; of those, withheld without a proof "
            "(`held`); not started yet (`waiting`).",
            labels=["state"],
        )
        blocked = sum(each.follower.verifier.is_blocking for each in worker.assigned)
        states.add_metric(["followed"], len(worker.assigned))
        states.add_metric(["held"], blocked)
        states.add_metric(["waiting"], worker.waiting)
        yield states
        yield GaugeMetricFamily(
            f"{PREFIX}_redis_up",
            "1 while Redis answers, even if it rejects writes, 0 otherwise.",
            self._redis_retry.reached,
        )
        reloads = CounterMetricFamily(
            f"{PREFIX}_reloads", "Reloads of the configuration by result.", labels=["result"]
        )
        for result, count in self._reloads.items():
            reloads.add_metric([result], count)
        yield reloads


class MarksCollector(Collector):
    """Reads a trimmer's view of deduplication marks and of the clock of Redis."""

    def __init__(self, trimmer: Trimmer) -> None:
        self._trimmer = trimmer

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        trimmer = self._trimmer
        for name, what, value in (
            (
                "dedup_window_seconds",
                "Effective deduplication window: every certificate of this time is known.",
                trimmer.remembered,
            ),
            ("dedup_marks_bytes", "Estimated memory of dedup marks in Redis.", trimmer.marks_bytes),
            (
                "entry_id_ahead_seconds",
                "Time by which the newest entry id is ahead of the clock of Redis.",
                trimmer.ahead,
            ),
        ):
            metric = GaugeMetricFamily(f"{PREFIX}_{name}", what)
            if value is not None:  # before the first round
                metric.add_metric([], value)
            yield metric


class ListCollector(Collector):
    """Reads the metrics of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        lists = self._catalog.lists
        ages = GaugeMetricFamily(
            f"{PREFIX}_log_list_age_seconds",
            "Time since the stored list was last confirmed to be the newest of its publisher.",
            labels=["list"],
        )
        for name, seconds in lists.ages().items():
            ages.add_metric([name], seconds)
        rejections = CounterMetricFamily(
            f"{PREFIX}_log_list_refusals",
            "Fetches of a log list that returned no acceptable list, by reason.",
            labels=["list", "reason"],
        )
        for (name, reason), count in lists.rejections.items():
            rejections.add_metric([name, reason], count)
        yield from (ages, rejections)


def _logs(assigned: Sequence[AssignedLog]) -> Iterator[Metric]:
    def gauge(name: str, what: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{PREFIX}_{name}", what, labels=["log", *more])

    next_index = gauge("log_next_index", "Index of the next entry to publish.")
    tree_size = gauge("log_tree_size", "Tree size in the largest tree head of the log.")
    head_age = gauge("log_tree_head_age_seconds", "Time since the log signed that tree head.")
    max_head_age = gauge(
        "log_tree_head_max_age_seconds",
        "Age after which it is stale: the larger of the maximum merge delay and one hour. Absent "
        "for a log that accepts no entries.",
    )
    entries = gauge("log_lag_entries", "Entries of the log that are not published yet.")
    seconds = gauge("log_lag_seconds", "Maximum age of the oldest such entry; 0 without any.")
    peers_lag = GaugeMetricFamily(
        f"{LOG_PREFIX}_lag_entries",
        f"The same as {PREFIX}_log_lag_entries.",
        labels=["log"],
    )
    delay = GaugeMetricFamily(
        f"{LOG_PREFIX}_ingest_delay_seconds",
        "Time since the log accepted the newest entry that is accounted for, as new certificate or "
        "as duplicate.",
        labels=["log"],
    )
    circuits = gauge("circuit_state", "Circuit of the log: 0 closed, 1 half-open, 2 open.")
    missing = gauge("missing_issuers", "Issuers that the log names but does not serve.")
    integrity = gauge("integrity_state", "1 for the current state of verification.", "state")
    alarms = CounterMetricFamily(
        f"{PREFIX}_integrity_alarms",
        "Integrity violations by kind (`no_proof`: the log returned no proof).",
        labels=["log", "kind"],
    )
    stale = CounterMetricFamily(
        f"{PREFIX}_stale_tree_heads",
        "Tree heads older than an earlier one and consistent with it; no violation.",
        labels=["log"],
    )
    for name, each in _named(assigned):
        follower = each.follower
        stale.add_metric([name], follower.verifier.alerts.stale_heads)
        for kind in _KINDS:  # zero too: alerts need an increase
            alarms.add_metric([name, kind], follower.verifier.alerts.counts[kind])
        lag = follower.lag
        next_index.add_metric([name], follower.publisher.next)
        tree_size.add_metric([name], follower.health.tree_size)
        entries.add_metric([name], lag.entries)
        peers_lag.add_metric([name], lag.entries)
        for family, value in (
            (head_age, follower.tree_head_age),
            (max_head_age, each.log.max_head_age),
            (delay, follower.ingest_delay),
        ):
            if value is not None:
                family.add_metric([name], value)
        seconds.add_metric([name], lag.seconds)
        missing.add_metric([name], follower.missing_issuers)
        circuits.add_metric([name], _CIRCUITS.index(follower.availability.status.state))
        for state in get_args(State):
            integrity.add_metric([name, state], state == follower.verifier.state)
    yield from (next_index, tree_size, head_age, max_head_age, entries, seconds, peers_lag, delay)
    yield from (circuits, missing, integrity, alarms, stale)


def _named(assigned: Sequence[AssignedLog]) -> Iterator[tuple[str, AssignedLog]]:
    """Yield the logs by unique names: operators of logs choose their names."""
    names = Counter(each.log.name for each in assigned)
    for each in assigned:
        log = each.log
        yield (log.name if names[log.name] == 1 else f"{log.name} ({log.id})"), each


def metrics_page(
    metrics: Metrics,
    worker: Worker,
    catalog: Catalog,
    redis_retry: RedisRetry,
    reloads: Mapping[str, int],
    trimmer: Trimmer,
) -> Callable[[], Response]:
    """Make the page with the metrics of this process."""
    # No `_created` series beside each counter.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = metrics.registry
    registry.register(WorkerCollector(worker, redis_retry, reloads))
    registry.register(ListCollector(catalog))
    registry.register(MarksCollector(trimmer))
    ProcessCollector(registry=registry)
    return lambda: Response(200, CONTENT_TYPE, generate_latest(registry))
