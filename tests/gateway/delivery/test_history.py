"""History read from Redis in pieces: resuming after any message returns all later ones."""

import asyncio
import gc
import re
from typing import Any, cast

from certbus.ids import parse_entry_id
from certbus.streams.continuity import OLDEST, ReaderPosition, decide
from certbus.streams.events import FORGOTTEN
from gateway.delivery.encoding import SSE, WEBSOCKET
from gateway.delivery.history import HistoryPage, HistoryReader
from gateway.delivery.ring_buffer import Ring
from tests.gateway.model_redis import KEYS, ModelRedis
from tests.gateway.publishing import Press
from tests.gateway.test_delivery_model import virtual_time

BATCHES = 9  # read four at a time, so that pieces end with the fourth and the eighth
BATCH = 5

FULL = Ring("full", 1)


async def test_every_message_can_be_resumed_from(press: Press) -> None:
    entries = [await press.print(BATCH) for _ in range(BATCHES)]
    history = HistoryReader(press.redis, press.keys, 1 << 20)
    for number in range(BATCHES * BATCH - 1):
        place = ReaderPosition(parse_entry_id(entries[number // BATCH]), number % BATCH)
        got: list[int] = []
        while not got or got[-1] < BATCHES * BATCH - 1:
            piece = await history.read(FULL, place)
            data, at, _ = piece.ring.read_from_cursor(place.cursor, SSE)
            while at is not piece.ring.head:
                more, at = piece.ring.read(at, SSE, 1)
                data += more
            got += map(int, re.findall(rb'"serial_number":"(\d+)"', data))
            place = piece.reader_position(at)
        assert got == list(range(number + 1, BATCHES * BATCH))


async def test_the_cache_is_bounded_with_what_is_encoded(press: Press) -> None:
    """All clients share the encoded bytes of a page, which the cache holds with it."""
    entries = [parse_entry_id(await press.print(BATCH)) for _ in range(BATCHES)]
    places = [ReaderPosition(entries[number], 0) for number in (0, 4)]
    history = HistoryReader(press.redis, press.keys, 1 << 30)
    first, second = [await history.read(FULL, place) for place in places]
    assert [await history.read(FULL, place) for place in places] == [first, second]
    history = HistoryReader(press.redis, press.keys, history.size)
    first, second = [await history.read(FULL, place) for place in places]
    second.ring.read(second.ring.first_after, SSE, 1 << 20)
    assert await history.read(FULL, places[1]) is second
    assert history.size == second.ring.size
    assert await history.read(FULL, places[0]) is not first


async def test_the_size_is_that_of_the_pages_and_dropped_ones_are_not_found(press: Press) -> None:
    """Readers of a page may encode it before and after the cache drops it."""
    entries = [parse_entry_id(await press.print(BATCH)) for _ in range(BATCHES)]
    history = HistoryReader(press.redis, press.keys, 1 << 30)
    before = ReaderPosition(entries[0]._replace(ms=entries[0].ms - 1))
    places = [before, *(ReaderPosition(entries[number], 0) for number in (0, 2, 4, 7))]
    pages: list[HistoryPage] = []

    def check() -> None:
        held = list(history._pages.values())
        assert history.size == sum(page.ring.size for page in held)
        found = [*history._at.values(), *history._after.values()]
        assert all(any(each is page for page in held) for each in found)

    for draw in range(40):
        place = places[draw * 7 % 5]
        pages.append(await history.read(FULL, OLDEST if draw % 9 == 8 else place))
        for page in (pages[-1], pages[draw // 2]):
            page.ring.read(page.ring.first_after, (SSE, WEBSOCKET)[draw % 2], 1 << 20)
            check()
        if draw == 10:
            assert len(history._pages) > 2
            history._max_bytes = history.size // 2
        if draw == 30:
            history.clear()
            assert (history.size, history._at, history._after) == (0, {}, {})
    assert len({id(page) for page in pages}) > 8, "pages were dropped and read again"


async def test_a_dropped_page_leaves_the_batches_of_a_later_one(press: Press) -> None:
    entries = [parse_entry_id(await press.print(BATCH)) for _ in range(BATCHES)]
    history = HistoryReader(press.redis, press.keys, 1 << 30)
    places = [ReaderPosition(entries[number], 0) for number in (4, 2)]
    first = await history.read(FULL, places[0])
    later = await history.read(FULL, places[1])  # with two batches of the first page
    history._max_bytes = 0
    assert await history.read(FULL, places[1]) is later
    assert list(history._pages.values()) == [later] != [first]
    assert await history.read(FULL, places[0]) is later


async def test_the_page_of_the_oldest_is_used(press: Press) -> None:
    entries = [parse_entry_id(await press.print(BATCH)) for _ in range(BATCHES)]
    history = HistoryReader(press.redis, press.keys, 1 << 30)
    oldest = await history.read(FULL, OLDEST)
    second, third = [
        await history.read(FULL, ReaderPosition(entries[number], 0)) for number in (4, 8)
    ]
    assert await history.read(FULL, OLDEST) is oldest
    history._max_bytes = history.size - 1
    assert await history.read(FULL, OLDEST) is oldest
    assert list(history._pages.values()) == [third, oldest]
    assert second.ring.on_encoded is None


async def test_nothing_retained_that_is_newer(press: Press) -> None:
    entry = await press.print(BATCH)
    history = HistoryReader(press.redis, press.keys, 1 << 20)
    newest = parse_entry_id(entry)
    assert (await history.read(FULL, ReaderPosition(newest, BATCH - 1))).links
    assert not (
        await history.read(FULL, ReaderPosition(newest._replace(ms=newest.ms + 60_000)))
    ).links


async def test_lost_marks_are_reported_before_what_may_come_again(press: Press) -> None:
    first = await press.print(1)
    for key in [key async for key in press.redis.scan_iter(f"{press.keys.marks}*")]:
        await press.redis.delete(key)
    again = await press.print(1)
    history = HistoryReader(press.redis, press.keys, 1 << 20)
    piece = await history.read(FULL, ReaderPosition(parse_entry_id(first), 0))
    at = piece.ring.read_from_cursor(ReaderPosition(parse_entry_id(first), 0).cursor, SSE)[1]
    data = b""
    while at is not piece.ring.head:
        more, at = piece.ring.read(at, SSE, 1)
        data += more
    notice, message = data.find(FORGOTTEN.encode()), data.find(b'"serial_number":"1"')
    assert 0 < notice < message
    assert again.encode() in data


async def test_one_second_is_read_once_however_much_was_published_in_it(press: Press) -> None:
    count = 60
    async with press.redis.pipeline(transaction=True) as pipeline:
        for number in range(count):  # all in one millisecond
            fields: dict[Any, Any] = {"prev": f"5-{number - 1}" if number else "0-0", "log": "a"}
            fields |= {"first": number, "last": number, "n": 1, "codec": "none", "m": "{}"}
            pipeline.xadd(press.keys.stream("full"), fields, id=f"5-{number}")
        pipeline.hset(press.keys.head, mapping={"last": f"5-{count - 1}", "epoch": "one"})
        await pipeline.execute()
    history = HistoryReader(press.redis, press.keys, 1)  # remembers nothing but the last piece
    reads_before = await times_read(press)
    place, got = OLDEST, 0
    while True:
        piece = await history.read(FULL, place)
        if not piece.links:
            break
        got += len(piece.links)
        place = piece.reader_position(piece.ring.head)
    assert got == count
    # A piece has four batches, the last read finds nothing, and the oldest id is looked up once.
    assert await times_read(press) - reads_before <= count // 4 + 2


async def times_read(press: Press) -> int:
    stats = await press.redis.info("commandstats")  # without commands that were never called
    return int(stats["cmdstat_xrange"]["calls"]) if "cmdstat_xrange" in stats else 0


async def test_the_oldest_is_not_what_was_trimmed(press: Press) -> None:
    entries = [await press.print(BATCH) for _ in range(BATCHES)]
    history = HistoryReader(press.redis, press.keys, 1 << 20)
    assert str((await history.read(FULL, OLDEST)).links[0].id) == entries[0]
    await press.redis.xtrim(press.keys.stream("full"), minid=entries[2], approximate=False)
    assert str((await history.read(FULL, OLDEST)).links[0].id) == entries[2]
    # Nor is the piece used for a cursor in it.
    place = ReaderPosition(parse_entry_id(entries[3]), 0)
    assert str((await history.read(FULL, place)).links[0].id) == entries[2]


def test_a_read_is_shared_only_with_clients_that_can_use_the_page() -> None:
    """One has a whole batch, one a message of it; the page after the batch is read before both."""

    async def scenario() -> None:
        redis = ModelRedis(lambda: 0.1)
        redis.now, redis.data.epoch = 30_000, "epoch"
        for number in range(200):
            redis.data.publish(f"{10_000 + number}-0", number, with_first=True)
        history, live = HistoryReader(cast("Any", redis), KEYS, 1 << 20), Ring("lite", 1000)
        batch = parse_entry_id("10150-0")
        places = [ReaderPosition(batch), ReaderPosition(batch, 0)]
        waiting = [asyncio.create_task(history.read(live, place)) for place in places]
        await asyncio.sleep(0.15)  # they read the id of the oldest batch first
        others = [
            ReaderPosition(parse_entry_id(f"{n}-0"), 0, "epoch") for n in (10_000, 10_030, 10_060)
        ]
        known = ReaderPosition(batch, None, "epoch")
        reads = [asyncio.create_task(history.read(live, each)) for each in (*others, known)]
        pages = await asyncio.gather(*waiting)
        await asyncio.gather(*reads)
        found = [decide(at, page.view(batch)) for at, page in zip(places, pages, strict=True)]
        assert [decision.gap for decision in found] == [None, None]
        assert pages[1].links[0].id == batch

    with virtual_time() as runner:
        runner.run(scenario())


def test_a_read_that_fails_after_its_callers_have_left_is_not_reported() -> None:
    async def scenario() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        redis = ModelRedis(lambda: 0.1)
        history, live = HistoryReader(cast("Any", redis), KEYS, 1 << 20), Ring("lite", 1000)
        known = ReaderPosition(parse_entry_id("10000-0"), None, "epoch")
        callers = [asyncio.create_task(history.read(live, at)) for at in (known, OLDEST)]
        await asyncio.sleep(0.05)
        redis.is_reachable = False
        for caller in callers:
            caller.cancel()
        await asyncio.sleep(1)
        assert all(each.cancelled() for each in callers)
        callers.clear()  # their tracebacks refer to the reads
        del caller
        gc.collect()
        assert not reported

    with virtual_time() as runner:
        runner.run(scenario())
