"""What the streams in Redis still hold, read once for all clients that ask for it.

Each read gives a small ring (`ring.Ring`), so that its forms are made once, too. Clients that
lost their connection together resume behind different messages of the same moment; reads
therefore begin at whole seconds, so that such clients ask for the same.
"""

import asyncio
from collections import OrderedDict
from typing import Final

from redis.asyncio import Redis

from certbus.events import discontinuity
from certbus.ids import ORIGIN, Cursor, EntryId, parse_entry_id
from certbus.keys import Keys
from certbus.reader import history
from gateway import notices
from gateway.ring import Ring

_BATCHES: Final = {"full": 4}  # in one read; a batch of full messages may have 4 MiB
_BATCHES_ELSE: Final = 16
_READS_AT_ONCE: Final = 4
_LAST_SEQ: Final = (1 << 64) - 1
_UNBOUNDED: Final = 1 << 62

_Key = tuple[str, EntryId]


class History:
    """Reads streams for lagging clients, and remembers what it read for the next ones.

    Args:
        client: primary or replica.
        keys: names of the keys.
        max_bytes: remembered; the least recently used gives way.
    """

    def __init__(self, client: Redis, keys: Keys, max_bytes: int) -> None:
        self._redis = client
        self._keys = keys
        self._max_bytes = max_bytes
        self._chunks: OrderedDict[_Key, Ring] = OrderedDict()
        self._reads: dict[_Key, asyncio.Task[Ring]] = {}
        self._places = asyncio.Semaphore(_READS_AT_ONCE)

    @property
    def size(self) -> int:
        """Bytes remembered."""
        return sum(chunk.size for chunk in self._chunks.values())

    async def read(self, stream: str, cursor: Cursor) -> Ring | None:
        """Read a piece of a stream in which something follows a message.

        Args:
            stream: its name.
            cursor: the message. If its batch is retained, the piece begins with it or before it.

        Returns:
            Consecutive batches that end behind the message, or with it where that is the newest
            of all. None if everything retained is older.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        after = _second_before(cursor.entry)
        found: Ring | None = None
        while True:
            chunk = await self._chunk(stream, after)
            if chunk.is_empty:
                return found
            newest = chunk.head.cursor
            if newest.entry > cursor.entry:
                return chunk
            if newest.entry == cursor.entry:
                if cursor.position is not None:  # only this piece knows where the batch ends
                    return chunk
                found = chunk
            after = newest.entry

    async def _chunk(self, stream: str, after: EntryId) -> Ring:
        key = (stream, after)
        chunk = self._chunks.get(key)
        if chunk is not None:
            self._chunks.move_to_end(key)
            return chunk
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda _: self._reads.pop(key))
        # Whoever waits may leave; the others still want it.
        return await asyncio.shield(task)

    async def _fetch(self, key: _Key) -> Ring:
        stream, after = key
        async with self._places:
            count = _BATCHES.get(stream, _BATCHES_ELSE)
            batches = await history(self._redis, self._keys, stream, str(after), count)
        # Numbered below every position of the live ring: a client that is here is not there.
        chunk = Ring(stream, _UNBOUNDED, first=-_UNBOUNDED)
        for batch in batches:
            if not chunk.is_empty:
                broken = discontinuity(stream, chunk.head.cursor.entry, batch.id, batch.prev)
                if broken is not None:
                    chunk.append_notice(notices.of_event(broken))
            chunk.append(batch.id, batch.prev, batch.messages)
        if batches:
            self._chunks[key] = chunk
            while len(self._chunks) > 1 and self.size > self._max_bytes:
                self._chunks.popitem(last=False)
        return chunk


def _second_before(entry: EntryId) -> EntryId:
    """The last id of the second before the one in which `entry` is."""
    ms = entry.ms // 1000 * 1000
    return EntryId(ms - 1, _LAST_SEQ) if ms else parse_entry_id(ORIGIN)
