"""A WebSocket client. The websockets library implements RFC 6455; batches bypass it.

`accept` answers the opening handshake that h11 has parsed. After it, a bare `Protocol` in state
OPEN reads what the client sends. It needs 1.6 KB per connection; a `ServerProtocol`, which keeps
the request, needs 4.2 KB.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

from websockets.datastructures import Headers
from websockets.extensions import Extension
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, SEND_EOF, SERVER, Protocol
from websockets.server import ServerProtocol

from certbus.ids import Cursor
from gateway.clients.base import Client, ClientRegistry
from gateway.delivery.channel import Channel
from gateway.delivery.compression import DeflateFactory, encoding_of
from gateway.delivery.encoding import Encoding, websocket_frame

MAX_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""Received of incomplete messages of all clients of a gateway."""

_MAX_MESSAGE_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 4096  # parsed before frames are counted
_MAX_FRAMES: Final = 600  # per heartbeat interval
_MAX_UNANSWERED_PINGS: Final = 2
_MAX_REASON_BYTES: Final = 123  # (RFC 6455 section 5.5)

_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})

_PING: Final = b"\x89\x00"  # without data (RFC 6455 section 5.5.2)

_VERSION: Final = "Sec-WebSocket-Version"
_SUPPORTED: Final = "13"
_LIST_HEADERS: Final = frozenset({"sec-websocket-protocol", "sec-websocket-extensions"})

_logger: Final = logging.getLogger("gateway.clients.websocket")
_logger.setLevel(logging.WARNING)  # INFO logs each closed connection


def accept(
    path: str, headers: list[tuple[str, str]], method: str, version: str, *, compression: bool
) -> tuple[Response, Sequence[Extension]]:
    """Answer an opening handshake (RFC 6455 section 4.2.2).

    Args:
        path: as sent, with the query.
        headers: as sent, names in lower case.
        method: as sent.
        version: of HTTP.
        compression: whether an offer of permessage-deflate is accepted.

    Returns:
        The 101 or the error response; and permessage-deflate if it was negotiated.
    """
    given = [(name, value) for name, value in headers if not _is_empty_list(name, value)]
    factories = [DeflateFactory()] if compression else None
    handshake = ServerProtocol(extensions=factories, logger=_logger)
    response = handshake.accept(Request(path, Headers(given), method, f"HTTP/{version}"))
    handshake.parser.close()  # its frame refers to `handshake`: a cycle for the garbage collector
    if [value for name, value in headers if name == _VERSION.lower()] != [_SUPPORTED]:
        response.headers[_VERSION] = _SUPPORTED  # RFC 6455 section 4.4
    return response, handshake.extensions


def _is_empty_list(name: str, value: str) -> bool:
    """Whether a header is an empty list, which is equal to no header (RFC 9110 section 5.6.1)."""
    return name in _LIST_HEADERS and not value.strip(" \t,")


