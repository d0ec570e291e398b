"""What clients get in silence, so that they and everything between know that the stream lives."""

from functools import lru_cache
from typing import Final

from gateway.delivery.encoding import websocket_frame

PING: Final = b"\x89\x00"
"""A ping without data (RFC 6455 section 5.5.2)."""

COMMENT: Final = b":\n\n"
"""An event stream's comment line, which clients ignore."""


@lru_cache(maxsize=1)
def heartbeat_frame(now: int) -> bytes:
    """A heartbeat message and a ping. The bytes are shared by the clients of one second.

    Args:
        now: Unix time in seconds.
    """
    return websocket_frame(b'{"message_type":"heartbeat","timestamp":%d}' % now) + PING
