"""HTTP/1.1 for a handful of clients on loopback: h11 speaks the protocol, asyncio moves the bytes.

A handler is a plain function from `Request` to `Response`; it raises `Refused` for errors. A
response also states its delay, and its body may break off, so faults need no I/O.
Requests of one connection are answered in order.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from http.client import responses as PHRASES  # noqa: N812
from itertools import chain, count
from urllib.parse import parse_qsl

import h11
import msgspec
import structlog

log = structlog.get_logger(__name__)

READ_BYTES = 65_536
MAX_REQUEST_BODY_BYTES = 65_536

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: what is unsent is dropped and the peer gets a RST."""


class Request(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        peer: address of the client.
        headers: with names in lower case.
        connection: number of the TCP connection.
    """

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    peer: str = ""
    headers: Mapping[str, str] = {}
    connection: int = 0


class Response(msgspec.Struct, frozen=True):
    """One response.

    Attributes:
        body: one that is not bytes is sent piece by piece, as the client reads it; where it
            raises `BrokenOff`, the connection is reset.
        content_type: of the body.
        status: of HTTP.
        headers: further ones.
        delay: seconds until it is sent.
        entries: of a log that the body holds.
    """

    body: bytes | Iterable[bytes]
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    entries: int = 0


class BrokenOff(Exception):
    """A body ends here, in the middle."""


class Refused(Exception):
    """An error answer with its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.response = Response(f"{text}\n".encode(), status=status)


Handler = Callable[[Request], Response]

Lateness = Callable[[float], None]
"""Receives how many seconds later than planned an answer was sent."""


@asynccontextmanager
async def listening(
    handle: Handler, listener: socket.socket, late: Lateness = lambda _: None
) -> AsyncIterator[None]:
    """Serve on a listening socket while the context is open."""
    connections: set[asyncio.Task[None]] = set()
    numbers = count(1)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve_connection(reader, writer, handle, next(numbers), late))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, sock=listener)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _serve_connection(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    handle: Handler,
    number: int,
    late: Lateness,
) -> None:
    connection = h11.Connection(h11.SERVER)
    peer = writer.get_extra_info("peername")[0]
    # asyncio sets this only on sockets that it made; without it a body waits for an ACK.
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while connection.our_state is not h11.MUST_CLOSE:
            request = await _next_request(connection, reader, peer, number)
            if request is None:
                return
            received = time.monotonic()
            response = _answer(handle, request)
            if response.delay:
                await asyncio.sleep(max(0.0, received + response.delay - time.monotonic()))
            late(time.monotonic() - received - response.delay)
            await _send(connection, writer, response)
            if connection.our_state is h11.DONE:
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        log.debug("request rejected", reason=str(error))
    except ConnectionError as error:
        log.debug("connection lost", reason=str(error))
    except BrokenOff:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        writer.transport.abort()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _next_request(
    connection: h11.Connection, reader: asyncio.StreamReader, peer: str, number: int
) -> Request | None:
    """Read one whole request; None when the client has closed the connection."""
    method = target = ""
    headers: Mapping[str, str] = {}
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Request):
            method, target = event.method.decode("ascii"), event.target.decode("ascii")
            headers = {name.decode("ascii"): text.decode("latin-1") for name, text in event.headers}
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_REQUEST_BODY_BYTES:
                raise h11.RemoteProtocolError(f"body above {MAX_REQUEST_BODY_BYTES:,} bytes")
        elif isinstance(event, h11.EndOfMessage):
            path, _, query = target.partition("?")
            return Request(method, path, dict(parse_qsl(query)), bytes(body), peer, headers, number)
        elif isinstance(event, h11.ConnectionClosed):
            return None


def _answer(handle: Handler, request: Request) -> Response:
    try:
        return handle(request)
    except Refused as refusal:
        return refusal.response


async def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, response: Response
) -> None:
    if isinstance(response.body, bytes):
        framing = ("content-length", str(len(response.body)))
        pieces: Iterable[bytes] = (response.body,)
    else:
        framing = ("transfer-encoding", "chunked")
        pieces = response.body
    headers = [("content-type", response.content_type), framing, *response.headers]
    reason = PHRASES.get(response.status, "")
    events = chain(
        (h11.Response(status_code=response.status, reason=reason, headers=headers),),
        (h11.Data(data=piece) for piece in pieces),
        (h11.EndOfMessage(),),
    )
    for event in events:
        writer.write(connection.send(event) or b"")
        await writer.drain()
        await asyncio.sleep(0)  # drain alone does not yield while the client keeps up
