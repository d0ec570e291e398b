"""One recent message of a stream; a sample while none has come."""

from importlib.resources import files
from typing import Final

from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.ring_buffer import Ring
from gateway.endpoints.latest import numbered
from gateway.http.messages import JSON, OPEN, Answer

_LOOK: Final = 25  # messages, for one that has names
_SAMPLES: Final = {
    stream: (files("gateway") / "samples" / f"{stream}.json").read_bytes().rstrip()
    for stream in ("full", "domains")
}


def example(stream: str, ring: Ring | None) -> Answer:
    """Show the newest message in a ring.

    Args:
        stream: "full" or "domains".
        ring: None if the stream is not offered.
    """
    for number, message in ring.latest(_LOOK) if ring is not None else ():
        if not message.endswith(NO_NAMES):
            return Answer(200, (JSON, *OPEN), numbered(number, message))
    return Answer(200, (JSON, *OPEN), _SAMPLES[stream])
