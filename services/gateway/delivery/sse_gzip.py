"""Compressed server-sent events (gzip, RFC 1952), for clients that accept it.

A response is one gzip member. Its data are deflate blocks (RFC 1951), in parts that end at a byte
and refer to no earlier part, so that any part can follow any other. A slot is compressed once, for
all clients; only the header of the member is sent to each of them. The member has neither a last
block nor a checksum: the stream has no end, and each client receives other parts.
"""

import zlib
from collections.abc import Sequence
from typing import Final

from gateway.delivery.encoding import Encoding, sse_event, sse_events

GZIP_HEADER: Final = bytes.fromhex("1f8b08000000000000ff")
"""Deflate, no flags, no time, of an unknown system (RFC 1952 section 2.3)."""

_LEVEL: Final = 6
_MEMORY_LEVEL: Final = 9


def compressed(data: bytes) -> bytes:
    """Compress a part of a response; the client can decompress all of it at once."""
    deflate = zlib.compressobj(
        _LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, _MEMORY_LEVEL, zlib.Z_FILTERED
    )
    return deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)


def compressed_events(entry: str, first: int, messages: Sequence[bytes]) -> bytes:
    """Encode a batch as compressed server-sent events, one per message."""
    events = sse_events(entry, first, messages)
    return compressed(events) if events else b""


def _compressed_event(payload: bytes) -> bytes:
    return compressed(sse_event(payload))


def accepts_gzip(header: str | None) -> bool:
    """Return whether an Accept-Encoding prefers gzip to no encoding (RFC 9110 section 12.5.3).

    Args:
        header: its value; None if the request has none. A malformed weight is 0.
    """
    weights: dict[str, float] = {}
    for item in (header or "").lower().split(","):
        coding, _, parameter = item.partition(";")
        name, _, value = parameter.partition("=")
        weights[coding.strip()] = _weight(value) if name.strip() == "q" else 1.0
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0


SSE_GZIP = Encoding("sse_gzip", compressed_events, _compressed_event, is_sse=True)
