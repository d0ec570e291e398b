"""HTTP/1.1 connections to the servers of logs: one for each request in flight.

Each connection is an httpx client of its own. httpx examines all connections of a client before
each request, at a cost that grows with the square of their number: with 16 of them a request costs
twice the CPU time (docs/performance.md). HTTP/2 costs more CPU time for each entry; some operators
limit requests by connection, and others reset streams that run in parallel.

    idle     a connection without a request serves the next one to the same server, the newest
             first; after `MAX_IDLE_SECS`, or above `MAX_IDLE`, it is closed
    failed   a request that fails closes its connection
    reads    the event loop decrypts what arrives, and a body of known length is passed on as it has
             arrived: httpcore would read each TLS record of 16 KiB alone, and h11 copies each body
             three times, which is half of the CPU time of a request
"""

import asyncio
import importlib.util
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from urllib.request import getproxies

import h11
import httpcore
import httpx

MAX_IDLE_SECS: Final = 15.0
"""For which an idle connection is kept. A request fails on a connection that its server is about to
close, and servers close idle ones after a minute or more (nginx: 75 s)."""

MAX_IDLE: Final = 256
"""Idle connections of a pool, to all servers."""

LIMITS: Final = httpx.Limits(
    max_connections=1, max_keepalive_connections=1, keepalive_expiry=MAX_IDLE_SECS
)
"""Of a client with one connection."""

_READ_BYTES: Final = 1024 * 1024
"""That have arrived, at which the connection is not read any more until they are taken."""

_PARSED_BYTES: Final = 32 * 1024
"""That h11 is given of a head at a time, and four times as much of a body. It parses all header
fields in one step, trailers too: `max_incomplete_event_size` limits only what is incomplete."""

_MAX_INFORMATIONAL: Final = 16
"""Informational responses (1xx) before a response."""

_MIN_CHUNK_BYTES: Final = 64
_FREE_CHUNKS: Final = 64
"""Each chunk takes 10 µs or more, however few bytes it has. So a response has at most this number,
and one more for each `_MIN_CHUNK_BYTES` of its body."""

_MAX_EVENTS: Final = 64
"""Of h11, after which the event loop serves others, and time limits take effect: about 1 ms."""

_END_OF_HEAD: Final = b"\r\n\r\n"
_WITHOUT_BODY: Final = frozenset({204, 304})

Server = tuple[bytes, bytes, int | None]
"""Scheme, host and port."""

# httpcore tries to import sniffio several times a request. Without this, each attempt searches the
# whole path for a module that is not installed, which takes longer than sending the request.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]


