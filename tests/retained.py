"""What streams retain, for tests that read it whole."""

from typing import Any

from redis.asyncio import Redis

from certbus.keys import STREAMS, Keys
from certbus.streams.codec import Codec
from certbus.streams.events import StreamBatch, Unreadable, decode_entry


async def history(
    client: Redis, keys: Keys, stream: str, after: str, count: int
) -> list[StreamBatch]:
    """Return what a stream retains after an entry id, at most `count` batches, oldest first.

    An entry that is no batch is left out, and the next ones are read instead: an empty list means
    that nothing follows.
    """
    batches: list[StreamBatch] = []
    while len(batches) < count:
        wanted = count - len(batches)
        entries: Any = await client.xrange(keys.stream(stream), min=f"({after}", count=wanted)
        batches += _decoded(stream, entries)
        if len(entries) < wanted:
            break
        after = entries[-1][0].decode()
    return batches


async def whole(client: Redis, keys: Keys) -> dict[str, list[StreamBatch]]:
    """Return every batch that each stream retains at one moment, oldest first."""
    async with client.pipeline(transaction=True) as together:
        for stream in STREAMS:
            together.xrange(keys.stream(stream))
        answers = await together.execute()
    return {
        stream: _decoded(stream, entries) for stream, entries in zip(STREAMS, answers, strict=True)
    }


async def oldest(client: Redis, keys: Keys, stream: str) -> StreamBatch | None:
    """Return the oldest batch that a stream retains."""
    batches = await history(client, keys, stream, "0-0", 1)
    return batches[0] if batches else None


async def newest(client: Redis, keys: Keys, stream: str) -> StreamBatch | None:
    """Return the newest batch of a stream."""
    batches = _decoded(stream, await client.xrevrange(keys.stream(stream), count=1))
    return batches[0] if batches else None


def _decoded(stream: str, entries: Any) -> list[StreamBatch]:
    codec = Codec()
    batches = (decode_entry(codec, stream, entry.decode(), fields) for entry, fields in entries)
    return [batch for batch in batches if not isinstance(batch, Unreadable)]
