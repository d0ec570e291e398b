"""Requests to each operator and log by tenths of a second, and the load of this process.

A test reads the counts as JSON and asserts that no operator received more than its rate: a token
bucket of `rate` and `burst` passes at most `burst + rate * seconds` in any span of `seconds`.
"""

import time
from array import array
from collections import deque
from collections.abc import Iterable

import msgspec

from simlog.ctlog.tree import TILE
from simlog.http_server import Response
from simlog.spec import LogSpec

BUCKET_MS = 100
"""Width of a bucket."""

MAX_ANSWERS = 1_000_000
"""Answers whose lateness is kept."""

MAX_BUCKETS = 36_000
"""An hour of requests without a pause."""


class Counts(msgspec.Struct):
    """Requests to one operator or log.

    Attributes:
        total: since the start.
        answers: how many held entries.
        entries: that these held.
        behind_answers, behind_entries: the same of answers after which the client had at least one
            more whole page to request.
        statuses: how many were answered with which HTTP status.
        buckets: when each tenth of a second with requests began, in milliseconds since the epoch,
            and how many it had; oldest first.
    """

    total: int = 0
    answers: int = 0
    entries: int = 0
    behind_answers: int = 0
    behind_entries: int = 0
    statuses: dict[int, int] = {}
    buckets: list[list[int]] = []

    def most(self, seconds: float) -> int:
        """Return the maximum of requests in any span of `seconds`, in whole buckets."""
        span = round(1000 * seconds)
        most = count = 0
        window: deque[list[int]] = deque()
        for bucket in self.buckets:
            window.append(bucket)
            count += bucket[1]
            while window[0][0] <= bucket[0] - span:
                count -= window.popleft()[1]
            most = max(most, count)
        return most


class RequestCounts(msgspec.Struct):
    """All requests to the logs of a world.

    Attributes:
        operators: by name.
        logs: by name.
    """

    operators: dict[str, Counts]
    logs: dict[str, Counts]

    def count(self, log: LogSpec, size: int, response: Response) -> None:
        """Count one request to a log of `size` entries."""
        page = TILE if log.profile is None else log.profile.page
        is_behind = response.entries > 0 and response.first + 2 * page <= size
        bucket = time.time_ns() // 1_000_000 // BUCKET_MS * BUCKET_MS
        for counted in (self.operators[log.operator], self.logs[log.name]):
            counted.total += 1
            counted.answers += response.entries > 0
            counted.entries += response.entries
            counted.behind_answers += is_behind
            counted.behind_entries += response.entries * is_behind
            status = response.status
            counted.statuses[status] = counted.statuses.get(status, 0) + 1
            if counted.buckets and counted.buckets[-1][0] == bucket:
                counted.buckets[-1][1] += 1
            else:
                counted.buckets.append([bucket, 1])
                del counted.buckets[:-MAX_BUCKETS]


def empty_counts(logs: Iterable[LogSpec]) -> RequestCounts:
    """Start to count."""
    logs = tuple(logs)
    return RequestCounts(
        {log.operator: Counts() for log in logs}, {log.name: Counts() for log in logs}
    )


def read(body: bytes) -> RequestCounts:
    """Decode what `/requests` serves."""
    return msgspec.json.decode(body, type=RequestCounts)


class LoadReport(msgspec.Struct, frozen=True):
    """Load since the start of the process.

    Attributes:
        cpu_seconds: user and system time.
        wall_seconds: since the start.
        answers: sent.
        late_p50_ms, late_p99_ms, late_max_ms: how much later than planned they were sent.
    """

    cpu_seconds: float
    wall_seconds: float
    answers: int
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float


class LoadMeter:
    """Load of the process that serves a world. A bench reads `/load` at both ends of a run."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._late = array("f")

    def record_lateness(self, late: float) -> None:
        """Record that an answer was sent `late` seconds after its planned time."""
        if len(self._late) < MAX_ANSWERS:
            self._late.append(late)

    def report(self) -> LoadReport:
        """Return the load so far."""
        late = sorted(self._late) or [0.0]
        return LoadReport(
            cpu_seconds=time.process_time(),
            wall_seconds=time.monotonic() - self._start,
            answers=len(self._late),
            late_p50_ms=1000 * late[len(late) // 2],
            late_p99_ms=1000 * late[len(late) * 99 // 100],
            late_max_ms=1000 * late[-1],
        )
