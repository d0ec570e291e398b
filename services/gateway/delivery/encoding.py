"""The bytes that clients receive: WebSocket text frames (RFC 6455) and server-sent events (HTML).

A batch is encoded once for all clients that read it in one form, so everything here works on
whole batches. Each message gets its id as first member: `{"id":"<entry id>-<position>",...}`.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

import msgspec

_TEXT: Final = 0x81  # FIN, opcode 1 (RFC 6455 section 5.2)

_length7 = Struct("!BB").pack
_length16 = Struct("!BBH").pack
_length64 = Struct("!BBQ").pack

_LINE_BREAKS: Final = [(chr(code).encode(), b"\\u%04x" % code) for code in (0x0085, 0x2028, 0x2029)]

NO_NAMES: Final = b'"data":[]}'
"""How a `dns_entries` message without names ends. It keeps its position, but is not sent."""


class Encoding(msgspec.Struct, frozen=True, eq=False):
    """One way to put messages on the wire.

    Attributes:
        name: for logs and metrics.
        batch: entry id, position of the first message, messages -> their bytes.
        notice: a message that has no id -> its bytes.
    """

    name: str
    batch: Callable[[str, int, Sequence[bytes]], bytes]
    notice: Callable[[bytes], bytes]


def text_header(length: int, first: int = _TEXT) -> bytes:
    """Header of an unmasked, unfragmented text frame (RFC 6455 section 5.2).

    Args:
        length: bytes of payload.
        first: the frame's first byte.
    """
    if length < 126:
        return _length7(first, length)
    if length < 65536:
        return _length16(first, 126, length)
    return _length64(first, 127, length)


def websocket_frame(payload: bytes) -> bytes:
    """One message as one text frame."""
    return text_header(len(payload)) + payload


def websocket_frames(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """A batch as WebSocket text frames, one a message."""
    parts: list[bytes] = []
    for position, message in enumerate(messages, first):
        if message.endswith(NO_NAMES):
            continue
        start = b'{"id":"%b-%d",' % (entry.encode(), position)
        parts += text_header(len(start) + len(message) - 1), start, message[1:]
    return b"".join(parts)


def sse_event(payload: bytes) -> bytes:
    """One message as an event without an id: a client's `Last-Event-ID` stays what it was."""
    return b"data: %b\n\n" % _on_one_line(payload)


def sse_events(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """A batch as server-sent events, one a message. Messages are single lines."""
    parts: list[bytes] = []
    for position, message in enumerate(messages, first):
        if message.endswith(NO_NAMES):
            continue
        text = message if message.isascii() else _on_one_line(message)
        number = b"%b-%d" % (entry.encode(), position)
        parts += b"id: ", number, b'\ndata: {"id":"', number, b'",', text[1:], b"\n\n"
    return b"".join(parts)


def _on_one_line(message: bytes) -> bytes:
    r"""Escape the characters that are line breaks for some clients: U+0085, U+2028 and U+2029.

    Only CR, LF or both end a line of an event stream (HTML standard, section 9.2.6), but clients
    that split lines with a library's function end them at these as well. They occur in strings
    alone, where JSON takes the escape for the character (RFC 8259 section 7). In UTF-8 no other
    character has their bytes.
    """
    for character, escape in _LINE_BREAKS:
        message = message.replace(character, escape)
    return message


WEBSOCKET = Encoding("websocket", websocket_frames, websocket_frame)
SSE = Encoding("sse", sse_events, sse_event)
