"""The report of the cluster: for the HTTP API, /health/deep and the metrics of this gateway."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from redis.asyncio import Redis

from certbus.cluster import Snapshot, StreamRange, snapshot, stream_ranges
from certbus.cluster_health import Faults
from certbus.cluster_report import ClusterReport, cluster_report
from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certbus.server_state import ServerState, server_state
from certbus.streams.reader import StreamReader
from gateway.http.errors import redis_unavailable
from gateway.http.messages import DeferredResponse, Response, json_body
from gateway.hub import Hub

_CACHE_TTL_SECS: Final = 1.0
_TIMEOUT_SECS: Final = 1.0  # of a read
_WATCH_INTERVAL_SECS: Final = 5.0  # of evaluations without requests
_STARTUP_SECS: Final = 10.0  # in which ingestors may start, too
_EXHAUSTED: Final = {
    "full": ("connections_exhausted", "connection_limit.max_connections is reached"),
    "descriptors": ("descriptors_exhausted", "file descriptors are used up; see LimitNOFILE"),
}
"""Reason in `AdmissionController.refused` -> code and text of the fault."""

_EXHAUSTED_SECS: Final = 30.0  # after the last rejected request


class ReportCache:
    """Reads and evaluates the cluster at most once per second.

    Args:
        client: the primary.
        keys: names of the keys.
        reader: of the streams.
        hub: has the settings.
        faults: that this gateway has detected.
        refused: rejected requests by reason, see `AdmissionController.refused`.

    Attributes:
        is_connected: whether Redis answered at the newest read, and the gateway reads the streams.
        problems: codes of the problems in the newest report, which is at most
            `_WATCH_INTERVAL_SECS` old while `watch` runs.
        reach: by stream that has a batch: seconds that a cursor reaches back, of that report.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        reader: StreamReader,
        hub: Hub,
        faults: Faults,
        refused: Mapping[str, int],
    ) -> None:
        self._redis = client
        self._keys = keys
        self._reader = reader
        self._hub = hub
        self._faults = faults
        self._refused = refused
        self._refused_before: dict[str, int] = {}
        self._lock = asyncio.Lock()
        self._snapshot = Snapshot(0)
        self._ranges: Mapping[str, StreamRange] = {}
        self._server: ServerState | str = "not read yet"
        self._report: ClusterReport | None = None
        self._until = 0.0
        self._started = time.monotonic()
        self.problems: frozenset[str] = frozenset()
        self.reach: dict[str, float] = {}

    @property
    def uptime(self) -> float:
        """Seconds since the start of this gateway."""
        return time.monotonic() - self._started

    @property
    def is_connected(self) -> bool:
        """See the class."""
        return not isinstance(self._server, str) and self._reader.connected

    async def get(self) -> ClusterReport:
        """Return the report. Without Redis, it is of the snapshot before, with that problem."""
        async with self._lock:
            if self._report is None or time.monotonic() >= self._until:
                await self._read()
                self._report = self._evaluate()
                self._until = time.monotonic() + _CACHE_TTL_SECS
            return self._report

    async def watch(self) -> None:
        """Keep `problems` current, until cancelled."""
        while True:
            await self.get()
            await asyncio.sleep(_WATCH_INTERVAL_SECS)

    def json_response(self, show: Callable[[ClusterReport], object]) -> DeferredResponse:
        """Respond with `show(report)` as JSON; with an error if Redis is unavailable."""

        async def respond() -> Response:
            report = await self.get()
            unavailable = isinstance(self._server, str)
            return redis_unavailable() if unavailable else json_body(show(report))

        return DeferredResponse(respond)

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECS):
                self._server = await server_state(self._redis)
                self._snapshot = await snapshot(self._redis, self._keys)
                self._ranges = await stream_ranges(self._redis, self._keys)
        except (*UNAVAILABLE, TimeoutError) as error:
            # /health/deep is public: no address, which the text of the error has.
            self._server = f"{type(error).__name__}; the log of this gateway has the details"

    def _evaluate(self) -> ClusterReport:
        for reason, (code, text) in _EXHAUSTED.items():
            refused = self._refused.get(reason, 0)
            if refused > self._refused_before.get(reason, 0):
                self._faults.report(code, f"clients are refused: {text}", _EXHAUSTED_SECS)
            self._refused_before[reason] = refused
        server = self._server
        if not isinstance(server, str) and not self._reader.connected:
            server = "this gateway does not read the streams"
        report = cluster_report(
            self._snapshot,
            server,
            unhealthy_threshold=self._hub.settings.unhealthy_threshold,
            ranges=self._ranges,
            own=self._faults.current(),
            starting=self.uptime < _STARTUP_SECS,
        )
        self.reach = {
            stream.name: stream.oldest_age_seconds
            for stream in report.streams
            if stream.oldest_age_seconds is not None
        }
        self.problems = frozenset(problem.code for problem in report.problems)
        return report
