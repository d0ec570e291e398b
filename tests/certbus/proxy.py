"""A proxy in front of Redis that delays replies and cuts connections, as load balancers do."""

import asyncio
import re
import socket
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

import hiredis

How = Literal["rst", "fin"]
"""How a connection ends: by a TCP reset, or in an orderly way."""

When = Literal["unsent", "before", "after"]
"""Before Redis has the request, before the reply is delivered, or right after it."""

FENCE: Final = re.compile(rb'"fence":"([^"]*)"')
"""The fence in a request that publishes."""

_CHUNK: Final = 65536  # bytes
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with a time of 0: close(2) sends a reset


class Held(NamedTuple):
    """Requests that the proxy keeps from Redis.

    Attributes:
        requests: the bytes.
        port: of the client.
        released: set when they may reach Redis.
    """

    requests: bytes
    port: int
    released: asyncio.Event


@dataclass(slots=True)
class Ordered:
    """A cut that is to come: `cut_at` describes its first fields.

    Attributes:
        is_made: whether it was made.
        over: set when it was, or when another one took its place.
    """

    how: How
    when: When
    left: int
    marker: bytes
    is_made: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Forwards TCP connections to the unix socket of a Redis, and cuts them on command.

    Args:
        target: the unix socket.
        tls: what clients connect with; None for plain TCP.

    Attributes:
        url: of the proxy.
        delay: seconds by which each reply is late.
        replies: how many replies were delivered or withheld.
        cuts: how many connections were cut by the proxy.
        most: how many connections there were at once, at most.
        refused: whether new connections are reset at once.
        published: entry ids that Redis gave to batches -> the fence of the request.
    """

    def __init__(self, target: Path, tls: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self.delay = 0.0
        self.replies = 0
        self.cuts = 0
        self.most = 0
        self.refused = False
        self.published: dict[str, str] = {}
        self._target = target
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._cut: Ordered | None = None
        self._hold: tuple[bytes, asyncio.Future[Held]] | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"redis://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut("fin")

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def cut(self, how: How) -> int:
        """Cut all connections now.

        Returns:
            How many there were.
        """
        connections = tuple(self._connections)
        for connection in connections:
            connection.end(how)
        self.cuts += len(connections)
        return len(connections)

    def cut_at(self, reply: int, how: How, when: When, marker: bytes = b"") -> "Ordered":
        """Cut a connection at a reply, in place of any cut that was ordered and not made.

        Args:
            reply: which one, counted from now over all connections; the next is 1.
            how: the connection ends.
            when: before the reply is delivered, or after; "unsent" counts requests instead.
            marker: count only replies to requests that contain it, or only these requests.
        """
        assert reply > 0
        if self._cut is not None:
            self._cut.over.set()
        self._cut = Ordered(how, when, reply, marker)
        return self._cut

    def is_over(self) -> bool:
        """Whether the cut that `cut_at` ordered has been made."""
        return self._cut is None

    async def hold(self, marker: bytes) -> "Held":
        """Keep the next request that contains `marker` from Redis, and wait until it comes."""
        held: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._hold = marker, held
        try:
            return await held
        finally:
            self._hold = None

    async def keep(self, requests: bytes, port: int) -> None:
        """Return when what a client has sent may reach Redis."""
        if self._hold is None or self._hold[0] not in requests:
            return
        held, waiting = Held(requests, port, asyncio.Event()), self._hold[1]
        self._hold = None
        waiting.set_result(held)
        await held.released.wait()

    def due(self, requests: bytes) -> tuple[How, When] | None:
        """Count one reply to (some of) `requests`; return how and when to cut at it, or None."""
        self.replies += 1
        if self._cut is None or self._cut.when == "unsent":
            return None
        return self._counted(self._cut, requests)

    def refuses(self, requests: bytes) -> How | None:
        """Count what a client has sent; return how to cut instead of forwarding it, or None."""
        if self._cut is None or self._cut.when != "unsent":
            return None
        cut = self._counted(self._cut, requests)
        return None if cut is None else cut[0]

    def _counted(self, cut: "Ordered", requests: bytes) -> tuple[How, When] | None:
        if cut.marker not in requests:
            return None
        cut.left -= 1
        if cut.left:
            return None
        self._cut = None
        cut.is_made = True
        cut.over.set()
        self.cuts += 1
        return cut.how, cut.when

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        if self.refused:
            connection.end("rst")
            return
        self._connections.add(connection)
        self.most = max(self.most, len(self._connections))
        try:
            await connection.run(self._target)
        finally:
            self._connections.discard(connection)


class _Connection:
    """One connection of a client, with its own to Redis."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._requested = b""  # since the last reply
        self._upstream: asyncio.StreamWriter | None = None

    def end(self, how: How) -> None:
        """End the connection of the client, and the one to Redis."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        if how == "rst" and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()
        self._writer.close()
        if self._upstream is not None:
            self._upstream.close()

    async def run(self, target: Path) -> None:
        """Forward until either side ends."""
        try:
            upstream, self._upstream = await asyncio.open_unix_connection(target)
        except OSError:  # Redis is not there
            self.end("rst")
            return
        tasks = [
            asyncio.create_task(self._requests(self._upstream)),
            asyncio.create_task(self._replies(upstream)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()
            self._upstream.close()

    def _fence(self) -> str | None:
        """Return the fence of the newest batch that was sent; None if none was."""
        fences: list[bytes] = FENCE.findall(self._requested)
        return fences[-1].decode() if fences else None

    async def _requests(self, upstream: asyncio.StreamWriter) -> None:
        while data := await self._reader.read(_CHUNK):
            if (how := self._proxy.refuses(data)) is not None:
                self.end(how)
                return
            await self._proxy.keep(data, self._writer.get_extra_info("peername")[1])
            self._requested += data
            upstream.write(data)
            await upstream.drain()

    async def _replies(self, upstream: asyncio.StreamReader) -> None:
        parser = hiredis.Reader()
        while data := await upstream.read(_CHUNK):
            parser.feed(data)
            cut = None
            while cut is None and (reply := parser.gets()) is not False:
                if (
                    isinstance(reply, list)
                    and reply[:1] == [b"published"]
                    and (fence := self._fence()) is not None  # else a field of a log
                ):
                    self._proxy.published[reply[1].decode()] = fence
                cut = self._proxy.due(self._requested)
            if not parser.has_data():
                self._requested = b""
            await asyncio.sleep(self._proxy.delay)
            if cut is None or cut[1] == "after":
                self._writer.write(data)
                await self._writer.drain()
            if cut is not None:
                self.end(cut[0])
                return


class LossyProxy:
    """Forwards a unix socket to another; `lose_next` makes one command's reply vanish."""

    def __init__(self, target: Path, path: Path) -> None:
        self.url = f"unix://{path}"
        self.lost = 0
        self._target = target
        self._path = path
        self._marker: bytes | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def lose_next(self, marker: bytes) -> None:
        """Lose the reply to the next request that contains `marker`, with its connection."""
        self._marker = marker

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        lose = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(65536):
                if self._marker is not None and self._marker in data:
                    self._marker = None
                    lose.set()
                upstream_writer.write(data)
                await upstream_writer.drain()

        async def replies() -> None:
            while data := await upstream_reader.read(65536):
                if lose.is_set():
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(requests()), asyncio.create_task(replies())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()
            upstream_writer.close()
