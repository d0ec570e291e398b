"""The metrics that a gateway records; `monitoring.collector` reads others at scrape time.

The gateway records once per flush or batch, never per message or client.
"""

import time
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from certbus.cluster_health import Faults
from certbus.ids import EntryId
from certbus.streams.events import FORGOTTEN, NOT_RETAINED_REASON, EpochChanged, Gap, Rewind

PREFIX = "certstream_gateway"

GapReason = Literal["trimmed", "lost", "emptied", "unreadable", "repeated", "future", "unknown"]

_GAPS: Final[dict[str, GapReason]] = {NOT_RETAINED_REASON: "trimmed", FORGOTTEN: "repeated"}

_LOSSES: Final = {
    "emptied": ("redis_emptied", "Redis came back without its data"),
    "lost": ("redis_rewound", "Redis came back without its last writes"),
}
"""Reason of a gap -> code and text of the fault."""

_LOSS_SECS: Final = 900.0  # for which a loss of Redis is reported
_FAILURE_SECS: Final = 60.0  # for which a failed task is reported; it restarts sooner

TaskName = Literal[
    "announce",
    "certificate",
    "connections",
    "events",
    "fanout",
    "machine",
    "rates",
    "reload",
    "stalled",
    "websockets",
]
"""Supervised tasks; each fails alone, see `certtasks`."""

_DELIVERY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_FLUSH_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


class Metrics:
    """Counters and histograms of one gateway.

    Args:
        faults: receives the losses of Redis and the failed tasks.

    Attributes:
        registry: of all metrics.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        self._faults = faults or Faults(time.monotonic)
        self._started = time.monotonic()
        self._arrived: dict[str, float] = {}  # stream -> when its newest batch was read
        registry = self.registry = CollectorRegistry()
        self._delivery = Histogram(
            f"{PREFIX}_delivery_seconds",
            "Time from the publication of a batch in Redis to its write to all live clients; "
            "observed for the newest batch of each flush.",
            buckets=_DELIVERY_BUCKETS,
            registry=registry,
        )
        self._flush = Histogram(
            f"{PREFIX}_flush_seconds",
            "Time that one flush of new messages to all live clients took.",
            buckets=_FLUSH_BUCKETS,
            registry=registry,
        )
        self._redis_lag = Gauge(
            f"{PREFIX}_redis_lag_seconds",
            "Age of the newest batch when it was read from Redis.",
            registry=registry,
        )
        self._gaps = Counter(
            f"{PREFIX}_gaps",
            "Gaps reported to one client that resumed, or at once to all clients of a stream.",
            ["reason"],
            registry=registry,
        )
        for reason in get_args(GapReason):  # zeros, too: alerts use their increase
            self._gaps.labels(reason)
        self._requests = Counter(
            f"{PREFIX}_http_requests",
            "Responses at the public address by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._failures = Counter(
            f"{PREFIX}_task_failures",
            "Tasks that ended with an unexpected error and were restarted.",
            ["task"],
            registry=registry,
        )
        for task in get_args(TaskName):
            self._failures.labels(task)

    def failed(self, task: TaskName) -> None:
        """Count a task that ended with an unexpected error."""
        self._failures.labels(task).inc()
        text = f"{task}: ended by an error and begun again; the log of the gateway has the error"
        self._faults.report("task_failing", text, _FAILURE_SECS)

    def observe_response(self, route: str, status: int) -> None:
        """Count a response."""
        self._requests.labels(route, status).inc()

    def observe_read_delay(self, stream: str, entry: EntryId) -> None:
        """Record that a batch was read from Redis."""
        self._redis_lag.set(_age(entry))
        self._arrived[stream] = time.monotonic()

    def stream_age(self, stream: str, newest: EntryId | None) -> float:
        """Return the age of the newest batch of a stream, in seconds.

        A batch is at least as old as its time in this process: a clock of Redis that is ahead does
        not hide a stream without new batches. Without a batch, the age is that of this process.

        Args:
            stream: its name.
            newest: id of the newest batch in memory.
        """
        here = time.monotonic() - self._arrived.get(stream, self._started)
        return max(here, 0.0 if newest is None else time.time() - newest.ms / 1000)

    def observe_delivery(self, entry: EntryId) -> None:
        """Record that all clients of a channel have received a batch."""
        self._delivery.observe(_age(entry))

    def observe_flush(self, spent: float) -> None:
        """Record the seconds of work of one flush of all channels."""
        self._flush.observe(spent)

    def observe_event(self, event: Gap | Rewind | EpochChanged) -> None:
        """Count a gap that the stream reader has detected; report a loss as a fault."""
        reason = reason_of(event)
        self.count_gap(reason)
        if reason in _LOSSES:
            self._faults.report(*_LOSSES[reason], _LOSS_SECS)

    def count_gap(self, reason: GapReason) -> None:
        """Count a gap message, to one client or to all of a stream."""
        self._gaps.labels(reason).inc()


def reason_of(event: Gap | Rewind | EpochChanged) -> GapReason:
    """Return the reason of an event of the stream reader."""
    match event:
        case Rewind():
            return "lost"
        case EpochChanged():
            return "emptied"
        case Gap():
            return _GAPS.get(event.reason, "unreadable")


def _age(entry: EntryId) -> float:
    """Return the seconds since a batch was published; the clock of Redis may differ."""
    return max(time.time() - entry.ms / 1000, 0.0)
