"""An HTTP/1.1 server for few clients: the admin listeners, and the simulated logs.

One task serves a connection: it reads a request, awaits the handler, and writes the response.
Requests of one connection are answered in order. Flow control follows from that: the task reads
no request while it answers one, and produces no piece of a body before the kernel has taken the
piece before. Each step has a time-out (`Timeouts`). An error ends its own connection only.
`tests/certhttp/test_connections.py` holds this.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import msgspec
import structlog

from certhttp.protocol import Request, RequestError, ServerProtocol

_READ_BYTES: Final = 16 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on with 0 s: the kernel drops unsent bytes and sends a RST."""

log = structlog.get_logger(__name__)


class Response(msgspec.Struct, frozen=True):
    """A response.

    Attributes:
        status: HTTP status code.
        content_type: media type of the body.
        body: an iterator's pieces are sent chunked, as the client reads them; where it raises
            `AbortResponse`, the server resets the connection.
        headers: further ones.
    """

    status: int
    content_type: str
    body: bytes | Iterable[bytes]
    headers: tuple[tuple[str, str], ...] = ()


class AbortResponse(Exception):
    """Ends a body in the middle."""


class Timeouts(msgspec.Struct, frozen=True):
    """Time-outs of a connection, in seconds.

    Attributes:
        idle: until the first byte of a request.
        request: from the first to the last byte of a request.
        response: of the handler.
        write: for the client to take one piece of a response.
    """

    idle: float = 10.0
    request: float = 10.0
    response: float = 10.0
    write: float = 10.0


Handler = Callable[[Request], Awaitable[Response]]
Page = Callable[[], Awaitable[Response]]


def text_response(body: str, status: int = 200) -> Response:
    """Return a plain text response."""
    return Response(status, "text/plain; charset=utf-8", body.encode())


def json_response(
    status: int, value: object, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """Return a JSON response."""
    return Response(status, "application/json", msgspec.json.encode(value), headers)


def error_response(
    status: int, code: str, text: str, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """Return an error with its code, in the form and with the codes of the gateway's errors."""
    return json_response(status, {"error": text, "code": code}, headers)


@asynccontextmanager
async def serve(
    listening: socket.socket,
    handler: Handler,
    timeouts: Timeouts | None = None,
    *,
    keep_alive: bool = True,
    reject_silently: bool = False,
) -> AsyncIterator[None]:
    """Serve a listening socket for the length of the block.

    Args:
        listening: TCP or Unix; closed at the end.
        handler: returns the response to a request; an error it raises is answered 500.
        timeouts: None for the defaults.
        keep_alive: whether a connection may have several requests.
        reject_silently: whether a malformed request closes its connection without a response.
    """
    connections: set[asyncio.Task[None]] = set()
    numbers = count(1)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(
            reader,
            writer,
            handler,
            timeouts or Timeouts(),
            next(numbers),
            keep_alive=keep_alive,
            reject_silently=reject_silently,
        )
        task = asyncio.create_task(connection.run())
        connections.add(task)
        task.add_done_callback(connections.discard)

    if listening.family == socket.AF_UNIX:
        server = await asyncio.start_unix_server(connected, sock=listening)
    else:
        server = await asyncio.start_server(connected, sock=listening)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@asynccontextmanager
async def serve_pages(listening: socket.socket, pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Serve pages without parameters, by path, one request per connection: an admin listener."""

    async def respond(request: Request) -> Response:
        page = pages.get(request.path)
        if page is None:
            known = ", ".join(sorted(pages))
            text = f"Not found: {request.path[:200]}. Available: {known}"
            return error_response(404, "not_found", text)
        if request.method not in ("GET", "HEAD"):
            text = f"Method {request.method} not allowed"
            return error_response(405, "method_not_allowed", text, (("Allow", "GET, HEAD"),))
        return await page()

    async with serve(listening, respond, keep_alive=False):
        yield


class _Connection:
    """One connection, from its first request to its end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        timeouts: Timeouts,
        number: int,
        *,
        keep_alive: bool,
        reject_silently: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._timeouts = timeouts
        self._number = number
        self._keep_alive = keep_alive
        self._reject_silently = reject_silently
        self._http = ServerProtocol(keep_bodies=True)
        self._socket: socket.socket = writer.get_extra_info("socket")
        peer = writer.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else ""

    async def run(self) -> None:
        """Answer requests until either side closes the connection."""
        if self._socket.family != socket.AF_UNIX:  # or else a body would wait for an ACK
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writer.transport.set_write_buffer_limits(high=0)  # drain waits for the kernel
        try:
            while await self._answer_one():
                pass
        except AbortResponse:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._writer.transport.abort()
        except TimeoutError:  # of a write
            self._writer.transport.abort()
        except OSError as error:
            log.debug("connection lost", connection=self._number, reason=str(error))
        finally:
            self._writer.close()

    async def _answer_one(self) -> bool:
        """Read and answer a request; return whether another one may follow."""
        try:
            request = await self._read()
            if request is None:
                return False
            response = await self._respond(request)
            close = not self._keep_alive
        except RequestError as error:
            if self._reject_silently:
                return False
            response = error_response(error.status, error.code, str(error))
            close = True
        await self._write(response, close=close)
        return self._http.next_cycle()

    async def _read(self) -> Request | None:
        """Return the next request; None if the client has closed or sends nothing.

        Raises:
            RequestError: the request cannot be accepted, or is not whole in time.
        """
        timeouts = self._timeouts
        limit = timeouts.request if self._http.started else timeouts.idle
        try:
            async with asyncio.timeout(limit) as timeout:
                while (request := self._http.next_request()) is None:
                    if self._http.peer_closed:
                        return None
                    data = await self._reader.read(_READ_BYTES)
                    if not self._http.started:
                        now = asyncio.get_running_loop().time()
                        timeout.reschedule(now + timeouts.request)
                    self._http.receive(data)
        except TimeoutError:
            if not self._http.started:
                return None
            raise RequestError(408, "request_timeout", "Request timed out") from None
        return msgspec.structs.replace(request, peer=self._peer, connection=self._number)

    async def _respond(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(self._timeouts.response):
                return await self._handler(request)
        except TimeoutError:
            log.warning("response timed out", path=request.path)
            return error_response(503, "response_timeout", "Response timed out; retry later")
        except Exception:
            log.exception("request failed", path=request.path)
            return error_response(500, "internal_error", "Internal server error")

    async def _write(self, response: Response, *, close: bool) -> None:
        http, status = self._http, response.status
        headers = (("Content-Type", response.content_type), *response.headers)
        if isinstance(response.body, bytes):
            await self._send(http.encode(status, headers, response.body, close=close))
            return
        headers = (*headers, ("Transfer-Encoding", "chunked"))
        await self._send(http.encode_head(status, headers, close=close))
        for piece in () if http.is_head else response.body:
            await self._send(http.encode_data(piece))
        await self._send(http.encode_end())

    async def _send(self, data: bytes) -> None:
        self._writer.write(data)
        async with asyncio.timeout(self._timeouts.write):
            await self._writer.drain()
        await asyncio.sleep(0)  # drain does not yield to other tasks while the client keeps up
