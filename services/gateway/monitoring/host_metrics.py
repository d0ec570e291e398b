"""What any gateway answers for all: the other processes are found in the directory, and asked.

Whoever asks often, or many at once, is given the answer of a moment ago.
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

_PATIENCE: Final = 1.0  # seconds for the other gateways
_FRESH: Final = 0.5  # seconds for which an answer is given again
_JUDGE_EVERY: Final = 5.0  # seconds between two judgements that nobody asked for
_STARTING: Final = 10.0  # seconds in which ingestors may be starting, too
_EXHAUSTED: Final = {
    "full": ("connections_exhausted", "connection_limit.max_connections is reached"),
    "descriptors": ("descriptors_exhausted", "file descriptors are used up; see LimitNOFILE"),
}
"""Why requests are refused, as in `Door.refused`, and the fault that it is."""

_EXHAUSTED_FOR: Final = 30.0  # seconds after the last refusal


class HostMetrics:
    """Asks the gateways and ingestors of this machine, and the directory.

    Args:
        sight: shows the directory.
        name: of this gateway in the directory.
        admin: its own address; None if it has none.
        own_metrics: writes those of this gateway.
        follower: says whether Redis is being followed.
        service: whose streams' age is told.
        faults: what this gateway saw itself.
        refused: refused requests by reason, see `Door.refused`.

    Attributes:
        problems: codes of what is wrong with the service, by the newest judgement, which is at
            most a few seconds old while `watch` runs.
    """

    def __init__(
        self,
        sight: SnapshotCache,
        name: str,
        admin: str | None,
        own_metrics: Callable[[], bytes],
        follower: StreamReader,
        service: Hub,
        faults: Faults,
        refused: Mapping[str, int],
    ) -> None:
        self._refused = refused
        self._refused_before: dict[str, int] = {}
        self.problems: frozenset[str] = frozenset()
        self._faults = faults
        self._sight = sight
        self._name = name
        self._address = admin or name
        self._own_metrics = own_metrics
        self._follower = follower
        self._service = service
        self._seen: Snapshot | None = None
        self._started = time.monotonic()
        self.metrics = _TTLCache(self._metrics).get
        self.health = _TTLCache(self._health).get

    async def _metrics(self) -> Response:
        await self._look()
        seen = self._seen
        gateways = self._here(seen.gateways if seen else [])
        gateways.pop(self._address, None)
        ingestors = self._here(seen.workers if seen else [])
        asked = {**gateways, **ingestors}
        texts = await asyncio.gather(
            *(_ask(member.fields.get("admin")) for member in asked.values())
        )
        names = _short([self._address, *asked])
        told = [
            Scrape("ingestor" if address in ingestors else "gateway", name, text)
            for address, name, text in zip(
                (self._address, *asked), names, (self._own_metrics(), *texts), strict=True
            )
        ]
        return Response(200, (("Content-Type", CONTENT_TYPE), NO_STORE), merge_scrapes(told))

    def _here(self, members: Sequence[ProcessInfo]) -> dict[str, ProcessInfo]:
        """Those of this machine but this one, by address.

        One that was replaced is remembered for a while beside the one that has its address now.
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
            await self._look()
            self._observe()
            self._judge()
            await asyncio.sleep(_JUDGE_EVERY)

    async def _health(self) -> Response:
        answers = await self._look() and self._follower.connected
        self._observe()
        said = deep(
            self._judge(),
            self._seen,
            redis=answers,
            uptime=self._uptime,
            ages={
                stream: age
                for stream, age in self._service.stream_ages().items()
                if self._service.rings[stream].newest is not None
            },
        )
        status = 503 if said.status == "unhealthy" else 200
        return Response(status, (JSON, *CORS_HEADERS, NO_STORE), msgspec.json.encode(said))

    def _observe(self) -> None:
        """Note what only a counter shows."""
        for why, (code, text) in _EXHAUSTED.items():
            refused = self._refused.get(why, 0)
            if refused > self._refused_before.get(why, 0):
                self._faults.report(code, f"clients are refused: {text}", _EXHAUSTED_FOR)
            self._refused_before[why] = refused

    @property
    def _uptime(self) -> float:
        return time.monotonic() - self._started

    def _judge(self) -> HealthReport:
        server = self._sight.server
        if not isinstance(server, str) and not self._follower.connected:
            server = "this gateway does not read the streams"
        judged = evaluate(
            self._seen,
            server,
            unhealthy_threshold=self._service.settings.unhealthy_threshold,
            own=self._faults.current(),
            starting=self._uptime < _STARTING,
        )
        self.problems = frozenset(problem.code for problem in judged.problems)
        return judged

    async def _look(self) -> bool:
        """Look at the directory; what was seen before stays if Redis does not answer."""
        seen = await self._sight.get()
        self._seen = seen or self._seen
        return seen is not None


class _TTLCache:
    """Makes an answer when there is none of a moment ago; who comes meanwhile waits for it."""

    def __init__(self, make: Callable[[], Awaitable[Response]]) -> None:
        self._make = make
        self._turn = asyncio.Lock()
        self._made: tuple[float, Response] | None = None

    async def get(self) -> Response:
        async with self._turn:
            if self._made is None or time.monotonic() - self._made[0] > _FRESH:
                answer = await self._make()
                self._made = time.monotonic(), answer
            return self._made[1]


async def _ask(admin: str | None) -> bytes | None:
    """Get a process's metrics; None if it does not give them in time."""
    reply = await fetch(admin, "/metrics", _PATIENCE) if admin and is_here(admin) else None
    return reply.body if reply is not None and reply.status == HTTPStatus.OK else None


def _address(member: ProcessInfo) -> str:
    """What tells a process from the others: its address, for it stays when it is replaced."""
    return member.fields.get("admin") or member.id


def _short(addresses: Sequence[str]) -> list[str]:
    """Short names, as long as they are different."""
    short = [Path(address).stem if address.startswith(UNIX) else address for address in addresses]
    return short if len(set(short)) == len(short) else list(addresses)
