"""Prometheus metrics that an ingestor counts as it works.

`monitoring/collector.py` reads the others at scrape time. Labels are bounded: logs and operators
are those that are followed, all other labels have fixed sets of values.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, get_args

import redis.exceptions
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from certbus.errors import ConnectionFailed, TimedOut, is_out_of_memory
from certbus.streams.batch import (
    AlreadyPublished,
    Batch,
    Fenced,
    Missing,
    Outcome,
    Published,
    Stale,
)

PREFIX = "certstream_ingestor"

LOG_PREFIX = "certstream_ct_log"
"""Of metrics that have the same names in certstream-server-rust."""

FetchOutcome = Literal[
    "ok", "rate_limited", "server_error", "refused", "timeout", "unreachable", "broken"
]
FAILED_FETCHES: Final[frozenset[FetchOutcome]] = frozenset(
    ("server_error", "timeout", "unreachable", "broken")
)
"""Outcomes that show that a log is overloaded or down."""

FailureReason = Literal["fenced", "missing", "stale", "full", "refused", "timeout", "away"]
TaskName = Literal["assignment", "heartbeat", "log_lists", "reload", "trimming"]
"""Tasks that fail alone, see `certtasks`."""

Measured = Callable[[FetchOutcome, float], None]
"""Called with the outcome and the seconds of each request."""

_FETCH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PUBLISH_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15)


class Metrics:
    """Counters and histograms of one ingestor.

    Attributes:
        registry: has all of them.
        entries: by log and outcome.
        skipped: entries skipped, by log.
        operator_wait: by operator, seconds for which requests were throttled.
        request_interval: by operator, milliseconds between two requests at present.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry)
        self.entries = counter("entries", "Processed log entries by outcome.", ["log", "outcome"])
        self._fetch_seconds = histogram(
            "fetch_seconds",
            "Time of HTTP requests to logs, including the body.",
            ["operator"],
            buckets=_FETCH_BUCKETS,
        )
        self._fetches = counter(
            "fetches", "HTTP requests to logs by outcome.", ["operator", "outcome"]
        )
        self._rate_limited = Counter(
            f"{LOG_PREFIX}_rate_limited",
            "Requests to the log that were answered by 429.",
            ["log"],
            registry=self.registry,
        )
        self._publish_seconds = histogram(
            "publish_seconds", "Time to publish one batch to Redis.", buckets=_PUBLISH_BUCKETS
        )
        self._publish_failures = counter(
            "publish_failures",
            "Batches that Redis did not accept; this or another ingestor retries them.",
            ["reason"],
        )
        self._task_failures = counter(
            "task_failures",
            "Tasks that ended with an unexpected error and were restarted.",
            ["task"],
        )
        self._log_failures = counter(
            "log_failures",
            "Unexpected errors while following the log: bugs, or unusable data of the log in "
            "Redis. The ingestor retries after a pause.",
            ["log"],
        )
        self.skipped = Counter(
            f"{LOG_PREFIX}_skipped_entries",
            "Entries skipped because the log was too far behind (ct_log.max_catchup_lag_*).",
            ["log"],
            registry=self.registry,
        )
        self.operator_wait = counter(
            "operator_wait_seconds",
            "Time that requests waited for the rate limit of an operator.",
            ["operator"],
        )
        self.request_interval = Gauge(
            "certstream_operator_request_interval_ms",
            "Present interval between two requests to an operator, of all ingestors together; "
            "0 without a limit. Logs that only an unsigned list names have an interval of their "
            "own, with the name of that list in the label.",
            ["operator"],
            registry=self.registry,
        )
        for reason in get_args(FailureReason):  # zero too: alerts need an increase
            self._publish_failures.labels(reason)
        for task in get_args(TaskName):
            self._task_failures.labels(task)

    def task_failed(self, task: TaskName) -> None:
        """Count a task that ended by an unexpected error."""
        self._task_failures.labels(task).inc()

    def log_failed(self, name: str) -> None:
        """Count an unexpected error that ended following a log."""
        self._log_failures.labels(name).inc()

    def fetches(self, operator: str, log: str) -> Measured:
        """Make the callback for each request to a log of this operator."""
        operator = operator or "unknown"
        seconds = self._fetch_seconds.labels(operator)
        for outcome in get_args(FetchOutcome):
            self._fetches.labels(operator, outcome)
        rate_limited = self._rate_limited.labels(log)

        def measured(outcome: FetchOutcome, spent: float) -> None:
            seconds.observe(spent)
            self._fetches.labels(operator, outcome).inc()
            if outcome == "rate_limited":
                rate_limited.inc()

        return measured

    def count_rejected(self, error: redis.exceptions.RedisError) -> None:
        """Count an attempt to publish that Redis rejected and that the publisher repeats."""
        self._publish_failures.labels(_reason(error)).inc()

    def log(self, name: str) -> "LogMetrics":
        """Return the metrics of one log."""
        self._log_failures.labels(name)
        return LogMetrics(self, name)

    def observe_publish(self, outcome: Outcome | Exception, spent: float) -> None:
        """Count one attempt to publish a batch, with its outcome and seconds."""
        if isinstance(outcome, Published | AlreadyPublished):
            self._publish_seconds.observe(spent)
        else:
            self._publish_failures.labels(_reason(outcome)).inc()


class LogMetrics:
    """The metrics of one log.

    Args:
        metrics: those of the process.
        log: its name.
    """

    def __init__(self, metrics: Metrics, log: str) -> None:
        self.observe_publish = metrics.observe_publish
        self._published = metrics.entries.labels(log, "published")
        self._duplicates = metrics.entries.labels(log, "duplicate")
        self._rejected = metrics.entries.labels(log, "rejected")
        self.count_skipped = metrics.skipped.labels(log).inc

    def count_batch(self, batch: Batch) -> None:
        """Count a batch that Redis has accepted."""
        self._published.inc(len(batch.messages))
        self._duplicates.inc(batch.duplicates)
        self._rejected.inc(len(batch.rejected))


_REASONS: Sequence[tuple[type | tuple[type, ...], FailureReason]] = (
    (Fenced, "fenced"),
    (Missing, "missing"),
    (Stale, "stale"),
    (TimedOut, "timeout"),
    ((ConnectionFailed, OSError), "away"),
)


def _reason(outcome: Outcome | Exception) -> FailureReason:
    """Return why a batch was not accepted."""
    if isinstance(outcome, Exception) and is_out_of_memory(outcome):
        return "full"
    return next((reason for kind, reason in _REASONS if isinstance(outcome, kind)), "refused")
