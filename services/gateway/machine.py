"""What any gateway answers for all: the other processes are found in the directory, and asked.

Whoever asks often, or many at once, is given the answer of a moment ago.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec

from certadmin.address import UNIX
from certadmin.client import ask
from certbus.directory import Member, Snapshot
from certbus.reader import Follower
from gateway.api.sight import Sight
from gateway.exchange import JSON, OPEN, UNKEPT, Answer
from gateway.health import judge
from gateway.merging import Told, merge
from gateway.metrics import CONTENT_TYPE
from gateway.service import Service

_PATIENCE: Final = 1.0  # seconds for the other gateways
_FRESH: Final = 0.5  # seconds for which an answer is given again


class Machine:
    """Asks the gateways and ingestors of this machine, and the directory.

    Args:
        sight: shows the directory.
        name: of this gateway in the directory.
        admin: its own address; None if it has none.
        own_metrics: writes those of this gateway.
        follower: says whether Redis is being followed.
        service: whose streams' age is told.
    """

    def __init__(
        self,
        sight: Sight,
        name: str,
        admin: str | None,
        own_metrics: Callable[[], bytes],
        follower: Follower,
        service: Service,
    ) -> None:
        self._sight = sight
        self._name = name
        self._address = admin or name
        self._own_metrics = own_metrics
        self._follower = follower
        self._service = service
        self._seen: Snapshot | None = None
        self._started = time.monotonic()
        self.metrics = _Fresh(self._metrics).get
        self.health = _Fresh(self._health).get

    async def _metrics(self) -> Answer:
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
            Told("ingestor" if address in ingestors else "gateway", name, text)
            for address, name, text in zip(
                (self._address, *asked), names, (self._own_metrics(), *texts), strict=True
            )
        ]
        return Answer(200, (("Content-Type", CONTENT_TYPE), UNKEPT), merge(told))

    def _here(self, members: Sequence[Member]) -> dict[str, Member]:
        """Those of this machine but this one, by address.

        One that was replaced is remembered for a while beside the one that has its address now.
        """
        host = socket.gethostname()
        return {
            _address(member): member
            for member in members
            if member.fields.get("host") == host and member.id != self._name
        }

    async def _health(self) -> Answer:
        answers = await self._look() and self._follower.connected
        # Times in Redis are compared with its own clock.
        now = self._seen.now / 1000 if self._seen else time.time()
        said = judge(
            self._seen,
            now=int(now * 1000),
            redis=answers,
            uptime=time.monotonic() - self._started,
            ages={
                ring.stream: now - ring.head.cursor.entry.ms / 1000
                for ring in self._service.rings.values()
                if ring.newest is not None
            },
            unhealthy_threshold=self._service.settings.unhealthy_threshold,
        )
        status = 503 if said.status == "unhealthy" else 200
        return Answer(status, (JSON, *OPEN, UNKEPT), msgspec.json.encode(said))

    async def _look(self) -> bool:
        """Look at the directory; what was seen before stays if Redis does not answer."""
        seen = await self._sight.look()
        self._seen = seen or self._seen
        return seen is not None


class _Fresh:
    """Makes an answer when there is none of a moment ago; who comes meanwhile waits for it."""

    def __init__(self, make: Callable[[], Awaitable[Answer]]) -> None:
        self._make = make
        self._turn = asyncio.Lock()
        self._made: tuple[float, Answer] | None = None

    async def get(self) -> Answer:
        async with self._turn:
            if self._made is None or time.monotonic() - self._made[0] > _FRESH:
                answer = await self._make()
                self._made = time.monotonic(), answer
            return self._made[1]


async def _ask(admin: str | None) -> bytes | None:
    """Get a process's metrics; None if it does not give them in time."""
    reply = await ask(admin, "/metrics", _PATIENCE) if admin else None
    return reply.body if reply is not None and reply.status == HTTPStatus.OK else None


def _address(member: Member) -> str:
    """What tells a process from the others: its address, for it stays when it is replaced."""
    return member.fields.get("admin") or member.id


def _short(addresses: Sequence[str]) -> list[str]:
    """Short names, as long as they are different."""
    short = [Path(address).stem if address.startswith(UNIX) else address for address in addresses]
    return short if len(set(short)) == len(short) else list(addresses)
