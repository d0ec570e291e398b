"""What all connections of a gateway share."""

import asyncio
import itertools
from typing import TYPE_CHECKING, Protocol

from gateway.config import Settings
from gateway.delivery.channel import Channel
from gateway.delivery.compression import DEFLATED
from gateway.delivery.encoding import SSE, WEBSOCKET, Encoding
from gateway.delivery.ring_buffer import Ring
from gateway.metrics import Metrics
from gateway.server.error_log import ErrorLog
from gateway.timer_wheel import TimerWheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from certbus.ids import Cursor
    from gateway.clients.base import Client


class Closable(Protocol):
    """A connection without a stream, as far as stopping is concerned."""

    @property
    def transport(self) -> asyncio.Transport:
        """Where answers go."""

    @property
    def is_answering(self) -> bool:
        """Whether it waits for this server, not for its client."""

    def close(self) -> None:
        """Hang up, after the answer that is being made."""


class Hub:
    """The rings, the lanes that lead from them, and the clients' heartbeats.

    Args:
        settings: what is offered, limits and intervals.
        replay: given a client that the ring cannot serve, and what it has already.
        meter: measures what they do.

    Attributes:
        meter: measures what they do.
        settings: what is offered, limits and intervals.
        rings: by stream.
        lanes: by stream and form.
        websockets: beats for WebSocket clients.
        events: beats for SSE clients.
        errors: that nobody foresaw, each of one connection.
        numbers: of connections, for the log.
        waiting: connections that are not clients yet.
        paused: clients whose transport takes no more for now.
        deserted: set while no client is being closed.
    """

    def __init__(
        self, settings: Settings, replay: "Callable[[Client, Cursor], None]", meter: Metrics
    ) -> None:
        self.rings: dict[str, Ring] = {}
        self.channels: dict[tuple[str, Encoding], Channel] = {}
        self._replay = replay
        self.metrics = meter
        self.apply_settings(settings)
        self.errors = ErrorLog()
        self.websockets = TimerWheel(settings.heartbeat, self.errors)
        self.events = TimerWheel(settings.comment, self.errors)
        self.connection_ids = itertools.count(1)
        self.pending_connections: set[Closable] = set()
        self.paused: set[Client] = set()
        self.all_closed = asyncio.Event()
        self.all_closed.set()
        self.closing: set[Client] = set()

    def apply_settings(self, settings: Settings) -> list[Channel]:
        """Offer from now on what `settings` say. Limits and intervals stay as they were.

        Returns:
            Lanes of streams that are not offered any more; their clients get nothing new.
        """
        self.settings = settings
        gone = [
            lane for (stream, _), lane in self.channels.items() if stream not in settings.streams
        ]
        for lane in gone:
            self.rings.pop(lane.ring.stream, None)
            del self.channels[lane.ring.stream, lane.encoding]
        forms = (WEBSOCKET, SSE, *((DEFLATED,) if settings.websocket_compression else ()))
        for stream in settings.streams:
            ring = self.rings.setdefault(stream, Ring(stream, settings.ring_bytes))
            for form in forms:
                if (stream, form) not in self.channels:
                    self.channels[stream, form] = Channel(ring, form, self._replay, self.metrics)
        return gone

    @property
    def is_answering(self) -> bool:
        """Whether an answer is being made."""
        return any(connection.is_answering for connection in self.pending_connections)

    def cut_off(self) -> int:
        """End all connections that are being closed, or have no stream, at once; say how many."""
        transports = [client.transport for client in self.closing]
        transports += [connection.transport for connection in self.pending_connections]
        for transport in transports:
            transport.abort()
        return len(transports)

    def leaving(self, client: "Client") -> None:
        """Note that a client is being closed."""
        self.closing.add(client)
        self.all_closed.clear()

    def closed(self, client: "Client") -> None:
        """Note that a client has gone."""
        self.closing.discard(client)
        if not self.closing:
            self.all_closed.set()
