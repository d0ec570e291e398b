"""Look-up: where a certificate stands in the streams, by its SHA-256 or SHA-1.

The deduplication marks are the index. They live at least as long as the streams retain.
"""

from typing import Any

import msgspec
from redis.asyncio import Redis

from certbus.ids import ORIGIN, parse_cursor, parse_entry_id
from certbus.keys import WINDOW_MS, Keys
from certbus.reader import read_batch

_SHA1_KEPT = 10  # bytes, as in lua/marks.lua


class Place(msgspec.Struct, frozen=True):
    """Where a certificate was published.

    Attributes:
        entry: entry id of the batch.
        position: of the message in it, the same in every stream.
    """

    entry: str
    position: int


async def locate(client: Redis, keys: Keys, digest: bytes) -> Place | None:
    """Find the newest place of a certificate.

    Args:
        client: primary or replica.
        keys: names of the keys.
        digest: SHA-256 (32 bytes) or SHA-1 (20 bytes) of the certificate's DER. Of a SHA-1 only
            the first 10 bytes are compared: check the message that is found.

    Raises:
        ValueError: the digest has another length.
    """
    (seconds, _) = await client.time()
    found: Any = await client.hmget(keys.head, "remember", "last")
    remember, last = found
    # As in lua/marks.lua: where a clock was set back, the newest marks are in a window to come.
    newest = parse_entry_id(ORIGIN if last is None else last.decode())
    now = max(seconds * 1000, newest.ms)
    for window in range(now // WINDOW_MS, (now - int(remember or 0)) // WINDOW_MS - 1, -1):
        match len(digest):
            case 32:
                place = await _find_sha256(client, f"{keys.marks}{window}", digest)
            case 20:
                place = await _find_sha1(client, f"{keys.sha1_marks}{window}", digest)
            case length:
                raise ValueError(f"a digest of {length} bytes is neither a SHA-256 nor a SHA-1")
        if place is not None:
            cursor = parse_cursor(place.decode())
            return Place(str(cursor.entry), cursor.position or 0)
    return None


async def _find_sha256(client: Redis, prefix: str, digest: bytes) -> bytes | None:
    bucket = digest[0] << 6 | digest[1] >> 2
    place: Any = await client.hget(f"{prefix}:{bucket}", digest[1:])
    return place if place is None else bytes(place)


async def _find_sha1(client: Redis, prefix: str, digest: bytes) -> bytes | None:
    key = f"{prefix}:{digest[0]}"
    # A place is never mistaken for a digest: it is longer.
    rest: Any = digest[1:_SHA1_KEPT]  # lpos() is annotated for text, but takes bytes as well
    at: Any = await client.lpos(key, rest, rank=-1)
    if at is None:
        return None
    place: Any = await client.lindex(key, at + 1)
    return bytes(place)


async def message_at(client: Redis, keys: Keys, stream: str, place: Place) -> bytes | None:
    """Read one message of a stream; None if the stream does not retain it (any more)."""
    batch = await read_batch(client, keys, stream, place.entry)
    return None if batch is None else batch.messages[place.position]
