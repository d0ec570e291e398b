"""/latest.json and the examples: recent messages, as other certstream servers show them."""

from importlib.resources import files
from typing import Final

import msgspec

from certhttp.protocol import Request
from ctfilter import FilterError
from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.ring_buffer import Ring
from gateway.endpoints.schemas import LiteMessage
from gateway.endpoints.subscribe import unknown_parameter
from gateway.http.errors import disabled_response, filter_response
from gateway.http.messages import CORS_HEADERS, JSON, Response

_COUNT: Final = 25
_SAMPLES: Final = {
    stream: (files("gateway") / "samples" / f"{stream}.json").read_bytes().rstrip()
    for stream in ("full", "domains")
}


class Latest(msgspec.Struct, frozen=True):
    """The newest messages.

    Attributes:
        messages: the newest first.
    """

    messages: list[LiteMessage]


def latest(ring: Ring | None, request: Request) -> Response:
    """Return the newest messages in a ring; None: the stream is disabled."""
    if ring is None:
        return disabled_response("streams.lite")
    if (refusal := unknown_parameter(request)) is not None:
        return refusal
    for name, value in request.fields:
        if name in ("domain", "issuer", "match"):
            reason = "filters apply to streams, not to this page"
            return filter_response(FilterError(reason, value, value, 0, "", name))
    texts = [with_id(number, text) for number, text in ring.latest(_COUNT)]
    return Response(200, (JSON, *CORS_HEADERS), b'{"messages":[%b]}' % b",".join(texts))


def example(stream: str, ring: Ring | None) -> Response:
    """Return a recent message with names; a sample if the ring has none.

    Args:
        stream: "full" or "domains".
        ring: None if the stream is disabled.
    """
    for number, message in ring.latest(_COUNT) if ring is not None else ():
        if not message.endswith(NO_NAMES):
            return Response(200, (JSON, *CORS_HEADERS), with_id(number, message))
    return Response(200, (JSON, *CORS_HEADERS), _SAMPLES[stream])


def with_id(number: str, message: bytes) -> bytes:
    """Return a message with its id."""
    return b'{"id":"%b",%b' % (number.encode(), message[1:])
