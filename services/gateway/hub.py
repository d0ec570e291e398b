"""What all connections of a gateway share."""

import asyncio
import itertools
from typing import TYPE_CHECKING, Protocol

from gateway.config import Settings
from gateway.delivery.channel import Lane
from gateway.delivery.compression import DEFLATED
from gateway.delivery.encoding import SSE, WEBSOCKET, Form
from gateway.delivery.ring_buffer import Ring
from gateway.metrics import Meter
from gateway.server.error_log import UnexpectedErrors
from gateway.timer_wheel import Wheel

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


class Service:
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
        self, settings: Settings, replay: "Callable[[Client, Cursor], None]", meter: Meter
    ) -> None:
        self.rings: dict[str, Ring] = {}
        self.lanes: dict[tuple[str, Form], Lane] = {}
        self._replay = replay
        self.meter = meter
        self.change(settings)
        self.errors = UnexpectedErrors()
        self.websockets = Wheel(settings.heartbeat, self.errors)
        self.events = Wheel(settings.comment, self.errors)
        self.numbers = itertools.count(1)
        self.waiting: set[Closable] = set()
        self.paused: set[Client] = set()
        self.deserted = asyncio.Event()
        self.deserted.set()
        self._leaving: set[Client] = set()

    def change(self, settings: Settings) -> list[Lane]:
        """Offer from now on what `settings` say. Limits and intervals stay as they were.

        Returns:
            Lanes of streams that are not offered any more; their clients get nothing new.
        """
        self.settings = settings
        gone = [lane for (stream, _), lane in self.lanes.items() if stream not in settings.streams]
        for lane in gone:
            self.rings.pop(lane.ring.stream, None)
            del self.lanes[lane.ring.stream, lane.form]
        forms = (WEBSOCKET, SSE, *((DEFLATED,) if settings.websocket_compression else ()))
        for stream in settings.streams:
            ring = self.rings.setdefault(stream, Ring(stream, settings.ring_bytes))
            for form in forms:
                if (stream, form) not in self.lanes:
                    self.lanes[stream, form] = Lane(ring, form, self._replay, self.meter)
        return gone

    @property
    def is_answering(self) -> bool:
        """Whether an answer is being made."""
        return any(connection.is_answering for connection in self.waiting)

    def cut_off(self) -> int:
        """End all connections that are being closed, or have no stream, at once; say how many."""
        transports = [client.transport for client in self._leaving]
        transports += [connection.transport for connection in self.waiting]
        for transport in transports:
            transport.abort()
        return len(transports)

    def leaving(self, client: "Client") -> None:
        """Note that a client is being closed."""
        self._leaving.add(client)
        self.deserted.clear()

    def left(self, client: "Client") -> None:
        """Note that a client has gone."""
        self._leaving.discard(client)
        if not self._leaving:
            self.deserted.set()