@lru_cache(maxsize=16)
def heartbeat_frames(now: int, cursor: str | None) -> bytes:
    """Encode a heartbeat message and a ping, once for the clients that have the same.

    Args:
        now: Unix time in seconds.
        cursor: the id up to which the client has everything; None if it is unknown.
    """
    number = b"" if cursor is None else b',"id":"%b"' % cursor.encode()
    return websocket_frame(b'{"message_type":"heartbeat","timestamp":%d%b}' % (now, number)) + _PING


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Protocol(Protocol):
    """Accepts a close frame within a fragmented message (RFC 6455 section 5.4)."""

    def recv_frame(self, frame: Frame) -> None:
        """Process a frame."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None  # the message ends without its last fragment
        super().recv_frame(frame)


class WebSocketClient(Client):
    """Sends text frames; reads pings, pongs and the closing handshake.

    Args:
        registry: what it shares with all other clients.
        channel: the stream and encoding that it reads.
        transport: of its connection.
        extensions: that decode received messages.
    """

    status = 101

    __slots__ = (
        "_fragments",
        "_frames",
        "_held",
        "_is_text",
        "_pending_pong",
        "_protocol",
        "_unanswered",
        "_unfinished",
    )

    def __init__(
        self,
        registry: ClientRegistry,
        channel: Channel[Client],
        transport: asyncio.Transport,
        extensions: Sequence[Extension] = (),
    ) -> None:
        super().__init__(registry, channel, transport)
        self._protocol = _Protocol(SERVER, state=OPEN, max_size=_MAX_MESSAGE_BYTES, logger=_logger)
        self._protocol.extensions.extend(extensions)
        self._pending_pong: bytes | None = None
        self._frames = 0
        self._unanswered = 0
        self._fragments: list[bytes] = []  # of a message that is not complete
        self._held = 0  # bytes of these
        self._is_text = False  # that message
        self._unfinished = 0  # bytes of it, also of an incomplete frame

    def encoding(self, *, filtered: bool) -> Encoding:
        """Return the encoding for this client; only without a filter can it share a context."""
        return encoding_of(self._protocol.extensions, filtered=filtered)

    def attach(self, cursor: Cursor | None) -> None:
        """Subscribe and start the heartbeats."""
        self.registry.websocket_timers.add(self)
        super().attach(cursor)

    def detach(self) -> None:
        """Unsubscribe and stop the heartbeats."""
        self.registry.websocket_timers.discard(self)
        self._set_unfinished(0)
        self._pending_pong = None
        super().detach()

    def data_received(self, data: bytes) -> None:
        """Parse received data in chunks: a flood is detected before all of it is parsed."""
        try:
            for start in range(0, len(data), _CHUNK_BYTES):
                self._parse(data[start : start + _CHUNK_BYTES])
                if self.transport.is_closing():
                    return
                if self._frames > _MAX_FRAMES:
                    self.close(CloseCode.POLICY_VIOLATION, "too many frames")
                    return
        except Exception as error:  # noqa: BLE001
            self.fail(error)

    def eof_received(self) -> None:
        """Note that the client has closed its side; asyncio closes the other one."""
        self._protocol.receive_eof()

    def tick(self, now: int) -> None:
        """Send a heartbeat; abort a client that has not sent a whole frame since two pings.

        A paused client has not received the pings yet, and is not judged.
        """
        self._frames = 0
        if self.paused:
            return
        if self._unanswered >= _MAX_UNANSWERED_PINGS:
            self.abort("no answer to pings")
            return
        self._unanswered += 1
        self.write(heartbeat_frames(now, self.resumes_after))

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; abort a client that does not answer it in time."""
        if self._protocol.state is not OPEN:
            return
        self._ended(code, reason)
        self.detach()
        self._protocol.send_close(code, reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))
        self.write(b"".join(self._protocol.data_to_send()))
        self._abort_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Unsubscribe, and free what was received.

        The frame of the parser refers to the protocol, also from a traceback: a cycle, with up to
        1 MiB of an incomplete message, which would wait for a garbage collection.
        """
        super().connection_lost(exc)
        self._protocol.parser.close()
        self._protocol.parser_exc = None

    def resume_writing(self) -> None:
        """Send the pong that is due, and continue: the send buffer is empty."""
        pong, self._pending_pong = self._pending_pong, None
        if pong is not None:
            self.paused = False
            self.registry.paused.discard(self)
            self.write(pong)
            if self.paused:  # TLS may pause within the write
                return
        super().resume_writing()

    def _parse(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        frames = cast("list[Frame]", self._protocol.events_received())
        if frames:  # a part of a frame does not count as an answer
            self._unanswered = 0
        self._frames += len(frames)
        self._send()
        if self.closed:
            return
        messages = [each for frame in frames if (each := self._message_of(frame)) is not None]
        self._set_unfinished(self._held if frames else self._unfinished + len(data))
        if self.registry.unfinished_bytes > MAX_UNFINISHED_BYTES:
            self.close(CloseCode.TRY_AGAIN_LATER, "too many incomplete messages at this server")
        for message in messages:
            if not self.closed:
                self._receive(message)

    def _message_of(self, frame: Frame) -> bytes | None:
        """Return the message that a frame completes (RFC 6455 section 5.4)."""
        if frame.opcode not in _DATA:
            return None
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.data:  # empty fragments without end must not need memory
            self._fragments.append(bytes(frame.data))
            self._held += len(frame.data)
        if not frame.fin:
            return None
        message = b"".join(self._fragments)
        self._fragments.clear()
        self._held = 0
        if self._is_text and not _is_utf8(message):
            # Not a closing handshake: nothing more is read (RFC 6455 sections 7.1.7 and 8.1).
            self._protocol.fail(CloseCode.INVALID_DATA, "a text message is not UTF-8")
            self._send()
            return None
        return message

    def _receive(self, message: bytes) -> None:
        self.registry.receive(self, message)

    def _set_unfinished(self, size: int) -> None:
        self.registry.unfinished_bytes += size - self._unfinished
        self._unfinished = size

    def _send(self) -> None:
        """Send the pongs and the close frame of the protocol."""
        data = self._protocol.data_to_send()
        if not data:
            return
        if data[-1] != SEND_EOF:
            if self.paused:
                self._pending_pong = data[
                    -1
                ]  # the newest pong answers all pings (RFC 6455 section 5.5.3)
            else:
                self.write(b"".join(data))
            return
        close = self._protocol.close_rcvd or self._protocol.close_sent
        if close is not None:
            self._ended(close.code, close.reason)
        self.detach()
        self.write(b"".join(data))
        self.transport.close()
        self._abort_later()