class _Reader(asyncio.Protocol):
    """Holds what has arrived on one connection until it is read, `_READ_BYTES` and one more piece.

    The event loop calls it; the task with the request reads.

    Attributes:
        transport: of the connection; over TLS, the one that decrypts.
        pieces: what has arrived.
        ended: whether nothing follows these.
        error: why, if the connection broke.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended = False
        self.error: Exception | None = None
        self.arrived = asyncio.Event()
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(
            "asyncio.Transport", transport
        )  # those of uvloop are not derived of it

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self._size += len(data)
        if self._size >= _READ_BYTES:
            self.transport.pause_reading()
        self.arrived.set()

    def eof_received(self) -> None:
        self.ended = True
        self.arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self.eof_received()

    async def read(self) -> list[bytes]:
        """Wait until something has arrived; return all of it, empty at the end.

        Raises:
            httpx.ReadError: the connection broke.
        """
        if not self.pieces:
            await self.arrived.wait()
        if not self.pieces and self.error is not None:
            raise httpx.ReadError(str(self.error)) from self.error
        pieces, self.pieces = self.pieces, []
        if self._size >= _READ_BYTES and not self.ended:
            self.transport.resume_reading()
        self._size = 0
        if not self.ended:
            self.arrived.clear()
        return pieces

    def unread(self, pieces: list[bytes]) -> None:
        """Return to the next `read` what the last one returned; no piece is empty."""
        self.pieces[:0] = pieces
        self._size += sum(map(len, pieces))
        if self._size >= _READ_BYTES and not self.ended:
            self.transport.pause_reading()


class _Body(httpx.AsyncByteStream):
    """The body of a response; its end returns the connection.

    Args:
        pieces: the body.
        close: closes the connection unless the body has ended.
    """

    def __init__(self, pieces: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self._close = close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        self._close()


class _Transport(httpx.AsyncBaseTransport):
    """One connection, for one request after the other. One task at a time uses it.

    h11 writes requests, and reads responses apart from bodies whose length the response states.
    Reads and writes have no time limit of their own: an attempt has one as a whole.

    Args:
        context: of TLS.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        context.set_alpn_protocols(["http/1.1"])
        self._context = context
        self._reader: _Reader | None = None
        self._is_idle = False  # the last response has been read to its end

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        reader = self._reader
        if reader is None or not self._is_idle or reader.ended or reader.pieces:
            self._close()
            self._reader = reader = await self._connect(request)
        self._is_idle = False
        try:
            return await self._exchange(request, reader)
        except h11.RemoteProtocolError as error:
            self._close()
            raise httpx.RemoteProtocolError(str(error)) from error
        except BaseException:
            self._close()
            raise

    async def aclose(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.transport.abort()
            self._reader = None

    async def _connect(self, request: httpx.Request) -> _Reader:
        """Connect as httpcore does, to IPv4 and IPv6 addresses in turn; then take the socket.

        Calls the extension "trace" of the request before and after, as httpcore does.

        Raises:
            httpx.ConnectError, httpx.ConnectTimeout: the server cannot be reached.
        """
        url, loop = request.url, asyncio.get_running_loop()
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        timeout = request.extensions.get("timeout", {}).get("connect")
        trace = request.extensions.get("trace", _no_trace)
        await trace("connection.connect_tcp.started", {"host": host})
        try:
            stream = await httpcore.AnyIOBackend().connect_tcp(host, port, timeout)
            await trace("connection.connect_tcp.complete", {"return_value": stream})
            connected = stream.get_extra_info("socket")
            own = socket.fromfd(connected.fileno(), connected.family, connected.type)
            await stream.aclose()
            own.setblocking(False)
            try:
                _, reader = await loop.create_connection(_Reader, sock=own)
            except BaseException:
                own.close()
                raise
            if url.scheme == "https":
                await self._start_tls(reader, host, timeout)
        except (httpcore.ConnectTimeout, TimeoutError) as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except (httpcore.ConnectError, OSError) as error:  # an ssl.SSLError is one
            raise httpx.ConnectError(str(error)) from error
        return reader

    async def _start_tls(self, reader: _Reader, host: str, timeout: float | None) -> None:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                secure = await asyncio.get_running_loop().start_tls(
                    reader.transport, reader, self._context, server_hostname=host
                )
        except BaseException:
            reader.transport.abort()
            raise
        if secure is None:
            raise httpx.ConnectError("the connection was closed during the TLS handshake")
        reader.transport = secure

    async def _exchange(self, request: httpx.Request, reader: _Reader) -> httpx.Response:
        """Send a request without a body; return the response once its header fields are read."""
        state = h11.Connection(h11.CLIENT, max_incomplete_event_size=_PARSED_BYTES)
        head = h11.Request(
            method=request.method, target=request.url.raw_path, headers=request.headers.raw
        )
        if reader.ended:
            raise httpx.RemoteProtocolError("Server disconnected before a request was sent.")
        data = (state.send(head) or b"") + (state.send(h11.EndOfMessage()) or b"")
        reader.transport.write(data)
        event = await _next_event(state, reader)
        informational = 0
        while isinstance(event, h11.InformationalResponse):
            informational += 1
            if informational > _MAX_INFORMATIONAL:
                problem = f"more than {_MAX_INFORMATIONAL} informational responses"
                raise httpx.RemoteProtocolError(problem)
            await asyncio.sleep(0)
            event = await _next_event(state, reader)
        if not isinstance(event, h11.Response):
            raise httpx.RemoteProtocolError(f"not a response: {event!r}")
        length = _stated_length(event)
        body = self._events(state, reader)
        if length is not None:
            body = self._pieces(state.trailing_data[0], length, reader, keeps=_keeps_alive(event))
        return httpx.Response(
            event.status_code,
            headers=event.headers.raw_items(),
            stream=_Body(body, lambda: None if self._is_idle else self._close()),
            extensions={"http_version": b"HTTP/" + event.http_version},
        )

    async def _pieces(
        self, first: bytes, length: int, reader: _Reader, *, keeps: bool
    ) -> AsyncIterator[bytes]:
        """Yield a body of known length, as it arrives.

        Args:
            first: what has arrived of it.
            length: bytes.
            reader: of the connection.
            keeps: whether the server keeps the connection open after it.
        """
        rest = length
        pieces = [first]
        while True:
            for piece in pieces:
                rest -= len(piece)
                yield piece if rest >= 0 else piece[:rest]
            if rest <= 0:
                break
            if not (pieces := await reader.read()):
                raise httpx.RemoteProtocolError(
                    "peer closed connection without sending complete message body "
                    f"(received {length - rest} bytes, expected {length})"
                )
        self._is_idle = keeps and not rest

    async def _events(self, state: h11.Connection, reader: _Reader) -> AsyncIterator[bytes]:
        """Yield any other body, as h11 reads it."""
        chunks = size = events = 0
        try:
            while isinstance(event := await _next_event(state, reader), h11.Data):
                chunks += event.chunk_start
                size += len(event.data)
                if chunks > _FREE_CHUNKS + size // _MIN_CHUNK_BYTES:
                    problem = f"{chunks:,} chunks for {size:,} bytes of a body"
                    raise httpx.RemoteProtocolError(problem)
                yield bytes(event.data)
                events += 1
                if events % _MAX_EVENTS == 0:
                    await asyncio.sleep(0)
        except h11.RemoteProtocolError as error:
            raise httpx.RemoteProtocolError(str(error)) from error
        is_done = state.our_state is h11.DONE and state.their_state is h11.DONE
        self._is_idle = is_done and not state.trailing_data[0]


async def _next_event(state: h11.Connection, reader: _Reader) -> h11.Event | type[h11.PAUSED]:
    """Return the next part of a response.

    What follows the header fields is left to the next read, since h11 would copy a body.

    Args:
        state: of the exchange.
        reader: of the connection.
    """
    while (event := state.next_event()) is h11.NEED_DATA:
        data = b"".join(await reader.read())
        end = 4 * _PARSED_BYTES
        if state.their_state is h11.SEND_RESPONSE:
            if not data:
                raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
            head = data.find(_END_OF_HEAD, 0, _PARSED_BYTES)
            end = _PARSED_BYTES if head < 0 else head + len(_END_OF_HEAD)
        if end < len(data):
            reader.unread([data[end:]])
        state.receive_data(data[:end])
    return cast("h11.Event | type[h11.PAUSED]", event)


def _stated_length(response: h11.Response) -> int | None:
    """Return the length of the body of a GET, if it is stated (RFC 9112 section 6.3)."""
    fields = dict(response.headers)
    if b"transfer-encoding" in fields or response.status_code in _WITHOUT_BODY:
        return None
    length = fields.get(b"content-length")
    return None if length is None else int(length)  # h11 accepts one, of digits


def _keeps_alive(response: h11.Response) -> bool:
    """Return whether the server keeps the connection open (RFC 9112 section 9.3)."""
    options = b",".join(value for name, value in response.headers if name == b"connection")
    return response.http_version >= b"1.1" and b"close" not in options.lower()


async def _no_trace(_event: str, _info: Mapping[str, Any]) -> None:
    """Do nothing, in place of the extension "trace"."""


def connection_client(context: ssl.SSLContext, **options: Any) -> httpx.AsyncClient:
    """Make a client with one connection.

    Args:
        context: of its TLS connections.
        options: of `httpx.AsyncClient`.
    """
    # Through a proxy, httpx makes the connection.
    transport = None if getproxies().keys() & {"http", "https", "all"} else _Transport(context)
    return httpx.AsyncClient(verify=context, limits=LIMITS, transport=transport, **options)


class ConnectionPool:
    """The connections to any number of servers.

    Args:
        make: makes a client with `LIMITS`.
    """

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        # By server: clients with the loop time since which they are idle, oldest first.
        self._idle: dict[Server, list[tuple[float, httpx.AsyncClient]]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return self._count

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        extensions: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request on a connection that has no other one; see `httpx.AsyncClient.stream`."""
        parsed = httpx.URL(url)
        server = (parsed.raw_scheme, parsed.raw_host, parsed.port)
        client = self._take(server)
        try:
            async with client.stream(
                method, parsed, headers=headers, extensions=extensions
            ) as response:
                yield response
        except BaseException:
            self._close(client)
            raise
        self._put(server, client)

    async def aclose(self) -> None:
        """Close all idle connections, and from now on each one after its request."""
        self._closed = True
        self._expire()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _take(self, server: Server) -> httpx.AsyncClient:
        """Return the client that is idle since the shortest time, or a new one."""
        idle = self._idle.get(server)
        if idle is None:
            return self._make()
        _, client = idle.pop()
        self._count -= 1
        if not idle:
            del self._idle[server]
        return client

    def _put(self, server: Server, client: httpx.AsyncClient) -> None:
        """Keep the client of a request that has ended."""
        if self._closed or self._count >= MAX_IDLE:
            self._close(client)
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(server, []).append((loop.time(), client))
        self._count += 1
        if self._timer is None:
            self._timer = loop.call_later(MAX_IDLE_SECS, self._expire)

    def _expire(self) -> None:
        """Close the connections that were idle for too long, and wait for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        expired = loop.time() if self._closed else loop.time() - MAX_IDLE_SECS
        for server, idle in list(self._idle.items()):
            while idle and idle[0][0] <= expired:
                self._close(idle.pop(0)[1])
                self._count -= 1
            if not idle:
                del self._idle[server]
        if self._idle:
            oldest = min(idle[0][0] for idle in self._idle.values())
            self._timer = loop.call_at(oldest + MAX_IDLE_SECS, self._expire)

    def _close(self, client: httpx.AsyncClient) -> None:
        task = asyncio.create_task(client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
