"""History read from Redis in pieces: whoever resumes behind any message gets all that follow it."""

import re

from certbus.continuity import Place
from certbus.events import FORGOTTEN
from certbus.ids import parse_entry_id
from gateway.frames import SSE
from gateway.history import History
from tests.gateway.press import Press

BATCHES = 9  # read four at a time, so that pieces end with the fourth and the eighth
BATCH = 5


async def test_every_message_can_be_resumed_from(press: Press) -> None:
    entries = [await press.print(BATCH) for _ in range(BATCHES)]
    history = History(press.redis, press.keys, 1 << 20)
    for number in range(BATCHES * BATCH - 1):
        place = Place(parse_entry_id(entries[number // BATCH]), number % BATCH)
        got: list[int] = []
        while not got or got[-1] < BATCHES * BATCH - 1:
            piece = await history.read("full", place)
            data, at, _ = piece.ring.resume(place.cursor, SSE)
            while at is not piece.ring.head:
                more, at = piece.ring.read(at, SSE, 1)
                data += more
            got += map(int, re.findall(rb'"serial_number":"(\d+)"', data))
            place = piece.place(at)
        assert got == list(range(number + 1, BATCHES * BATCH))


async def test_nothing_retained_that_is_newer(press: Press) -> None:
    entry = await press.print(BATCH)
    history = History(press.redis, press.keys, 1 << 20)
    newest = parse_entry_id(entry)
    assert (await history.read("full", Place(newest, BATCH - 1))).links
    assert not (await history.read("full", Place(newest._replace(ms=newest.ms + 60_000)))).links


async def test_lost_marks_are_reported_before_what_may_come_again(press: Press) -> None:
    first = await press.print(1)
    for key in [key async for key in press.redis.scan_iter(f"{press.keys.marks}*")]:
        await press.redis.delete(key)
    again = await press.print(1)
    history = History(press.redis, press.keys, 1 << 20)
    piece = await history.read("full", Place(parse_entry_id(first), 0))
    at = piece.ring.resume(Place(parse_entry_id(first), 0).cursor, SSE)[1]
    data = b""
    while at is not piece.ring.head:
        more, at = piece.ring.read(at, SSE, 1)
        data += more
    notice, message = data.find(FORGOTTEN.encode()), data.find(b'"serial_number":"1"')
    assert 0 < notice < message
    assert again.encode() in data
