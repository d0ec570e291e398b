"""HTTP/1.1 connections to the servers of logs: one for each request in flight.

Each connection is an httpx client of its own. httpx examines all connections of a client before
each request, at a cost that grows with the square of their number: with 16 of them a request costs
twice the CPU time (docs/performance.md). HTTP/2 costs more CPU time for each entry; some operators
limit requests by connection, and others reset streams that run in parallel.

    idle     a connection without a request serves the next one to the same server, the newest
             first; after `MAX_IDLE_SECS`, or above `MAX_IDLE`, it is closed
    failed   a request that fails closes its connection
    reads    one read returns all that has arrived, decrypted by the event loop: httpcore would read
             each TLS record of 16 KiB alone, and pass each through four layers
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

    def take(self) -> bytes:
        """Return all that has arrived."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        if self._size >= _READ_BYTES and not self.ended:
            self.transport.resume_reading()
        self._size = 0
        if not self.ended:
            self.arrived.clear()
        return data


class _Stream(httpcore.AsyncNetworkStream):
    """A connection, with the TLS of the event loop, that is read in large pieces.

    Reads and writes have no time limit of their own: an attempt has one as a whole.
    """

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    async def read(
        self,
        max_bytes: int,  # noqa: ARG002  (h11 accepts any number)
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> bytes:
        reader = self._reader
        if not reader.pieces:
            await reader.arrived.wait()
        if not reader.pieces and reader.error is not None:
            raise httpcore.ReadError(str(reader.error)) from reader.error
        return reader.take()

    async def write(
        self,
        buffer: bytes,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> None:
        if self._reader.ended:
            raise httpcore.WriteError("the server has closed the connection")
        self._reader.transport.write(buffer)

    async def aclose(self) -> None:
        self._reader.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        reader = self._reader
        try:
            async with asyncio.timeout(timeout):
                secure = await asyncio.get_running_loop().start_tls(
                    reader.transport, reader, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:  # an ssl.SSLError is one
            raise httpcore.ConnectError(str(error)) from error
        if secure is None:
            raise httpcore.ConnectError("the connection was closed during the TLS handshake")
        reader.transport = secure
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._reader.ended or bool(self._reader.pieces)
        name = "peername" if info == "server_addr" else info
        return self._reader.transport.get_extra_info(name)


class _Backend(httpcore.AnyIOBackend):
    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        """Connect as httpcore does, to IPv4 and IPv6 addresses in turn; then take the socket."""
        stream = await super().connect_tcp(*args, **kwargs)
        connected = stream.get_extra_info("socket")
        own = socket.fromfd(connected.fileno(), connected.family, connected.type)
        await stream.aclose()
        own.setblocking(False)
        try:
            _, reader = await asyncio.get_running_loop().create_connection(_Reader, sock=own)
        except BaseException:
            own.close()
            raise
        return _Stream(reader)


class _Transport(httpx.AsyncHTTPTransport):
    """Reads connections in large pieces; httpx has no option for a network backend."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, limits=LIMITS)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=LIMITS.max_connections,
            max_keepalive_connections=LIMITS.max_keepalive_connections,
            keepalive_expiry=LIMITS.keepalive_expiry,
            network_backend=_Backend(),
        )


def connection_client(context: ssl.SSLContext, **options: Any) -> httpx.AsyncClient:
    """Make a client with one connection.

    Args:
        context: of its TLS connections.
        options: of `httpx.AsyncClient`.
    """
    # Through a proxy, httpx makes the connection.
    transport = None if getproxies() else _Transport(context)
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
