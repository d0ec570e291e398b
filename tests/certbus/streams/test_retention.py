import asyncio

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.cluster import snapshot
from certbus.streams.batch import Batch
from tests.certbus.bus import KEYS, Worker, batch, rejected, retain, stored
from tests.certbus.servers import RedisServer
from tests.retained import oldest


async def held(client: Redis) -> dict[str, tuple[int, int, int]]:
    streams = (await snapshot(client, KEYS)).streams
    return {stream.name: (stream.entries, stream.messages, stream.bytes) for stream in streams}


async def test_counts_are_those_of_the_streams(one: Worker, client: Redis) -> None:
    lease = await one.take()
    for number in range(20):
        names = [f"{number}-{position}" for position in range(5)]
        await one.publisher.publish(lease, batch(number * 5, names, size=500))
    counted = await held(client)
    for name in ("full", "lite", "domains"):
        entries, messages, size = counted[name]
        assert (entries, messages) == (20, 100)
        used = await client.memory_usage(KEYS.stream(name), samples=0)
        assert used is not None
        assert 0.6 < size / used < 1.6, f"{name}: {size} counted, {used} used"


async def test_a_byte_budget_removes_the_oldest(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=50_000))
    lease = await worker.take()
    for number in range(40):
        await worker.publisher.publish(lease, batch(number, [str(number)], size=10_000))
    removed = await worker.trimmer.trim()
    assert removed > 0
    counted = await held(client)
    entries, messages, size = counted["full"]
    assert size + 10_000 > 45_000
    assert size <= 50_000
    assert entries == messages == await client.xlen(KEYS.stream("full"))
    assert counted["lite"][:2] == (40, 40)  # a budget is its stream's own
    kept = await stored(client, "full")
    assert [batch.first for batch in kept] == list(range(40 - entries, 40))
    assert await worker.trimmer.trim() == 0


async def test_batches_beyond_the_maximum_age_are_removed(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=10**9, max_age_secs=0.2))
    lease = await worker.take()
    await worker.publisher.publish(lease, batch(0, ["old"]))
    stop = asyncio.Event()
    trimming = asyncio.create_task(worker.trimmer.run(stop))
    async with asyncio.timeout(10):
        while await oldest(client, KEYS, "lite") is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    stop.set()
    await trimming
    young = Worker(client, "two", retention=retain(max_bytes=10**9, max_age_secs=3600))
    await worker.publisher.publish(lease, batch(1, ["new"]))
    assert await young.trimmer.trim() == 0
    assert [batch.first for batch in await stored(client)] == [1]
    # The chain continues across the removed batches.
    (kept,) = await stored(client)
    assert kept.prev != "0-0"


async def test_much_to_remove_is_removed_in_small_steps(client: Redis) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=0))
    lease = await worker.take()
    for number in range(20):
        names = [f"{number}-{position}" for position in range(20)]
        await worker.publisher.publish(lease, batch(number * 20, names, size=20_000))
    await client.config_resetstat()
    await worker.trimmer.trim()
    calls = (await client.info("commandstats"))["cmdstat_xtrim"]["calls"]
    assert calls >= 4  # 4 MB in steps of 1 MB, and the other streams
    assert await held(client) == dict.fromkeys(await held(client), (0, 0, 0))


async def test_rejected_entries_are_bounded(one: Worker, client: Redis) -> None:
    lease = await one.take()
    raw = b"\0" * 16_000
    for number in range(20):
        window = [rejected(number * 64 + position, raw) for position in range(64)]
        await one.publisher.publish(lease, Batch(number * 64, number * 64 + 64, [], 0, window))
    await one.trimmer.trim()
    entries, _, size = (await held(client))["rejected"]
    assert size <= 16 * 1024 * 1024
    assert entries == await client.xlen(KEYS.rejected)
    assert 900 < entries < 1280


async def test_counts_heal_when_a_stream_was_deleted_by_hand(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await client.delete(KEYS.stream("full"))
    await one.trimmer.trim()
    counted = await held(client)
    assert counted["full"] == (0, 0, 0)
    assert counted["lite"][:2] == (1, 1)


async def test_it_outlives_a_redis_that_is_away(client: Redis, server: RedisServer) -> None:
    worker = Worker(client, "one", retention=retain(max_bytes=0))
    lease = await worker.take()
    stop = asyncio.Event()
    trimming = asyncio.create_task(worker.trimmer.run(stop))
    server.kill()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(trimming), 0.5)
    server.start()
    await worker.publisher.publish(lease, batch(0, ["a"]))
    async with asyncio.timeout(10):
        while await client.xlen(KEYS.stream("lite")):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    stop.set()
    await trimming


async def test_a_key_of_another_type_is_an_error_and_no_outage(client: Redis, one: Worker) -> None:
    await client.set(KEYS.stream("lite"), "not a stream")
    async with asyncio.timeout(20):
        with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
            await one.trimmer.run(asyncio.Event())
