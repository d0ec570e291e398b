"""What all connections of a gateway share."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from gateway.deflate import DEFLATED
from gateway.frames import SSE, WEBSOCKET, Form
from gateway.lane import Lane
from gateway.ring import Ring
from gateway.settings import Settings
from gateway.wheel import Wheel

if TYPE_CHECKING:
    from collections.abc import Callable

    from certbus.ids import Cursor
    from gateway.client import Client


class Closable(Protocol):
    """A connection, as far as stopping is concerned."""

    def close(self) -> None:
        """Hang up."""


class Service:
    """The rings, the lanes that lead from them, and the clients' heartbeats.

    Args:
        settings: limits and intervals.
        rings: by stream.
        replay: given a client that the ring cannot serve, and what it has already.

    Attributes:
        settings: limits and intervals.
        rings: by stream.
        lanes: by stream and form.
        websockets: beats for WebSocket clients.
        events: beats for SSE clients.
        waiting: connections that are not clients yet.
        paused: clients whose transport takes no more for now.
        deserted: set while no client is being closed.
    """

    def __init__(
        self, settings: Settings, rings: dict[str, Ring], replay: "Callable[[Client, Cursor], None]"
    ) -> None:
        self.settings = settings
        self.rings = rings
        compressed = (DEFLATED,) if settings.websocket_compression else ()
        self.lanes: dict[tuple[str, Form], Lane] = {
            (stream, form): Lane(ring, form, replay)
            for stream, ring in rings.items()
            for form in (WEBSOCKET, SSE, *compressed)
        }
        self.websockets = Wheel(settings.heartbeat)
        self.events = Wheel(settings.comment)
        self.waiting: set[Closable] = set()
        self.paused: set[Client] = set()
        self.deserted = asyncio.Event()
        self.deserted.set()
        self._leaving: set[Client] = set()

    def leaving(self, client: "Client") -> None:
        """Note that a client is being closed."""
        self._leaving.add(client)
        self.deserted.clear()

    def left(self, client: "Client") -> None:
        """Note that a client has gone."""
        self._leaving.discard(client)
        if not self._leaving:
            self.deserted.set()
