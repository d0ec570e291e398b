"""Find a certificate in the streams by its SHA-256 or SHA-1.

The deduplication marks are the index. They live at least as long as the streams retain.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis

from certbus.clock import to_ms
from certbus.ids import EntryId, parse_cursor, parse_entry_id
from certbus.keys import WINDOW_MS, Keys
from certbus.store import round_trip, text
from certbus.streams.codec import Codec, UndecodableBatch

_SHA1_KEPT: Final = 10  # bytes, as in publish.lua
_SHA256_SIZE: Final = 32
_SHA1_SIZE: Final = 20

_LONG: Final = 512 * 1024
"""Packed bytes of a batch that takes milliseconds to unpack: a thread unpacks it."""

log = structlog.get_logger(__name__)


class StreamLocation(msgspec.Struct, frozen=True):
    """Where a certificate was published.

    Attributes:
        entry: entry id of the batch.
        position: of the message in it, the same in every stream.
    """

    entry: str
    position: int


async def find_by_fingerprint(client: Redis, keys: Keys, digest: bytes) -> StreamLocation | None:
    """Find the newest location of a certificate, in two or three round trips.

    Args:
        client: primary or replica.
        keys: names of the keys.
        digest: SHA-256 (32 bytes) or SHA-1 (20 bytes) of the certificate's DER. Of a SHA-1 only
            the first 10 bytes are compared: check the message that is found.

    Raises:
        ValueError: the digest has another length.
    """
    if len(digest) not in (_SHA256_SIZE, _SHA1_SIZE):
        raise ValueError(f"a digest of {len(digest)} bytes is neither a SHA-256 nor a SHA-1")
    commands = ("TIME",), ("HGET", keys.head, "remember"), ("HGETALL", keys.windows)
    time, remember, stored = await round_trip(client, commands)
    now = to_ms(time)
    oldest = (now - int(remember or 0)) // WINDOW_MS
    # As in lua/marks.lua: windows whose number is ahead of TIME are found by the hash alone.
    newest_ids = {
        window: EntryId(window * WINDOW_MS, 0) for window in range(oldest, now // WINDOW_MS + 1)
    }
    for field, value in stored.items():
        window, _, name = field.decode().partition(".")
        if name == "last":
            newest_ids[int(window)] = parse_entry_id(value.decode())
    windows = sorted(newest_ids, key=newest_ids.__getitem__, reverse=True)
    find = _find_sha256 if len(digest) == _SHA256_SIZE else _find_sha1
    place = await find(client, keys, windows, digest)
    if place is None:
        return None
    cursor = parse_cursor(text(place))
    return StreamLocation(str(cursor.entry), cursor.position or 0)


async def _find_sha256(
    client: Redis, keys: Keys, windows: Sequence[int], digest: bytes
) -> bytes | None:
    bucket = digest[0] << 6 | digest[1] >> 2
    commands = (("HGET", f"{keys.marks}{window}:{bucket}", digest[1:]) for window in windows)
    return next((place for place in await round_trip(client, commands) if place is not None), None)


async def _find_sha1(
    client: Redis, keys: Keys, windows: Sequence[int], digest: bytes
) -> bytes | None:
    lists = [f"{keys.sha1_marks}{window}:{digest[0]}" for window in windows]
    # A location is never taken for a digest: it is longer.
    commands = (("LPOS", key, digest[1:_SHA1_KEPT], "RANK", -1) for key in lists)
    for key, at in zip(lists, await round_trip(client, commands), strict=True):
        if at is not None:
            place: Any = await client.lindex(key, at + 1)
            return None if place is None else bytes(place)
    return None


async def message_at(client: Redis, keys: Keys, stream: str, place: StreamLocation) -> bytes | None:
    """Read one message of a stream; None if the stream does not retain it (any more)."""
    entries: Any = await client.xrange(keys.stream(stream), min=place.entry, max=place.entry)
    for _, fields in entries:
        if len(fields.get(b"m", b"")) > _LONG:
            return await asyncio.to_thread(_unpack, stream, place, fields)
        return _unpack(stream, place, fields)
    return None


def _unpack(stream: str, place: StreamLocation, fields: Mapping[bytes, bytes]) -> bytes | None:
    try:
        return Codec().pick(fields[b"codec"].decode(), fields[b"m"], place.position)
    except (KeyError, UndecodableBatch) as error:
        log.error("unreadable batch", stream=stream, id=place.entry, error=str(error))
        return None
