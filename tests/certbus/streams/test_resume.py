"""From a cursor to the position where a reader resumes."""

import asyncio

from redis.asyncio import Redis

from certbus.ids import parse_cursor
from certbus.streams.events import CURSOR_AHEAD_REASON, NOT_RETAINED_REASON, RESET
from certbus.streams.reader import read_head
from certbus.streams.resume import UNKNOWN, ResumePoint, resolve_cursor
from tests.certbus.bus import KEYS, Worker, following, retain
from tests.certbus.streams.test_reader import names, published
from tests.retained import oldest


async def start(client: Redis, cursor: str) -> ResumePoint:
    return await resolve_cursor(client, KEYS, "lite", parse_cursor(cursor))


async def test_the_rest_of_a_batch_follows_its_message(one: Worker, client: Redis) -> None:
    lease = await one.take()
    first = await published(one, lease, 0, "a", "b", "c")
    await published(one, lease, 3, "d")
    found = await start(client, f"{first}-0")
    assert [number for number, _ in found.rest] == [f"{first}-1", f"{first}-2"]
    assert [b'"b"' in text or b'"c"' in text for _, text in found.rest] == [True, True]
    async with following(client, ["lite"], after={"lite": found.after}) as reading:
        await reading.until(lambda events: names(events) == ["d"])
    assert found.ends_batch
    assert (await start(client, f"{first}-2")) == ResumePoint(first, ends_batch=True)
    assert (await start(client, first)) == ResumePoint(first, ends_batch=True)


async def test_the_rest_of_an_unreadable_batch_is_a_gap(one: Worker, client: Redis) -> None:
    first = await published(one, await one.take(), 0, "a", "b")
    stream = KEYS.stream("lite")
    await client.delete(stream)
    await client.xadd(stream, {"m": "no batch"}, id=first)
    found = await start(client, f"{first}-0")
    assert (found.after, found.rest, found.ends_batch) == (first, [], False)
    assert found.gap is not None
    assert found.gap.startswith("unreadable: ")


async def test_a_moment_needs_to_be_no_batch(one: Worker, client: Redis) -> None:
    assert await start(client, "5") == ResumePoint("0-0", gap=CURSOR_AHEAD_REASON)
    lease = await one.take()
    last = await published(one, lease, 0, "a")
    assert await start(client, "0") == ResumePoint("0-0")
    assert await start(client, "5") == ResumePoint("0-0", gap=RESET)
    ms = int(last.partition("-")[0])
    assert await start(client, str(ms + 600_000)) == ResumePoint(last, gap=CURSOR_AHEAD_REASON)
    await asyncio.sleep(0.01)
    assert await start(client, str(ms + 1)) == ResumePoint(last), "before TIME: nothing came since"


async def test_an_unknown_id_is_a_gap(one: Worker, client: Redis) -> None:
    lease = await one.take()
    first = await published(one, lease, 0, "a")
    assert await start(client, "99999999999999-0-0") == ResumePoint(first, gap=CURSOR_AHEAD_REASON)
    assert await start(client, "1-1-0") == ResumePoint("0-0", gap=RESET)
    ms = first.partition("-")[0]
    index, last = 1, first
    while last.startswith(f"{ms}-"):  # in the same millisecond
        last = await published(one, lease, index, f"a{index}")
        index += 1
    for cursor in (f"{ms}-999-0", f"{ms}-999"):
        assert (await start(client, cursor)).gap == UNKNOWN
    assert (await start(client, str(int(ms) + 1))).gap is None


async def test_a_trimmed_position_is_a_gap(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=400))
    lease = await worker.take()
    ids = [await published(worker, lease, index, str(index)) for index in range(6)]
    await worker.trimmer.trim()
    kept = await oldest(client, KEYS, "lite")
    assert kept is not None
    assert kept.prev in ids[1:]
    assert await start(client, kept.prev) == ResumePoint(kept.prev)
    # Whether that batch had more messages is no longer known.
    assert await start(client, f"{kept.prev}-0") == ResumePoint(kept.prev, gap=NOT_RETAINED_REASON)
    assert await start(client, f"{ids[0]}-0") == ResumePoint(kept.prev, gap=NOT_RETAINED_REASON)
    assert await start(client, "0") == ResumePoint("0-0")


async def test_ids_of_an_earlier_epoch_are_known_after_its_first_batch_was_trimmed(
    client: Redis,
) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=400))
    lease = await worker.take()
    ids = [await published(worker, lease, index, str(index)) for index in range(6)]
    await worker.trimmer.trim()
    assert (await read_head(client, KEYS)).first == ids[0]
    assert (await start(client, ids[0])).gap == NOT_RETAINED_REASON
    for earlier in ("1-0", "1-0-0", str(int(ids[0].partition("-")[0]) - 1)):
        assert await start(client, earlier) == ResumePoint("0-0", gap=RESET), earlier
