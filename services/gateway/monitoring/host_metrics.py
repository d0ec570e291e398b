"""The metrics of all processes of this host, and the health of the whole service.

The addresses of the other processes are in the registry in Redis. Responses are cached for half a
second.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec

from certbus.cluster import ProcessInfo, Snapshot
from certbus.cluster_health import Faults, HealthReport, evaluate
from certbus.streams.reader import StreamReader
from certhttp.address import UNIX, is_here
from certhttp.client import fetch
from gateway.cluster_snapshot import SnapshotCache
from gateway.endpoints.health import deep
from gateway.http.messages import CORS_HEADERS, JSON, NO_STORE, Response
from gateway.hub import Hub
from gateway.monitoring.collector import CONTENT_TYPE
from gateway.monitoring.merge_metrics import Scrape, merge_scrapes

_TIMEOUT_SECS: Final = 1.0  # of a request to another process
_CACHE_TTL_SECS: Final = 0.5
_EVALUATION_INTERVAL_SECS: Final = 5.0  # without requests
_STARTUP_SECS: Final = 10.0  # in which ingestors may start, too
_EXHAUSTED: Final = {
    "full": ("connections_exhausted", "connection_limit.max_connections is reached"),
    "descriptors": ("descriptors_exhausted", "file descriptors are used up; see LimitNOFILE"),
}
"""Reason in `AdmissionController.refused` -> code and text of the fault."""

_EXHAUSTED_SECS: Final = 30.0  # after the last rejected request


class HostMetrics:
    """Collects the metrics of this host and evaluates the health of the service.

    Args:
        snapshots: of the cluster.
        name: id of this gateway.
        admin: its admin address; None if it has none.
        own_metrics: returns the metrics of this gateway.
        reader: of the streams.
        hub: settings and age of the streams.
        faults: that this gateway has detected.
        refused: rejected requests by reason, see `AdmissionController.refused`.

    Attributes:
        problems: codes of the problems of the newest evaluation, which is at most
            `_EVALUATION_INTERVAL_SECS` old while `watch` runs.
    """

    def __init__(
        self,
        snapshots: SnapshotCache,
        name: str,
        admin: str | None,
        own_metrics: Callable[[], bytes],
        reader: StreamReader,
        hub: Hub,
        faults: Faults,
        refused: Mapping[str, int],
    ) -> None:
        self._refused = refused
        self._refused_before: dict[str, int] = {}
        self.problems: frozenset[str] = frozenset()
        self._faults = faults
        self._snapshots = snapshots
        self._name = name
        self._address = admin or name
        self._own_metrics = own_metrics
        self._reader = reader
        self._hub = hub
        self._snapshot: Snapshot | None = None
        self._started = time.monotonic()
        self.metrics = _TTLCache(self._metrics).get
        self.health = _TTLCache(self._health).get

    async def _metrics(self) -> Response:
        await self._refresh()
        snapshot = self._snapshot
        gateways = self._on_this_host(snapshot.gateways if snapshot else [])
        gateways.pop(self._address, None)
        ingestors = self._on_this_host(snapshot.workers if snapshot else [])
        processes = {**gateways, **ingestors}
        texts = await asyncio.gather(
            *(_fetch_metrics(member.fields.get("admin")) for member in processes.values())
        )
        names = _short([self._address, *processes])
        scrapes = [
            Scrape("ingestor" if address in ingestors else "gateway", name, text)
            for address, name, text in zip(
                (self._address, *processes), names, (self._own_metrics(), *texts), strict=True
            )
        ]
        return Response(200, (("Content-Type", CONTENT_TYPE), NO_STORE), merge_scrapes(scrapes))

    def _on_this_host(self, members: Sequence[ProcessInfo]) -> dict[str, ProcessInfo]:
        """Return the other processes of this host, by address.

        A replaced process remains in the registry for a while, with the address of its successor.
        """
        host = socket.gethostname()
        return {
            _address(member): member
            for member in members
            if member.fields.get("host") == host and member.id != self._name
        }

    async def watch(self) -> None:
        """Keep `problems` current, until cancelled."""
        while True:
            await self._refresh()
            self._observe()
            self._evaluate()
            await asyncio.sleep(_EVALUATION_INTERVAL_SECS)

    async def _health(self) -> Response:
        available = await self._refresh() and self._reader.connected
        self._observe()
        health = deep(
            self._evaluate(),
            self._snapshot,
            redis=available,
            uptime=self._uptime,
            ages={
                stream: age
                for stream, age in self._hub.stream_ages().items()
                if self._hub.rings[stream].newest is not None
            },
        )
        status = 503 if health.status == "unhealthy" else 200
        return Response(status, (JSON, *CORS_HEADERS, NO_STORE), msgspec.json.encode(health))

    def _observe(self) -> None:
        """Report the faults that only counters show."""
        for reason, (code, text) in _EXHAUSTED.items():
            refused = self._refused.get(reason, 0)
            if refused > self._refused_before.get(reason, 0):
                self._faults.report(code, f"clients are refused: {text}", _EXHAUSTED_SECS)
            self._refused_before[reason] = refused

    @property
    def _uptime(self) -> float:
        return time.monotonic() - self._started

    def _evaluate(self) -> HealthReport:
        server = self._snapshots.server
        if not isinstance(server, str) and not self._reader.connected:
            server = "this gateway does not read the streams"
        report = evaluate(
            self._snapshot,
            server,
            unhealthy_threshold=self._hub.settings.unhealthy_threshold,
            own=self._faults.current(),
            starting=self._uptime < _STARTUP_SECS,
        )
        self.problems = frozenset(problem.code for problem in report.problems)
        return report

    async def _refresh(self) -> bool:
        """Read the cluster; keep the previous snapshot and return False if Redis is unavailable."""
        snapshot = await self._snapshots.get()
        self._snapshot = snapshot or self._snapshot
        return snapshot is not None


class _TTLCache:
    """A cached response. Concurrent callers wait for the one that creates it."""

    def __init__(self, create: Callable[[], Awaitable[Response]]) -> None:
        self._create = create
        self._lock = asyncio.Lock()
        self._made: tuple[float, Response] | None = None

    async def get(self) -> Response:
        async with self._lock:
            if self._made is None or time.monotonic() - self._made[0] > _CACHE_TTL_SECS:
                answer = await self._create()
                self._made = time.monotonic(), answer
            return self._made[1]


async def _fetch_metrics(admin: str | None) -> bytes | None:
    """Return the metrics of a process; None without a response in time."""
    reply = await fetch(admin, "/metrics", _TIMEOUT_SECS) if admin and is_here(admin) else None
    return reply.body if reply is not None and reply.status == HTTPStatus.OK else None


def _address(member: ProcessInfo) -> str:
    """Return the admin address, which a successor keeps; the id of a process without one."""
    return member.fields.get("admin") or member.id


def _short(addresses: Sequence[str]) -> list[str]:
    """Return short names if they are unique, else the addresses."""
    short = [Path(address).stem if address.startswith(UNIX) else address for address in addresses]
    return short if len(set(short)) == len(short) else list(addresses)
