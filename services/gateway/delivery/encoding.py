"""The bytes that clients receive: WebSocket text frames (RFC 6455) and server-sent events (HTML).

A batch is encoded once for all clients of one encoding. So the encoders work on whole batches. Each
message gets its id as first member: `{"id":"<entry id>-<position>",...}`. A gap message has no id.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, Final, Protocol

import msgspec

from certbus.streams.continuity import Reason
from certbus.streams.events import (
    CURSOR_AHEAD_REASON,
    NOT_RETAINED_REASON,
    RESET,
    EpochChanged,
    Gap,
    Rewind,
)

_TEXT: Final = 0x81  # FIN, opcode 1 (RFC 6455 section 5.2)

_length7 = Struct("!BB").pack
_length16 = Struct("!BBH").pack
_length64 = Struct("!BBQ").pack

_LINE_BREAKS: Final = [(chr(code).encode(), b"\\u%04x" % code) for code in (0x0085, 0x2028, 0x2029)]

NO_NAMES: Final = b'"data":[]}'
"""The end of a `dns_entries` message without names. It keeps its position, but is not sent."""

GAP_REASONS: Final[Mapping[Reason, str]] = {
    "reset": RESET,
    "lost": "the server lost what it had published after an id before this one; it comes again",
    "trimmed": NOT_RETAINED_REASON,
    "future": CURSOR_AHEAD_REASON,
    "unknown": "unknown id: the server has lost it; the minute before it comes again",
}
"""Reason of a gap in a replay -> the text of the gap message."""


class Selection(Protocol):
    """Which messages of a slot of the ring an encoding has."""

    def evaluates(self, slot: Any) -> bool:
        """Whether `select` has to evaluate all messages of the slot."""

    def must_look_up(self, slot: Any) -> bool:
        """Whether the slot must be looked up before `select` is fast."""

    async def place(self) -> None:
        """Prepare look-ups."""

    def evaluate(self, slot: Any, secs: float) -> bool:
        """Evaluate messages of the slot for `select`; False if time ended before the last one."""

    def forget(self, slots: Iterable[Any]) -> None:
        """Forget what `evaluate` has found of slots that are not selected."""

    def select(self, slot: Any, skip: int) -> Iterator[tuple[int, bytes]]:
        """Yield number and text of the selected messages after the first `skip` ones."""


class Encoding(msgspec.Struct, frozen=True, eq=False):
    """An encoding of messages on the wire.

    Attributes:
        name: for logs and metrics.
        batch: entry id, position of the first message, messages -> bytes.
        notice: a message without an id -> bytes.
        selection: of the messages of a filter; None for all messages.
        is_sse: whether it is of server-sent events.
    """

    name: str
    batch: Callable[[str, int, Sequence[bytes]], bytes]
    notice: Callable[[bytes], bytes]
    selection: Selection | None = None
    is_sse: bool = False


def text_header(length: int, first: int = _TEXT) -> bytes:
    """Encode the header of an unmasked, unfragmented text frame (RFC 6455 section 5.2).

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
    """Encode one message as one text frame."""
    return text_header(len(payload)) + payload


def websocket_frames(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """Encode a batch as WebSocket text frames, one per message."""
    parts: list[bytes] = []
    for position, message in enumerate(messages, first):
        if message.endswith(NO_NAMES):
            continue
        start = b'{"id":"%b-%d",' % (entry.encode(), position)
        parts += text_header(len(start) + len(message) - 1), start, message[1:]
    return b"".join(parts)


def sse_event(payload: bytes) -> bytes:
    """Encode one message as an event without an id, which keeps a client's `Last-Event-ID`."""
    return b"data: %b\n\n" % _on_one_line(payload)


def sse_events(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """Encode a batch as server-sent events, one per message. Messages are single lines."""
    parts: list[bytes] = []
    for position, message in enumerate(messages, first):
        if message.endswith(NO_NAMES):
            continue
        text = message if message.isascii() else _on_one_line(message)
        number = b"%b-%d" % (entry.encode(), position)
        parts += b"id: ", number, b'\ndata: {"id":"', number, b'",', text[1:], b"\n\n"
    return b"".join(parts)


def _on_one_line(message: bytes) -> bytes:
    r"""Escape U+0085, U+2028 and U+2029, which are line breaks for some clients.

    Only CR, LF or both end a line of an event stream (HTML standard, section 9.2.6), but clients
    that split lines with a library function end them at these as well. In JSON they occur in
    strings only, where the escape means the same (RFC 8259 section 7). In UTF-8 no other character
    contains their bytes.
    """
    for character, escape in _LINE_BREAKS:
        message = message.replace(character, escape)
    return message


class _GapData(msgspec.Struct):
    requested: str
    oldest: str | None
    reason: str


class _GapMessage(msgspec.Struct):
    message_type: str
    data: _GapData


def gap_message(requested: str, oldest: str | None, reason: str) -> bytes:
    """Encode a gap message: messages are missing, or are sent again with new ids.

    Args:
        requested: the id after which the client expected messages.
        oldest: the id of the first batch after the gap; None if it is unknown.
        reason: for a person.
    """
    return msgspec.json.encode(_GapMessage("gap", _GapData(requested, oldest, reason)))


def gap_message_for(event: Gap | Rewind | EpochChanged) -> bytes:
    """Encode the gap message of an event of the stream reader."""
    match event:
        case Gap():
            return gap_message(event.requested, event.oldest, event.reason)
        case Rewind(since=None):
            reason = "the server lost what it had published; what it still has comes again"
            return gap_message(event.seen, None, reason)
        case Rewind():
            reason = f"the server lost what followed {event.since}; it comes again under new ids"
            return gap_message(event.seen, None, reason)
        case EpochChanged():
            return gap_message("0-0", None, RESET)


WEBSOCKET = Encoding("websocket", websocket_frames, websocket_frame)
SSE = Encoding("sse", sse_events, sse_event, is_sse=True)
