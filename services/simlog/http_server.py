"""HTTP of a simulated log: plain functions from `Request` to `Response`, served by `certhttp`.

A response also states its delay, and its body may break off, so faults need no I/O.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import msgspec

from certhttp import server
from certhttp.protocol import Request

_TIMEOUTS = server.Timeouts(idle=300.0, request=30.0, response=3600.0, write=300.0)
"""Longer than the faults that a log has: delays and clients that read slowly are part of them."""


class Response(msgspec.Struct, frozen=True):
    """A response of a simulated log.

    Attributes:
        body: an iterator's pieces are sent as the client reads them; where it raises
            `BrokenOff`, the connection is reset.
        content_type: of the body.
        status: HTTP status code.
        headers: further ones.
        delay: seconds until it is sent.
        entries: number of log entries in the body.
        first: index of the first of them.
    """

    body: bytes | Iterable[bytes]
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    entries: int = 0
    first: int = 0


class BrokenOff(server.AbortResponse):
    """A body ends here, in the middle."""


def broken_off(body: bytes, after: int | None = None) -> Iterator[bytes]:
    """Yield a body that breaks off after `after` bytes; None: in the middle."""
    if kept := body[: len(body) // 2 if after is None else after]:
        yield kept
    raise BrokenOff


class Refused(Exception):
    """An error response with its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.response = Response(f"{text}\n".encode(), status=status)


Handler = Callable[[Request], Response]

Lateness = Callable[[float], None]
"""Receives how many seconds later than planned a response was sent."""


@asynccontextmanager
async def listening(
    handle: Handler, listener: socket.socket, late: Lateness = lambda _: None
) -> AsyncIterator[None]:
    """Serve on a listening socket for the length of the block."""

    async def respond(request: Request) -> server.Response:
        received = time.monotonic()
        try:
            response = handle(request)
        except Refused as refusal:
            response = refusal.response
        if response.delay:
            await asyncio.sleep(max(0.0, received + response.delay - time.monotonic()))
        late(time.monotonic() - received - response.delay)
        return server.Response(
            response.status, response.content_type, response.body, response.headers
        )

    async with server.serve(listener, respond, _TIMEOUTS, reject_silently=True):
        yield
