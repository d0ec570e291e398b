"""Resuming: from a cursor to where a `Follower` goes on, as a gateway does it for its clients."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from certbus.events import FUTURE, NOT_RETAINED
from certbus.ids import ORIGIN, Cursor, parse_entry_id
from certbus.keys import Keys
from certbus.reader import oldest, read_batch, read_head

UNKNOWN = "unknown id: redis has lost it"


class Start(msgspec.Struct, frozen=True):
    """Where to go on.

    Attributes:
        after: entry id for `Follower.after`.
        rest: (id, JSON text) of the messages that follow the cursor in its own batch.
        gap: why something between the cursor and these is missing; None if nothing is.
    """

    after: str
    rest: list[tuple[str, bytes]] = []
    gap: str | None = None


async def resume(client: Redis, keys: Keys, stream: str, cursor: Cursor) -> Start:
    """Find what follows a cursor.

    Args:
        client: the primary.
        keys: names of the keys.
        stream: its name.
        cursor: without a position, it need not be the id of any batch: what is newer follows.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    before: Any = await client.xrevrange(keys.stream(stream), max=str(cursor.entry), count=1)
    if not before:
        return await _before_all(client, keys, stream, cursor)
    newest = before[0][0].decode()
    if cursor.position is None:
        return Start(newest)
    if newest == str(cursor.entry):
        return Start(newest, await _rest(client, keys, stream, newest, cursor.position))
    last = (await read_head(client, keys)).last
    is_future = cursor.entry > parse_entry_id(last)
    return Start(last, gap=FUTURE) if is_future else Start(newest, gap=UNKNOWN)


async def _before_all(client: Redis, keys: Keys, stream: str, cursor: Cursor) -> Start:
    """Everything retained follows."""
    first = await oldest(client, keys, stream)
    if first is None:
        return Start((await read_head(client, keys)).last)
    entry, prev = cursor.entry, parse_entry_id(first.prev)
    if str(entry) == ORIGIN or prev == entry or (prev < entry and cursor.position is None):
        return Start(ORIGIN)
    return Start(ORIGIN, gap=NOT_RETAINED if prev > entry else UNKNOWN)


async def _rest(
    client: Redis, keys: Keys, stream: str, entry: str, position: int
) -> list[tuple[str, bytes]]:
    batch = await read_batch(client, keys, stream, entry)
    messages = [] if batch is None else batch.messages
    return [(f"{entry}-{at}", text) for at, text in enumerate(messages) if at > position]
