"""The gateway's line in the directory: that it is there, and for how many clients."""

import asyncio
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry
from certbus.cluster_health import FAULTS, STREAMS_SERVED, Faults
from certbus.errors import UNAVAILABLE
from certbus.keys import STREAMS, Keys
from certbus.streams.reader import StreamReader
from gateway.delivery.encoding import SSE, WEBSOCKET
from gateway.hub import Hub

_BEAT: Final = 1.0  # seconds
_FIRST_BEAT: Final = 0.1
_BEATS: Final = 10  # that rates are taken over
_FAREWELL: Final = 1.0  # seconds; a Redis that is gone is not waited for


def random_gateway_id() -> str:
    """Make a name that no gateway had before."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def register(
    client: Redis,
    keys: Keys,
    name: str,
    service: Hub,
    follower: StreamReader,
    url: str,
    admin: str | None,
    faults: Faults,
) -> None:
    """Keep the directory informed, until cancelled.

    Args:
        client: the primary.
        keys: names of the keys.
        name: of this gateway.
        service: whose clients are counted.
        follower: said to be following once it has found where the streams are.
        url: where it listens.
        admin: its own address, for the others on this machine; None if it has none.
        faults: what this gateway saw itself.
    """
    directory = ClusterRegistry(client, keys)
    whereabouts: dict[str, str | float] = {
        "url": url,
        "host": socket.gethostname(),
        "admin": admin or "",
    }
    rates = _RateMeter()
    began = time.monotonic()
    following = False
    try:
        while True:
            with suppress(*UNAVAILABLE):  # the streams' reader says so in the log
                following = bool(follower.positions)
                counts = _counts(service)
                said = {
                    **whereabouts,
                    "following": int(following),
                    "uptime": int(time.monotonic() - began),
                    STREAMS_SERVED: " ".join(service.settings.streams),
                    FAULTS: faults.field(),
                    **counts,
                    **rates.after(counts),
                }
                await directory.heartbeat_gateway(name, said)
            await asyncio.sleep(_BEAT if following else _FIRST_BEAT)
    finally:
        with suppress(*UNAVAILABLE, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await directory.remove_gateway(name)


def _counts(service: Hub) -> dict[str, str | float]:
    """What the directory shows of a gateway."""
    lanes = service.channels
    clients = sum(len(lane.clients) for lane in lanes.values())
    events = sum(len(lane.clients) for (_, form), lane in lanes.items() if form is SSE)
    streams = {
        stream: sum(len(lane.clients) for (has, _), lane in lanes.items() if has == stream)
        for stream in STREAMS
    }
    return {
        "clients": clients,
        WEBSOCKET.name: clients - events,  # compressed or not
        SSE.name: events,
        **streams,
        "sent": sum(lane.sent for lane in lanes.values()),
        "sent_bytes": sum(lane.sent_bytes for lane in lanes.values()),
    }


class _RateMeter:
    """How fast counters grow, over the last beats."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, float, float]] = deque(maxlen=_BEATS + 1)

    def after(self, counts: Mapping[str, str | float]) -> dict[str, str | float]:
        """Take note of the counters as they are now, and give what is sent in a second."""
        now = time.monotonic(), float(counts["sent"]), float(counts["sent_bytes"])
        self._past.append(now)
        seconds, sent, size = (new - old for new, old in zip(now, self._past[0], strict=True))
        if not seconds:
            return {"sent_per_second": 0, "sent_bytes_per_second": 0}
        return {
            "sent_per_second": round(sent / seconds, 1),
            "sent_bytes_per_second": round(size / seconds),
        }
