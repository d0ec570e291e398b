"""An SSE client: an HTTP response that never ends (HTML standard, section 9.2)."""

import asyncio
from typing import Final

from certbus.ids import Cursor
from gateway.clients.base import Client, ClientRegistry
from gateway.delivery.channel import Channel

# Ended by closing (RFC 9112 section 6.3, rule 8): so that all clients can be sent the same bytes,
# whichever version of HTTP they speak.
HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache, no-transform\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"X-Accel-Buffering: no\r\n"
    b"Connection: close\r\n"
    b"\r\n"
)

_COMMENT: Final = b":\n\n"
"""A comment line, which clients ignore."""

_MAX_CHATTER: Final = 64 * 1024  # bytes in one beat from a client that has nothing to say


class SSEClient(Client):
    """Sends events; what it receives after the request means nothing."""

    __slots__ = ("_chatter",)

    def __init__(
        self, registry: ClientRegistry, channel: Channel[Client], transport: asyncio.Transport
    ) -> None:
        super().__init__(registry, channel, transport)
        self._chatter = 0

    def attach(self, cursor: Cursor | None) -> None:
        """Begin to read, and to be kept alive."""
        self.transport.write(HEAD)
        self.registry.sse_timers.add(self)
        super().attach(cursor)

    def detach(self) -> None:
        """Read no more."""
        self.registry.sse_timers.discard(self)
        super().detach()

    def data_received(self, data: bytes) -> None:
        """Ignore it, within limits."""
        self._chatter += len(data)
        if self._chatter > _MAX_CHATTER:
            self.transport.abort()

    def tick(self, now: int) -> None:  # noqa: ARG002
        """Send a comment line, so that nothing on the way takes the connection for dead."""
        self._chatter = 0
        if not self.paused:
            self.transport.write(_COMMENT)

    def close(self, code: int, reason: str) -> None:
        """End the response; the client comes again with its Last-Event-ID.

        Args:
            code: of the WebSocket closing handshake; here nobody can be told.
            reason: told as a comment.
        """
        self.detach()
        self.transport.write(b": %d %b\n\n" % (code, reason.encode()))
        self.transport.close()
        self._abort_later()
