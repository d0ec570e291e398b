"""The bytes of a WebSocket client after the handshake, received by the gateway's own class."""

import asyncio
import logging

from websockets.extensions.permessage_deflate import PerMessageDeflate

from gateway.clients.websocket import MAX_UNFINISHED_BYTES, WebSocketClient
from gateway.config import Settings
from gateway.delivery.compression import DEFLATED
from gateway.endpoints.filter_change import FilterChanges
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.clients.echo_server import Transport

_CHUNK_BYTES = 1000
_TICK_CHUNKS = 8


class _Client(WebSocketClient):
    def fail(self, error: BaseException) -> None:
        """Raise what the gateway would count as a defect."""
        raise error


class Receiver:
    """A hub without messages, one client of which after the other receives an input."""

    def __init__(self) -> None:
        settings = Settings(streams=("lite",), websocket_compression=True, close_timeout=0)
        self._hub = Hub(settings, lambda *_: None, Metrics())
        self._changes = FilterChanges(self._hub)
        self._hub.clients.receive = self._changes.receive
        self._runner = asyncio.Runner()
        logging.getLogger("gateway.clients.websocket").disabled = True

    def __call__(self, data: bytes) -> None:
        """Receive an input in chunks, each third one while the send buffer is full."""
        self._runner.run(self._receive(data))

    async def _receive(self, data: bytes) -> None:
        registry, transport = self._hub.clients, Transport()
        extensions = [PerMessageDeflate(True, True, 15, 15)]
        client = _Client(registry, self._hub.channels["lite", DEFLATED], transport, extensions)
        client.attach(None)
        for start in range(0, len(data), _CHUNK_BYTES):
            is_full = start // _CHUNK_BYTES % 3 == 2
            if is_full:
                client.pause_writing()
            client.data_received(data[start : start + _CHUNK_BYTES])
            assert 0 <= registry.unfinished_bytes <= MAX_UNFINISHED_BYTES
            if transport.is_closing():
                break
            if is_full:
                client.resume_writing()
            elif start // _CHUNK_BYTES % _TICK_CHUNKS == _TICK_CHUNKS - 1:
                client.tick(0)
        else:
            client.eof_received()
        while self._changes._tasks:
            await asyncio.wait(self._changes._tasks)
        client.connection_lost(None)
        await asyncio.sleep(0)
        assert not registry.unfinished_bytes
        assert not registry.closing
        assert not registry.paused
        assert not self._hub.filters.channels
