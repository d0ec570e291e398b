"""Serving clients from Redis: those whose place in the ring is gone, or was never in it.

One short-lived task a client. It writes what the streams hold at the client's own pace until the
ring takes over. What cannot be had any more is told with a gap message, never silently left out:

    a cursor older than everything retained     gap, then the oldest there is
    a cursor that Redis does not know (rewound) gap, then what follows
    a cursor from the future                    gap, then what comes from now on
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from redis.asyncio import Redis

from certbus.errors import UNAVAILABLE
from certbus.events import FUTURE, NOT_RETAINED
from certbus.ids import ORIGIN, Cursor, parse_entry_id
from certbus.keys import Keys
from certbus.reader import read_head
from gateway import notices
from gateway.client import Client
from gateway.history import History
from gateway.lane import WRITE_BYTES
from gateway.meter import Meter
from gateway.ring import Overrun, Position, Ring
from gateway.shared_read import SharedRead

_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds until the ring or Redis is asked again


class Replay:
    """Brings clients from their cursor to the ring.

    Args:
        history: the streams in Redis.
        primary: what is asked whether an id is from the future.
        keys: names of the keys.
        begun: entry ids behind which the rings begin, by stream; empty while not known.
        group: for the clients' tasks.
        meter: counts gaps.
    """

    def __init__(
        self,
        history: History,
        primary: Redis,
        keys: Keys,
        begun: Callable[[], Mapping[str, str]],
        group: asyncio.TaskGroup,
        meter: Meter,
    ) -> None:
        self._meter = meter
        self._history = history
        self._head = SharedRead(partial(read_head, primary, keys))
        self._begun = begun
        self._group = group

    def begin(self, client: Client, cursor: Cursor) -> None:
        """Serve a client that has everything up to `cursor`, until the ring takes over."""
        self._group.create_task(self._run(client, cursor))

    async def _run(self, client: Client, cursor: Cursor) -> None:
        """Serve a client; what goes wrong with it ends it alone."""
        try:
            await self._serve(client, cursor)
        except Exception as error:  # noqa: BLE001
            client.fail(error)

    async def _serve(self, client: Client, cursor: Cursor) -> None:
        ring = client.lane.ring
        waits = 0
        while await client.writable():
            if not ring.has_begun and (entry := self._begun().get(ring.stream)):
                ring.start(entry)
            if client.resume(cursor):
                return
            try:
                gone_on = await self._go_on(client, cursor)
            except UNAVAILABLE:  # the reader of the streams says so in the log
                gone_on = cursor
            if gone_on is None:
                return
            # Nothing new: the ring is about to have what Redis has, or Redis cannot be reached.
            waits = waits + 1 if gone_on == cursor else 0
            cursor = gone_on
            await asyncio.sleep(_PAUSES[min(waits, len(_PAUSES)) - 1] if waits else 0)

    async def _go_on(self, client: Client, cursor: Cursor) -> Cursor | None:
        """Write one piece. The client may take long to read it, so no more is held meanwhile.

        Returns:
            What the client has then, None if it is in the ring.
        """
        stream, form = client.lane.ring.stream, client.lane.form
        chunk = await self._history.read(stream, cursor)
        if client.gone:
            return None
        if chunk is None:
            return await self._at_the_end(client, cursor)
        try:
            data, at = chunk.resume(cursor, form)
        except Overrun:
            data, at = self._tell(client, cursor, chunk)
        if not data:
            data, at = chunk.read(at, form, WRITE_BYTES)
        client.write(data, at)
        return Cursor(at.cursor.entry, None) if at is chunk.head else at.cursor

    def _tell(self, client: Client, cursor: Cursor, chunk: Ring) -> tuple[bytes, Position]:
        """Tell of the gap between a cursor and a piece of history that does not continue it.

        Returns:
            The notice, perhaps with what follows it, and the place behind them.
        """
        form = client.lane.form
        if str(cursor.entry) == ORIGIN:
            return b"", chunk.tail
        if cursor.entry <= chunk.tail.cursor.entry:
            self._meter.gap("trimmed")
            notice = notices.gap(_text(cursor), chunk.oldest, NOT_RETAINED)
            return form.notice(notice), chunk.tail
        data, place = chunk.resume(Cursor(cursor.entry, None), form)
        oldest = str(place.cursor.entry)
        self._meter.gap("lost")
        notice = notices.gap(_text(cursor), oldest, "unknown id: the server has lost it")
        return form.notice(notice) + data, place

    async def _at_the_end(self, client: Client, cursor: Cursor) -> Cursor | None:
        """Everything that Redis retains of the stream is older than the cursor."""
        ring = client.lane.ring
        last = parse_entry_id((await self._head()).last)
        if client.gone:
            return None
        if cursor.entry > last:
            reason = FUTURE
            place = ring.head
            self._meter.gap("future")
        elif ring.tail.cursor.entry > cursor.entry:
            reason = NOT_RETAINED
            place = ring.tail
            self._meter.gap("trimmed")
        else:
            return cursor
        client.tell(notices.gap(_text(cursor), None, reason))
        client.follow(place)
        return None


def _text(cursor: Cursor) -> str:
    entry, position = cursor
    return str(entry) if position is None else f"{entry}-{position}"
