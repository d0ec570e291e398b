"""The heartbeat of a gateway in Redis: its addresses, clients and counters."""

import asyncio
import os
import secrets
import socket
import time
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry, Rate
from certbus.cluster_health import FAULTS, STREAMS_SERVED, Faults
from certbus.errors import UNAVAILABLE
from certbus.keys import STREAMS, Keys
from certbus.streams.reader import StreamReader
from gateway.config import V2
from gateway.delivery.encoding import SSE, WEBSOCKET
from gateway.hub import Hub

_HEARTBEAT_SECS: Final = 1.0
_FIRST_HEARTBEAT_SECS: Final = 0.1  # until the positions of the streams are known
_REMOVE_TIMEOUT_SECS: Final = 1.0


def random_gateway_id() -> str:
    """Return an id that is unique among all gateways."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


async def register(
    client: Redis,
    keys: Keys,
    name: str,
    hub: Hub,
    reader: StreamReader,
    url: str,
    admin: str | None,
    faults: Faults,
) -> None:
    """Write the heartbeat of this gateway once per second, until cancelled.

    Args:
        client: the primary.
        keys: names of the keys.
        name: id of this gateway.
        hub: its channels and clients.
        reader: of the streams; the gateway follows them once their positions are known.
        url: its public address.
        admin: its admin address for other processes of this host; None if it has none.
        faults: that this gateway has detected.
    """
    registry = ClusterRegistry(client, keys)
    addresses: dict[str, str | float] = {
        "url": url,
        "host": socket.gethostname(),
        "admin": admin or "",
    }
    sent, sent_bytes = Rate(), Rate()
    began = time.monotonic()
    following = False
    try:
        while True:
            with suppress(*UNAVAILABLE):  # the stream reader logs it
                following = bool(reader.positions)
                now, counts = time.monotonic(), _counts(hub)
                sent.observe(now, counts["sent"])
                sent_bytes.observe(now, counts["sent_bytes"])
                fields = {
                    **addresses,
                    "following": int(following),
                    "uptime": int(now - began),
                    STREAMS_SERVED: " ".join(hub.settings.streams),
                    FAULTS: faults.field(),
                    **counts,
                    "sent_per_second": round(sent.per_second, 1),
                    "sent_bytes_per_second": round(sent_bytes.per_second),
                }
                await registry.heartbeat("gateway", name, fields)
            await asyncio.sleep(_HEARTBEAT_SECS if following else _FIRST_HEARTBEAT_SECS)
    finally:
        with suppress(*UNAVAILABLE, TimeoutError):
            async with asyncio.timeout(_REMOVE_TIMEOUT_SECS):
                await registry.remove("gateway", name)


def _counts(hub: Hub) -> dict[str, int]:
    """Return the counters of a heartbeat."""
    channels = hub.all_channels
    clients = sum(len(channel.clients) for channel in channels)
    events = sum(len(channel.clients) for channel in channels if channel.encoding.is_sse)
    streams = dict.fromkeys((*STREAMS, V2), 0)
    for channel in channels:
        streams[channel.stream] += len(channel.clients)
    return {
        "clients": clients,
        WEBSOCKET.name: clients - events,  # compressed or not
        SSE.name: events,
        **streams,
        "sent": sum(channel.sent for channel in channels),
        "sent_bytes": sum(channel.sent_bytes for channel in channels),
    }
