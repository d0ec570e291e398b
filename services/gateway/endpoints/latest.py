"""/latest.json: the newest messages of the stream `lite`, as certstream's own server has them."""

from typing import Final

import msgspec

from gateway.delivery.ring_buffer import Ring
from gateway.endpoints.schemas import LiteMessage
from gateway.http.errors import disabled_response
from gateway.http.messages import CORS_HEADERS, JSON, Response

_COUNT: Final = 25


class Latest(msgspec.Struct, frozen=True):
    """The newest messages.

    Attributes:
        messages: the newest first.
    """

    messages: list[LiteMessage]


def latest(ring: Ring | None) -> Response:
    """Show the newest messages in a ring."""
    if ring is None:
        return disabled_response("streams.lite")
    texts = [with_id(number, text) for number, text in ring.latest(_COUNT)]
    return Response(200, (JSON, *CORS_HEADERS), b'{"messages":[%b]}' % b",".join(texts))


def with_id(number: str, message: bytes) -> bytes:
    """A message with its id."""
    return b'{"id":"%b",%b' % (number.encode(), message[1:])
