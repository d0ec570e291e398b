"""Compressed WebSocket messages (permessage-deflate, RFC 7692), for clients that negotiate it.

A stream has one compressor, which refers to earlier messages (context takeover). The frames of a
slot are made once, when the slot is appended, for all clients *in step*: those that have received
every compressed slot since the compressor last restarted. The others receive uncompressed frames
until the next restart; an uncompressed message does not enter the window (section 6.2). So a
connection holds no compression state.

Clients that exclude context takeover, or a window of 32 KiB, receive each message compressed alone,
also made once for all of them.

Gap messages, heartbeats and control frames are not compressed: the RSV1 bit marks each compressed
message (section 6).
"""

import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.typing import ExtensionParameter

from gateway.delivery.encoding import (
    NO_NAMES,
    WEBSOCKET,
    Encoding,
    text_header,
    websocket_frame,
    websocket_frames,
)

RESTART_MESSAGES: Final = 256
"""Messages after which the compressor restarts. The window holds about 20 lite messages, and 128
messages would make them 2 % larger."""

RESTART_SECS: Final = 4.0
"""Time after which the next slot restarts the compressor: one second less than the 5 s for which a
client may receive uncompressed frames."""

_COMPRESSED_TEXT: Final = 0xC1  # FIN, RSV1, opcode 1
_TAIL_BYTES: Final = 4  # the empty block at the end of a flush is not sent (section 7.2.1)

_MAX_WINDOW_BITS: Final = 15
_SHARED_LEVEL: Final = 6  # of zlib; bench/wire.py compares
_MEMORY_LEVEL: Final = 9

_WINDOW_BITS: Final = 12  # 4 KiB: with 15, full messages are 0.5 % smaller and others the same
_LEVEL: Final = 1  # half of the size; level 6 saves another 3 % in 1.2 times the time

_SERVER_NO_CONTEXT: Final[ExtensionParameter] = ("server_no_context_takeover", None)


class SharedFrames(NamedTuple):
    """A slot as the compressor of its stream made it.

    Attributes:
        data: compressed text frames, one per message.
        restarts: whether a client that has received nothing compressed can decompress them.
    """

    data: bytes
    restarts: bool


class SharedContext:
    """The compressor of one stream, for the clients that have negotiated context takeover.

    Args:
        clients: a live view; nothing is compressed while it is empty.
        clock: in seconds, monotonic.
    """

    def __init__(self, clients: Collection[object], clock: Callable[[], float]) -> None:
        self._clients = clients
        self._clock = clock
        self._deflate: zlib._Compress | None = None  # the next slot restarts
        self._messages = 0  # since the last restart
        self._began = 0.0

    def frames(self, entry: str, first: int, messages: Sequence[bytes]) -> SharedFrames | None:
        """Compress the next slot of the stream; None without clients.

        Args:
            entry: id of the batch.
            first: position of the first message in the batch.
            messages: JSON texts.
        """
        if not self._clients:
            self._deflate = None
            return None
        deflate, now = self._deflate, self._clock()
        restarts = (
            deflate is None
            or self._messages + len(messages) > RESTART_MESSAGES
            or now - self._began >= RESTART_SECS
        )
        if deflate is None or restarts:
            deflate = self._deflate = _compressor()
            self._messages, self._began = 0, now
        self._messages += len(messages)
        parts: list[bytes] = []
        for position, message in enumerate(messages, first):
            if not message.endswith(NO_NAMES):
                start = deflate.compress(b'{"id":"%b-%d",' % (entry.encode(), position))
                middle = deflate.compress(message[1:])
                parts += _frame(start, middle, deflate.flush(zlib.Z_SYNC_FLUSH))
        return SharedFrames(b"".join(parts), restarts)


def _compressor() -> "zlib._Compress":
    """Create a compressor with an empty window.

    Z_FILTERED leaves out matches of up to 5 bytes, which cost more than the digits of hashes that
    they replace: lite messages are 3 % smaller.
    """
    return zlib.compressobj(
        _SHARED_LEVEL, zlib.DEFLATED, -_MAX_WINDOW_BITS, _MEMORY_LEVEL, zlib.Z_FILTERED
    )


class SharedDeflate(PerMessageDeflate):
    """Negotiated permessage-deflate with the shared context."""


class DeflateFactory(ServerPerMessageDeflateFactory):
    """Accepts offers of permessage-deflate; answers with context takeover where possible."""

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Accept one offer.

        Raises:
            NegotiationError: the client requires a smaller window than the encoding has.
        """
        answer, extension = super().process_request_params(params, accepted_extensions)
        bits = extension.local_max_window_bits
        if bits < _WINDOW_BITS:
            raise NegotiationError(f"server_max_window_bits below {_WINDOW_BITS}")
        if bits < _MAX_WINDOW_BITS or _SERVER_NO_CONTEXT in params:
            return answer, extension
        answer.remove(_SERVER_NO_CONTEXT)
        # This object compresses nothing: without context, it does not allocate a compressor.
        shared = SharedDeflate(True, True, extension.remote_max_window_bits, bits)
        return answer, shared


def encoding_of(extensions: Sequence[Extension], *, filtered: bool) -> Encoding:
    """Return the encoding for a WebSocket client.

    Args:
        extensions: negotiated with it.
        filtered: whether it receives a selection of the messages; a context has all of them.
    """
    if not extensions:
        return WEBSOCKET
    return SHARED if isinstance(extensions[0], SharedDeflate) and not filtered else DEFLATED


def deflated_frames(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """Encode a batch as compressed text frames, one per message."""
    parts: list[bytes] = []
    for position, message in enumerate(messages, first):
        if message.endswith(NO_NAMES):
            continue
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS)
        start = deflate.compress(b'{"id":"%b-%d",' % (entry.encode(), position))
        middle = deflate.compress(message[1:])
        parts += _frame(start, middle, deflate.flush(zlib.Z_SYNC_FLUSH))
    return b"".join(parts)


def _frame(*deflated: bytes) -> tuple[bytes, bytes]:
    """Return header and payload of the frame of one compressed message."""
    payload = b"".join(deflated)[:-_TAIL_BYTES]
    return text_header(len(payload), _COMPRESSED_TEXT), payload


DEFLATED = Encoding("websocket_deflate", deflated_frames, websocket_frame)
"""Each message compressed alone."""

SHARED = Encoding("websocket_shared_deflate", websocket_frames, websocket_frame)
"""Uncompressed frames; a channel sends `Slot.shared` instead to the clients in step."""
