"""Redis loses data under clients: each message that it still holds arrives, or a gap before it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from certbus.streams.codec import Codec
from gateway.config import Settings
from tests.certbus.servers import RedisServer
from tests.gateway.client_helpers import Message, Raw, certificates, receive, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press, message
from tests.waiting import until

SMALL_RING = Settings(ring_bytes=1, stop_timeout=1)
TEXT, PING = 1, 9
BIG_BATCH = 100_000  # bytes of padding in each message


@pytest.fixture
async def redis(own_redis: RedisServer) -> AsyncIterator[Redis]:
    async with connect(own_redis.url) as client:
        yield client


async def put(client: Redis, keys: Keys, entry: str, number: int) -> None:
    """Publish certificate `number` as a batch with a chosen id, as another clock would give it."""
    stored: Any = await client.hget(keys.head, "last")
    last = (stored or b"0-0").decode()
    epoch = await client.hget(keys.head, "epoch")
    made = message(number, 0)
    async with client.pipeline(transaction=True) as pipeline:
        for stream in STREAMS:
            fields: dict[Any, Any] = {
                "prev": last,
                "log": "a" * 64,
                "first": number,
                "last": number,
                "n": 1,
            }
            fields |= {"codec": "zstd", "m": Codec().pack([getattr(made, stream)])}
            pipeline.xadd(keys.stream(stream), fields, id=entry)
        pipeline.hset(keys.head, mapping={"format": 1, "last": entry, "epoch": epoch or "one"})
        if last == "0-0":
            pipeline.hset(keys.head, "first", entry)
        await pipeline.execute()


@contextmanager
def elsewhere(server: RedisServer) -> Iterator[str]:
    """Run a killed server where its clients do not find it; gives the URL."""
    known, server.socket = server.socket, server.directory / "elsewhere"
    try:
        server.start()
        yield f"unix://{server.socket}"
        server.kill()
    finally:
        server.socket = known


@pytest.mark.parametrize("live", [True, False], ids=["ring full of the new epoch", "quiet"])
async def test_redis_comes_back_empty_while_a_client_reads_history(
    start: Start, own_redis: RedisServer, prefix: str, live: bool
) -> None:
    gateway = await (await start(SMALL_RING, own_redis.url)).following()
    async with Press(own_redis.url, prefix) as press:
        for _ in range(60):
            await press.print(2, padding=BIG_BATCH)
    async with await Raw.open(gateway.port) as slow:
        await slow.upgrade("/?cursor=0")
        assert serials([await slow.text()]) == [0]
        slow.read_nothing()
        own_redis.kill()
        with elsewhere(own_redis) as url:
            async with Press(url, prefix) as press:
                await press.start_at(1000)
                for _ in range(20):
                    await press.print(2, padding=BIG_BATCH if live else 10)
                await press.redis.save()
        own_redis.start()
        async with asyncio.timeout(20):
            async with websocket(gateway.ws + "/?cursor=0") as other:
                while 1039 not in serials(await certificates(other, 1)):
                    pass
            slow.read_again()
            got = await read_until(slow, 1039)
    numbers = [number(each) for each in got]
    assert None in numbers, "no gap"
    gap = numbers.index(None)
    assert numbers[:gap] == list(range(1, gap + 1)), "from the old epoch in order"
    assert [n for n in numbers[gap:] if n is not None] == list(range(1000, 1040))
    assert "emptied" in got[gap]["data"]["reason"]


async def test_a_cursor_of_the_epoch_before_gets_a_gap_and_everything_retained(
    start: Start, own_redis: RedisServer, prefix: str
) -> None:
    async with Press(own_redis.url, prefix) as press:
        old = await press.print(2)
    own_redis.kill()
    own_redis.start()
    async with Press(own_redis.url, prefix) as press:
        await press.start_at(1000)
        await press.print(3)
        gateway = await (await start(redis_url=own_redis.url)).following()
        for cursor in (old, f"{old}-1", f"{old}-0"):
            async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
                gap, *rest = await receive(client, 4)
                assert gap["message_type"] == "gap"
                assert gap["data"]["requested"] == cursor
                assert "emptied" in gap["data"]["reason"]
                assert gap["data"]["oldest"] == rest[0]["id"].rpartition("-")[0]
                assert serials(rest) == [1000, 1001, 1002]


async def test_a_primary_with_a_slow_clock_takes_over(
    start: Start, own_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    """The new primary lacks 30 and 40, and gives ids below theirs before the gateway finds it."""
    keys = Keys(prefix)
    gateway = await (await start(redis_url=own_redis.url)).following()
    async with websocket(gateway.ws + "/") as live, websocket(gateway.ws + "/") as second:
        for entry, n in (("1000-0", 10), ("2000-0", 20)):
            await put(redis, keys, entry, n)
        await redis.save()
        for entry, n in (("5000-0", 30), ("6000-0", 40)):
            await put(redis, keys, entry, n)
        before = await certificates(live, 4)
        assert serials(before) == [10, 20, 30, 40]
        own_redis.kill()
        with elsewhere(own_redis) as url:
            async with connect(url) as hidden:
                await put(hidden, keys, "3000-0", 31)
                await put(hidden, keys, "4000-0", 41)
                await hidden.save()
        own_redis.start()
        gap, *rest = await receive(live, 3)
        assert gap["message_type"] == "gap"
        assert gap["data"]["requested"] == "6000-0"
        assert "2000-0" in gap["data"]["reason"]
        assert serials(rest) == [31, 41]
        # Who was there when it happened and comes again gets the same, from the fork on.
        for cursor in (before[2]["id"], before[3]["id"]):
            async with websocket(f"{gateway.ws}/?cursor={cursor}") as client:
                gap, *rest = await receive(client, 3)
                assert gap["message_type"] == "gap"
                assert serials(rest) == [31, 41]
        await put(redis, keys, "7000-0", 50)
        assert serials(await certificates(live, 1)) == [50]
        assert serials(await certificates(second, 7)) == [10, 20, 30, 40, 31, 41, 50]
    # A gateway that has not seen the loss does not know where the new ids begin.
    other = await (await start(redis_url=own_redis.url)).following()
    for cursor in (before[2]["id"], before[3]["id"], "5000-0"):
        async with websocket(f"{other.ws}/?cursor={cursor}") as client:
            gap, *rest = await receive(client, 6)
            assert "unknown" in gap["data"]["reason"]
            assert gap["data"]["oldest"] == "1000-0"
            assert serials(rest) == [10, 20, 31, 41, 50]


async def test_a_client_is_at_a_batch_that_redis_lost(
    start: Start, own_redis: RedisServer, prefix: str, redis: Redis
) -> None:
    """It is read to from history when Redis loses its last second; new ids are above the lost."""
    gateway = await (await start(SMALL_RING, own_redis.url)).following()
    async with Press(own_redis.url, prefix) as press:
        for _ in range(40):
            await press.print(1, padding=BIG_BATCH)
        await press.redis.save()
        for _ in range(5):
            await press.print(1, padding=BIG_BATCH)
        async with websocket(gateway.ws + "/?cursor=0") as client:
            last = (await certificates(client, 45))[-1]["id"]
        own_redis.kill()
        own_redis.start()
        press.printed = 40
        for _ in range(20):
            await press.print(1, padding=BIG_BATCH)
        await until(lambda: has(gateway.ws, 59))
        async with websocket(f"{gateway.ws}/?cursor={last}") as client:
            gap, *rest = await receive(client, 21)
            assert gap["message_type"] == "gap"
            assert serials(rest) == list(range(40, 60))


async def has(url: str, wanted: int) -> bool:
    async with websocket(url + "/?cursor=0") as client:
        return wanted in serials(await certificates(client, wanted + 1))


def number(message: Message) -> int | None:
    """Which certificate this is; None for a gap."""
    return serials([message])[0] if "id" in message else None


async def read_until(client: Raw, wanted: int) -> list[Message]:
    """Certificates and gaps up to one certificate."""
    got: list[Message] = []
    while not got or number(got[-1]) != wanted:
        opcode, payload = await client.frame()
        if opcode == PING:
            continue
        assert opcode == TEXT
        found = json.loads(payload)
        if found["message_type"] != "heartbeat":
            got.append(found)
    return got
