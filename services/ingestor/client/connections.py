"""HTTP/1.1 connections to the servers of logs: one for each request in flight.

Each connection is an httpx client of its own. httpx examines all connections of a client before
each request, at a cost that grows with the square of their number: with 16 of them a request costs
twice the CPU time (docs/performance.md). HTTP/2 costs more CPU time for each entry; some operators
limit requests by connection, and others reset streams that run in parallel.

    idle     a connection without a request serves the next one to the same server, the newest
             first; after `MAX_IDLE_SECS`, or above `MAX_IDLE`, it is closed
    failed   a request that fails closes its connection
"""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

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

Server = tuple[bytes, bytes, int | None]
"""Scheme, host and port."""

# httpcore tries to import sniffio several times a request. Without this, each attempt searches the
# whole path for a module that is not installed, which takes longer than sending the request.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]


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
