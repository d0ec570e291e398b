"""Look-up: where a certificate stands in the streams, by its SHA-256 or SHA-1.

The deduplication marks are the index. They live at least as long as the streams retain.
"""

import msgspec
from redis.asyncio import Redis

from certbus.ids import parse_cursor
from certbus.keys import WINDOW_MS, Keys
from certbus.reader import read_batch

_SHA1_KEPT = 9  # bytes: one in the bucket's number, eight in the field


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
            the first 9 bytes are compared: check the message that is found.

    Raises:
        ValueError: the digest has another length.
    """
    match len(digest):
        case 32:
            marks, field = keys.marks, digest[1:]
        case 20:
            marks, field = keys.sha1_marks, digest[1:_SHA1_KEPT]
        case length:
            raise ValueError(f"a digest of {length} bytes is neither a SHA-256 nor a SHA-1")
    bucket = digest[0] << 6 | digest[1] >> 2
    (seconds, _), remember = await client.time(), await client.hget(keys.head, "remember")
    newest, oldest = seconds * 1000 // WINDOW_MS, (seconds * 1000 - int(remember or 0)) // WINDOW_MS
    async with client.pipeline(transaction=False) as pipeline:
        for window in range(newest, oldest - 1, -1):
            pipeline.hget(f"{marks}{window}:{bucket}", field)
        found = [place for place in await pipeline.execute() if place is not None]
    if not found:
        return None
    cursor = parse_cursor(found[0].decode())
    return Place(str(cursor.entry), cursor.position or 0)


async def message_at(client: Redis, keys: Keys, stream: str, place: Place) -> bytes | None:
    """Read one message of a stream; None if the stream does not retain it (any more)."""
    batch = await read_batch(client, keys, stream, place.entry)
    return None if batch is None else batch.messages[place.position]
