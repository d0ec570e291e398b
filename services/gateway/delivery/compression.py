"""Compressed WebSocket messages (permessage-deflate, RFC 7692), for clients that negotiate it.

Neither side may refer back to earlier messages (`no_context_takeover`). So a compressed message
means the same to every client, is made once for all of them as any other form is, and nothing
about compression is kept for a connection between two messages that it sends.

Notices, heartbeats and control frames stay as they are: compression is a matter of each message,
said by its RSV1 bit (section 6).
"""

import zlib
from collections.abc import Sequence
from typing import Final

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.typing import ExtensionParameter

from gateway.delivery.encoding import NO_NAMES, Encoding, text_header, websocket_frame

_COMPRESSED_TEXT: Final = 0xC1  # FIN, RSV1, opcode 1
_WINDOW_BITS: Final = 12  # 4 KiB: with 15, full messages are 0.5 % smaller and others the same
_LEVEL: Final = 1  # half of the size; 6 makes them 3 % smaller yet, in 1.2 times the time
_TAIL: Final = 4  # bytes of the empty block that a flush ends with, left out (section 7.2.1)


class SharedDeflate(ServerPerMessageDeflateFactory):
    """Accepts the offers that the shared form is a right answer to."""

    def __init__(self) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Answer one offer.

        Raises:
            NegotiationError: declined, since the client wants a smaller window than all others get.
        """
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits < _WINDOW_BITS:
            raise NegotiationError(f"server_max_window_bits below {_WINDOW_BITS}")
        return answer, extension


def deflated_frames(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """A batch as compressed text frames, one a message."""
    parts: list[bytes] = []
    for position, message in enumerate(messages, first):
        if message.endswith(NO_NAMES):
            continue
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS)
        start = deflate.compress(b'{"id":"%b-%d",' % (entry.encode(), position))
        middle = deflate.compress(message[1:])
        payload = b"".join((start, middle, deflate.flush(zlib.Z_SYNC_FLUSH)))[:-_TAIL]
        parts += text_header(len(payload), _COMPRESSED_TEXT), payload
    return b"".join(parts)


DEFLATED = Encoding("websocket_deflate", deflated_frames, websocket_frame)
