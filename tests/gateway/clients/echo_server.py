"""A gateway that returns what its WebSocket clients send, for tests of RFC 6455.

    python -m tests.gateway.clients.echo_server 9001

It serves with the gateway's own connections, handshake and WebSocket class, without the limits on
what a client may send. `test_autobahn.py` and `test_autobahn_messages.py` have the cases of the
Autobahn test suite. The suite itself (`wstest -m fuzzingclient`, for Python 2.7) runs against the
command.
"""

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode

import gateway.clients.websocket as websocket_clients
import gateway.server.connection
from certconf import load
from gateway.app import serve
from gateway.clients.base import ClientRegistry
from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings, settings_of
from gateway.delivery.encoding import WEBSOCKET
from gateway.http.messages import Response
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer
from tests.gateway.client_helpers import Raw, any_frame, masked
from tests.gateway.server.test_connection import Server, serving

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


Frames = list[tuple[int, bytes]]
"""First byte and payload of each; of a close frame the code alone."""

CLOSE = 0x88


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "a write after the end"
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    abort = close


@contextmanager
def echoing() -> Iterator[None]:
    """Make the gateways of this process return what WebSocket clients send, without limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway.server.connection, "WebSocketClient", EchoClient)
        patch.setattr(websocket_clients, "MAX_UNFINISHED_BYTES", 1 << 30)
        patch.setattr(websocket_clients, "_MAX_FRAMES", 1 << 30)
        yield


class Echo:
    """An echo server of a test.

    Args:
        server: its gateway.

    Attributes:
        port: of the server.
    """

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self._server = server

    async def over_socket(self, sent: bytes, count: int | None = None) -> Frames:
        """Send bytes on a connection; return the frames up to its end.

        Args:
            sent: after the opening handshake.
            count: of frames after which the client starts the closing handshake; None: the server
                ends the connection.
        """
        frames: Frames = []
        async with await Raw.open(self.port) as client:
            await client.upgrade()
            client.send(sent)
            while not frames or frames[-1][0] != CLOSE:
                if len(frames) == count:
                    client.send(masked(8, b"\x03\xe8"))
                frames.append(_shortened(await any_frame(client.reader)))
            assert await client.closed()
        return frames

    async def in_reads(self, sent: bytes, size: int) -> Frames:
        """Give the class `size` bytes in each read; return its frames."""
        transport = Transport()
        service = self._server.service
        client = EchoClient(service.clients, service.channels["lite", WEBSOCKET], transport)
        client.attach(None)
        for start in range(0, len(sent), size):
            if not transport.ended:
                client.data_received(sent[start : start + size])
        client.connection_lost(None)
        assert service.errors.count == 0
        assert service.clients.unfinished_bytes == 0
        reader = asyncio.StreamReader()
        reader.feed_data(transport.written)
        reader.feed_eof()
        frames: Frames = []
        while not reader.at_eof():
            frames.append(_shortened(await any_frame(reader)))
        assert transport.ended == any(first == CLOSE for first, _ in frames)
        return frames


def _shortened(frame: tuple[int, bytes]) -> tuple[int, bytes]:
    first, payload = frame
    return first, payload[:2] if first == CLOSE else payload


@asynccontextmanager
async def echo_server() -> AsyncIterator[Echo]:
    """Serve without Redis, in this process."""
    with echoing():
        async with serving(lambda _: Response(200, (), b"")) as server:
            yield Echo(server)


async def main(port: int) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(echoing())
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
