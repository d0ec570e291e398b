"""An SSE client: an HTTP response that never ends (HTML standard, section 9.2)."""

import asyncio
from typing import Final

from certbus.ids import Cursor
from gateway.clients.base import Client
from gateway.clients.heartbeat import COMMENT
from gateway.delivery.channel import Channel
from gateway.hub import Hub

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

_MAX_CHATTER: Final = 64 * 1024  # bytes in one beat from a client that has nothing to say


class SSEClient(Client):
    """Sends events; what it receives after the request means nothing."""

    __slots__ = ("_chatter",)

    def __init__(self, service: Hub, lane: Channel, transport: asyncio.Transport) -> None:
        super().__init__(service, lane, transport)
        self._chatter = 0

    def attach(self, cursor: Cursor | None) -> None:
        """Begin to read, and to be kept alive."""
        self.transport.write(HEAD)
        self.hub.events.add(self)
        super().attach(cursor)

    def detach(self) -> None:
        """Read no more."""
        self.hub.events.discard(self)
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
            self.transport.write(COMMENT)

    def close(self, code: int, reason: str) -> None:
        """End the response; the client comes again with its Last-Event-ID.

        Args:
            code: of the WebSocket closing handshake; here nobody can be told.
            reason: told as a comment.
        """
        self.detach()
        self.transport.write(b": %d %b\n\n" % (code, reason.encode()))
        self.transport.close()
        self._cut_off_later()
