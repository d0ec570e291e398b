"""A gateway that returns what its WebSocket clients send, for test suites of RFC 6455.

    python -m tests.gateway.clients.echo_server 9001

It serves with the gateway's own connections, handshake and WebSocket class, without the limits on
what a client may send.
"""

import asyncio
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

import gateway.clients.websocket as websocket_clients
import gateway.server.connection
from certconf import load
from gateway.app import serve
from gateway.clients.base import ClientRegistry
from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings, settings_of
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer

MAX_MESSAGE_BYTES = 64 << 20


class EchoClient(WebSocketClient):
    """Returns every message, in one frame; compressed where that was negotiated."""

    def __init__(
        self,
        registry: ClientRegistry,
        channel: Any,
        transport: asyncio.Transport,
        extensions: Sequence[Extension] = (),
    ) -> None:
        super().__init__(registry, channel, transport, extensions)
        self._protocol.max_message_size = MAX_MESSAGE_BYTES
        self._protocol.max_fragment_size = MAX_MESSAGE_BYTES

    def tick(self, now: int) -> None:
        """Send no heartbeats."""

    def _receive(self, message: bytes) -> None:
        frame = Frame(Opcode.TEXT if self._is_text else Opcode.BINARY, message)
        self.write(frame.serialize(mask=False, extensions=self._protocol.extensions))


async def main(port: int) -> None:
    setattr(gateway.server.connection, "WebSocketClient", EchoClient)  # noqa: B010
    for limit in ("MAX_UNFINISHED_BYTES", "_MAX_FRAMES"):
        setattr(websocket_clients, limit, 1 << 30)
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="echo"))
        redis = RedisServer(find_executable(), Path(directory), appendonly="no")
        redis.start()
        stack.callback(redis.kill)
        settings = {"redis_url": redis.url, "protocols.websocket_compression": True}
        config = load(None, {}, {**settings, "connection_limit.enabled": False})
        listener = socket.create_server(("127.0.0.1", port))
        await serve(
            config,
            asyncio.Event(),
            settings=settings_of(config, Settings(stop_timeout=0.2)),
            listener=listener,
            ready=lambda url: print(f"echo server at {url}", flush=True),
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
