"""What tests connect with: the websockets library, and plain sockets for what it would not do."""

import asyncio
import gc
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.utils import apply_mask

from tests.waiting import until

Message = dict[str, Any]

TIMEOUT_SECS = 60
"""For each thing that must come; a loaded machine is slow."""


@asynccontextmanager
async def websocket(url: str, max_queue: int | None = 16) -> AsyncIterator[ClientConnection]:
    """A client that neither pings nor compresses.

    Args:
        url: of the stream.
        max_queue: messages that it holds. If more follow, it takes 10 s to leave. None: no limit.
    """
    async with connect(
        url, ping_interval=None, compression=None, max_size=None, max_queue=max_queue
    ) as client:
        yield client


@asynccontextmanager
async def freed(*kinds: type) -> AsyncIterator[Callable[[], int]]:
    """Wait until objects of these kinds, which the context has made, are freed without cycles.

    Yields a function that returns how many of them there are.
    """

    def count() -> int:
        return sum(isinstance(it, kinds) for it in gc.get_objects()) - before

    before = 0
    gc.collect()
    gc.disable()
    try:
        before = count()
        yield count
        await until(lambda: count() <= 0, "they are freed")
    finally:
        gc.enable()


async def receive(client: ClientConnection, count: int) -> list[Message]:
    """Return the next messages without heartbeats; an early caller gets the first one at once."""
    async with asyncio.timeout(TIMEOUT_SECS):
        found: list[Message] = []
        while len(found) < count:
            message = json.loads(await client.recv())
            if message["message_type"] != "heartbeat":
                found.append(message)
        return found


async def certificates(client: ClientConnection, count: int) -> list[Message]:
    """The next messages that have an id."""
    async with asyncio.timeout(TIMEOUT_SECS):
        found: list[Message] = []
        while len(found) < count:
            message = json.loads(await client.recv())
            if "id" in message and message["message_type"] != "heartbeat":
                found.append(message)
        return found


def serials(messages: list[Message]) -> list[int]:
    """Which certificates these are."""
    return [int(message["data"]["leaf_cert"]["serial_number"]) for message in messages]


def connect_blocking(port: int, tls: ssl.SSLContext | None = None) -> socket.socket:
    """Return a client for a thread; it reads nothing before its `recv`."""
    client = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECS)
    return client if tls is None else tls.wrap_socket(client, server_hostname="127.0.0.1")


class Raw:
    """A plain connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, limit: int = 1 << 16, tls: ssl.SSLContext | None = None) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit, ssl=tls))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def read_nothing(self) -> None:
        """Leave what comes in the kernel."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()

    def read_again(self) -> None:
        """Undo `read_nothing`."""
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read a response's head: its status, and its headers with names in lower case."""
        async with asyncio.timeout(TIMEOUT_SECS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:-2])
        return int(lines[0].split(" ")[1]), {name.lower(): headers[name] for name in headers}

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read a response that has a length."""
        status, headers = await self.head()
        async with asyncio.timeout(TIMEOUT_SECS):
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, body

    async def closed(self) -> bool:
        """Whether the peer closes without another byte."""
        async with asyncio.timeout(TIMEOUT_SECS):
            try:
                return not await self.reader.read()
            except ConnectionError:
                return True

    async def ends(self) -> bool:
        """Whether the peer closes the connection, after all data that it still sends."""
        async with asyncio.timeout(TIMEOUT_SECS):
            with suppress(ConnectionError):
                while await self.reader.read(1 << 16):
                    pass
        return True

    async def upgrade(self, path: str = "/") -> None:
        """Become a WebSocket."""
        self.send(upgrade_request(path))
        status, _ = await self.head()
        assert status == 101

    async def frame(self) -> tuple[int, bytes]:
        """Read a frame from the server: opcode and payload."""
        first, payload = await any_frame(self.reader)
        assert first & 0x80, "fragmented"
        return first & 0x0F, payload

    async def text(self) -> Message:
        """Read the next message that has an id, as a WebSocket client."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 1 and payload.startswith(b'{"id"'):
                found: Message = json.loads(payload)
                return found

    async def event_data(self) -> Message:
        """Read the next message that has an id, as an SSE client."""
        while True:
            event = await self.event()
            if "id" in event and "data" in event:
                found: Message = json.loads(event["data"])
                return found

    async def data_events(self, count: int) -> list[dict[str, str]]:
        """Read this many events with data; a comment may come at any time."""
        events: list[dict[str, str]] = []
        while len(events) < count:
            event = await self.event()
            if "data" in event:
                events.append(event)
        return events

    async def event(self) -> dict[str, str]:
        """Read a server-sent event; comments are under ""."""
        async with asyncio.timeout(TIMEOUT_SECS):
            lines = (await self.reader.readuntil(b"\n\n")).decode().rstrip("\n").split("\n")
        return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


async def any_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read a frame of a server: its first byte, with FIN and the reserved bits, and its payload."""
    async with asyncio.timeout(TIMEOUT_SECS):
        first, length = await reader.readexactly(2)
        assert not length & 0x80, "masked"
        if length == 126:
            length = int.from_bytes(await reader.readexactly(2), "big")
        elif length == 127:
            length = int.from_bytes(await reader.readexactly(8), "big")
        return first, await reader.readexactly(length)


def upgrade_request(path: str = "/") -> bytes:
    """An opening handshake (RFC 6455 section 1.3)."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Encode a frame as a client sends it; `rsv` is RSV1 to RSV3 as a number of three bits."""
    first = bytes([fin << 7 | rsv << 4 | opcode])
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return first + length + _MASK + apply_mask(payload, _MASK)


_MASK = bytes.fromhex("37fa213d")  # (RFC 6455 section 5.7)
