"""What a client is told about messages it will not get, or get again."""

from typing import Final

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

WORDS: Final[dict[Reason, str]] = {
    "reset": RESET,
    "lost": "the server lost what it had published after an id before this one; it comes again",
    "trimmed": NOT_RETAINED_REASON,
    "future": CURSOR_AHEAD_REASON,
    "unknown": "unknown id: the server has lost it",
}
"""What a client reads as the reason of a gap."""


class _Data(msgspec.Struct):
    requested: str
    oldest: str | None
    reason: str


class _Message(msgspec.Struct):
    message_type: str
    data: _Data


def gap_message(requested: str, oldest: str | None, reason: str) -> bytes:
    """Say that messages are missing, or come under new ids.

    Args:
        requested: the id behind which they were expected.
        oldest: the id of the first batch that comes instead; None if it is not known yet.
        reason: for a person.
    """
    return msgspec.json.encode(_Message("gap", _Data(requested, oldest, reason)))


def for_event(event: Gap | Rewind | EpochChanged) -> bytes:
    """Say what the reader of the streams has noticed."""
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
