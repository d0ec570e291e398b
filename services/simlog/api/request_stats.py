"""Who was asked how often: requests to each operator and log, in tenths of a second.

A test reads it as JSON and asserts that no operator ever saw more than its rate: a token bucket of
`rate` and `burst` lets at most `burst + rate * seconds` through in any span of `seconds`.
"""

import time
from collections import deque
from collections.abc import Iterable

import msgspec

from simlog.http_server import Response
from simlog.spec import LogSpec

BUCKET = 100
"""Milliseconds."""

BUCKETS_KEPT = 36_000
"""An hour of requests without a pause."""


class Counted(msgspec.Struct):
    """Requests to one operator or log.

    Attributes:
        total: since the start.
        answers: how many held entries.
        entries: that these held.
        statuses: how many were answered with which HTTP status.
        buckets: when each tenth of a second with requests began, in milliseconds since the epoch,
            and how many it had; oldest first.
    """

    total: int = 0
    answers: int = 0
    entries: int = 0
    statuses: dict[int, int] = {}
    buckets: list[list[int]] = []

    def most(self, seconds: float) -> int:
        """The most requests that any span of so many seconds saw, in whole buckets."""
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


class Traffic(msgspec.Struct):
    """All requests to the logs of a world.

    Attributes:
        operators: by name.
        logs: by name.
    """

    operators: dict[str, Counted]
    logs: dict[str, Counted]

    def count(self, log: LogSpec, response: Response) -> None:
        """Count one request."""
        bucket = time.time_ns() // 1_000_000 // BUCKET * BUCKET
        for counted in (self.operators[log.operator], self.logs[log.name]):
            counted.total += 1
            counted.answers += response.entries > 0
            counted.entries += response.entries
            status = response.status
            counted.statuses[status] = counted.statuses.get(status, 0) + 1
            if counted.buckets and counted.buckets[-1][0] == bucket:
                counted.buckets[-1][1] += 1
            else:
                counted.buckets.append([bucket, 1])
                del counted.buckets[:-BUCKETS_KEPT]


def empty_counts(logs: Iterable[LogSpec]) -> Traffic:
    """Start to count."""
    logs = tuple(logs)
    return Traffic({log.operator: Counted() for log in logs}, {log.name: Counted() for log in logs})


def read(body: bytes) -> Traffic:
    """Decode what `/requests` serves."""
    return msgspec.json.decode(body, type=Traffic)
