"""One recent message of a stream; a sample while none has come."""

from importlib.resources import files
from typing import Final

from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.ring_buffer import Ring
from gateway.endpoints.latest import with_id
from gateway.http.messages import CORS_HEADERS, JSON, Response

_LOOK: Final = 25  # messages, for one that has names
_SAMPLES: Final = {
    stream: (files("gateway") / "samples" / f"{stream}.json").read_bytes().rstrip()
    for stream in ("full", "domains")
}


def example(stream: str, ring: Ring | None) -> Response:
    """Show the newest message in a ring.

    Args:
        stream: "full" or "domains".
        ring: None if the stream is not offered.
    """
    for number, message in ring.latest(_LOOK) if ring is not None else ():
        if not message.endswith(NO_NAMES):
            return Response(200, (JSON, *CORS_HEADERS), with_id(number, message))
    return Response(200, (JSON, *CORS_HEADERS), _SAMPLES[stream])
