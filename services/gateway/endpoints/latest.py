"""/latest.json: the newest messages of the stream `lite`, as certstream's own server has them."""

from typing import Final

import msgspec

from gateway.delivery.ring_buffer import Ring
from gateway.endpoints.schemas import LiteMessage
from gateway.http.messages import JSON, OPEN, Answer, disabled

_COUNT: Final = 25


class Latest(msgspec.Struct, frozen=True):
    """The newest messages.

    Attributes:
        messages: the newest first.
    """

    messages: list[LiteMessage]


def latest(ring: Ring | None) -> Answer:
    """Show the newest messages in a ring."""
    if ring is None:
        return disabled("streams.lite")
    texts = [numbered(number, text) for number, text in ring.latest(_COUNT)]
    return Answer(200, (JSON, *OPEN), b'{"messages":[%b]}' % b",".join(texts))


def numbered(number: str, message: bytes) -> bytes:
    """A message with its id."""
    return b'{"id":"%b",%b' % (number.encode(), message[1:])
