"""An SSE client: an HTTP response without an end (HTML standard, section 9.2)."""

import asyncio
from functools import lru_cache
from typing import Final

from certbus.ids import Cursor
from gateway.clients.base import Client, ClientRegistry
from gateway.delivery.channel import Channel
from gateway.delivery.sse_gzip import GZIP_HEADER, SSE_GZIP, compressed

# The end of the connection ends the response (RFC 9112 section 6.3, rule 8): the bytes are the same
# for clients of HTTP/1.0 and HTTP/1.1.
VARY: Final = ("Vary", "Accept-Encoding")

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: text/event-stream\r\n"
    b"Vary: Accept-Encoding\r\n"
    b"Cache-Control: no-cache, no-transform\r\n"
    b"Access-Control-Allow-Origin: *\r\n"
    b"X-Accel-Buffering: no\r\n"
    b"Connection: close\r\n"
)
_BEGIN: Final = _HEAD + b"\r\n"
_BEGIN_GZIP: Final = _HEAD + b"Content-Encoding: gzip\r\n\r\n" + GZIP_HEADER

_MAX_RECEIVED_BYTES: Final = 64 * 1024  # per comment interval; clients need not send anything


@lru_cache(maxsize=16)
def comment(cursor: str | None) -> bytes:
    """Encode a comment line, which clients ignore, and the id up to which a client has everything.

    An event without data is not dispatched, but sets the last event id (HTML, section 9.2.6).
    """
    return b":\n\n" if cursor is None else b":\nid: %b\n\n" % cursor.encode()


class SSEClient(Client):
    """Sends events and ignores what it receives after the request."""

    __slots__ = ("_is_compressed", "_received_bytes")

    status = 200

    def __init__(
        self, registry: ClientRegistry, channel: Channel[Client], transport: asyncio.Transport
    ) -> None:
        super().__init__(registry, channel, transport)
        self._received_bytes = 0
        self._is_compressed = channel.encoding is SSE_GZIP

    def attach(self, cursor: Cursor | None) -> None:
        """Send the response head, and subscribe."""
        self.write(_BEGIN_GZIP if self._is_compressed else _BEGIN)
        self.registry.sse_timers.add(self)
        super().attach(cursor)

    def detach(self) -> None:
        """Unsubscribe and stop the comments."""
        self.registry.sse_timers.discard(self)
        super().detach()

    def data_received(self, data: bytes) -> None:
        """Discard the data; abort the connection above the limit."""
        self._received_bytes += len(data)
        if self._received_bytes > _MAX_RECEIVED_BYTES:
            self.abort("too much data received")

    def tick(self, now: int) -> None:  # noqa: ARG002
        """Send a comment, which keeps proxies from closing an idle connection."""
        self._received_bytes = 0
        if not self.paused:
            self._write_text(comment(self.resumes_after))

    def close(self, code: int, reason: str) -> None:
        """End the response; the client reconnects with its Last-Event-ID.

        Args:
            code: of the WebSocket closing handshake; part of the comment.
            reason: sent as a comment.
        """
        self._ended(code, reason)
        self.detach()
        self._write_text(b": %d %b\n\n" % (code, reason.encode()))
        self.transport.close()
        self._abort_later()

    def _write_text(self, text: bytes) -> None:
        self.write(compressed(text) if self._is_compressed else text)
