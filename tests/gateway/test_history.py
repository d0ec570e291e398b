"""History read from Redis in pieces: whoever resumes behind any message gets all that follow it."""

import re

from certbus.ids import Cursor, parse_entry_id
from gateway.frames import SSE
from gateway.history import History
from tests.gateway.press import Press

BATCHES = 9  # read four at a time, so that pieces end with the fourth and the eighth
BATCH = 5


async def test_every_message_can_be_resumed_from(press: Press) -> None:
    entries = [await press.print(BATCH) for _ in range(BATCHES)]
    history = History(press.redis, press.keys, 1 << 20)
    for number in range(BATCHES * BATCH - 1):
        cursor = Cursor(parse_entry_id(entries[number // BATCH]), number % BATCH)
        got: list[int] = []
        while not got or got[-1] < BATCHES * BATCH - 1:
            chunk = await history.read("full", cursor)
            assert chunk is not None
            data, place = chunk.resume(cursor, SSE)
            while place is not chunk.head:
                more, place = chunk.read(place, SSE, 1)
                data += more
            got += map(int, re.findall(rb'"serial_number":"(\d+)"', data))
            cursor = Cursor(place.cursor.entry, None)
        assert got == list(range(number + 1, BATCHES * BATCH))


async def test_nothing_retained_that_is_newer(press: Press) -> None:
    entry = await press.print(BATCH)
    history = History(press.redis, press.keys, 1 << 20)
    newest = parse_entry_id(entry)
    assert await history.read("full", Cursor(newest, BATCH - 1)) is not None
    assert await history.read("full", Cursor(newest._replace(ms=newest.ms + 60_000), None)) is None
