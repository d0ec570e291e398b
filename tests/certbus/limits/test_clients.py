"""Limits over all gateways: rates, and connections that outlive no gateway."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.errors import is_out_of_memory
from certbus.limits.clients import (
    AdmittedCount,
    ConnectionCounts,
    ConnectionDelta,
    Rate,
    RateLimits,
)
from tests.certbus.bus import KEYS
from tests.certbus.proxy import LossyProxy
from tests.certbus.servers import RedisServer

SLOW = Rate(5, 0.001, 0, 10, 3600, 1000)


def requests(rate: Rate, count: int, key: str = "address:192.0.2.1") -> list[tuple[str, Rate]]:
    return [(key, rate)] * count


@pytest.fixture
def rates(client: Redis) -> RateLimits:
    return RateLimits(client, KEYS)


def gateway(client: Redis, name: str, ttl: float = 30) -> ConnectionCounts:
    return ConnectionCounts(client, KEYS, name, ttl)


async def sums(client: Redis) -> dict[str, int]:
    counts: dict[Any, Any] = await client.hgetall(KEYS.connections)
    return {address.decode(): int(count) for address, count in counts.items()}


async def test_a_bucket_allows_its_capacity(rates: RateLimits) -> None:
    decisions = await rates.acquire(requests(SLOW, 7))
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False] * 2
    assert [decision.remaining for decision in decisions] == [4, 3, 2, 1, 0, 0, 0]
    assert decisions[4].retry_after == 0
    assert 990 < decisions[5].retry_after <= 1000
    assert 4990 < decisions[5].reset <= 5000


async def test_each_key_has_a_bucket_of_its_own(rates: RateLimits) -> None:
    await rates.acquire(requests(SLOW, 6))
    (other,) = await rates.acquire(requests(SLOW, 1, "token:alice"))
    assert other.allowed


async def test_a_request_is_allowed_after_retry_after(rates: RateLimits) -> None:
    rate = Rate(2, 20, 0, 10, 3600, 1000)
    refused = (await rates.acquire(requests(rate, 3)))[2]
    assert not refused.allowed
    assert 0 < refused.retry_after <= 0.05
    await asyncio.sleep(refused.retry_after)  # what a client would do
    (again,) = await rates.acquire(requests(rate, 1))
    assert again.allowed


async def test_a_burst_exceeds_the_bucket_once(rates: RateLimits) -> None:
    rate = Rate(2, 0.001, 3, 60, 3600, 1000)
    decisions = await rates.acquire(requests(rate, 6))
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert 59 < decisions[5].retry_after <= 60, "the burst is sooner back than a token"


async def test_the_window_refuses_what_the_bucket_would_allow(rates: RateLimits) -> None:
    rate = Rate(1000, 1000, 0, 10, 3600, 4)
    decisions = await rates.acquire(requests(rate, 5))
    assert [decision.allowed for decision in decisions] == [True] * 4 + [False]
    assert decisions[4].retry_after > 1
    assert rate.limit == 4


async def test_the_window_slides(rates: RateLimits) -> None:
    """The window before weighs less and less, and never is more allowed than in any window."""
    rate = Rate(1000, 1000, 0, 10, 0.4, 8)
    allowed: list[float] = []
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        (decision,) = await rates.acquire(requests(rate, 1))
        if decision.allowed:
            allowed.append(time.monotonic())
        await asyncio.sleep(min(decision.retry_after, 0.01))
    assert len(allowed) >= 16, "it forgets"
    # Two fixed windows estimate a sliding one: within it, up to twice is possible, not more.
    busiest = max(sum(start <= then < start + 0.4 for then in allowed) for start in allowed)
    assert busiest <= 2 * 8


async def test_refused_requests_take_nothing(rates: RateLimits, client: Redis) -> None:
    await rates.acquire(requests(SLOW, 5))
    before = await client.dump(KEYS.rate("address:192.0.2.1"))
    await rates.acquire(requests(SLOW, 100))
    assert await client.dump(KEYS.rate("address:192.0.2.1")) == before


async def test_rates_expire_once_they_limit_nothing(rates: RateLimits, client: Redis) -> None:
    rate = Rate(2, 10, 1, 1, 5, 100)
    await rates.acquire(requests(rate, 1))
    assert 0 < await client.pttl(KEYS.rate("address:192.0.2.1")) <= 10_000
    assert await client.keys(f"{KEYS.prefix}limit:*") == [KEYS.rate("address:192.0.2.1").encode()]


async def test_concurrent_requests_get_exactly_the_capacity(rates: RateLimits) -> None:
    rate = Rate(100, 0.001, 0, 10, 3600, 1000)
    rounds = await asyncio.gather(*(rates.acquire(requests(rate, 5)) for _ in range(60)))
    assert sum(decision.allowed for decisions in rounds for decision in decisions) == 100


async def test_connections_are_admitted_up_to_the_limit_per_address(client: Redis) -> None:
    one, two = gateway(client, "one"), gateway(client, "two")
    await one.reset()
    await two.reset()
    assert await one.apply(None, 10, [ConnectionDelta("a", 0, 7)]) == [AdmittedCount(7, full=False)]
    assert await two.apply(None, 10, [ConnectionDelta("a", 0, 7), ConnectionDelta("b", 0, 1)]) == [
        AdmittedCount(3, full=False),
        AdmittedCount(1, full=False),
    ]
    assert await sums(client) == {"a": 10, "b": 1, "*": 11}
    assert await one.apply(None, 10, [ConnectionDelta("a", 5)]) == [AdmittedCount(0, full=False)]
    assert await two.apply(None, 10, [ConnectionDelta("a", 3, 9)]) == [AdmittedCount(2, full=False)]


async def test_connections_are_admitted_up_to_the_total_limit(client: Redis) -> None:
    one, two = gateway(client, "one"), gateway(client, "two")
    await one.reset()
    await two.reset()
    assert await one.apply(5, 4, [ConnectionDelta("a", 0, 9)]) == [AdmittedCount(4, full=False)]
    assert await two.apply(5, 4, [ConnectionDelta("b", 0, 2), ConnectionDelta("c", 0, 1)]) == [
        AdmittedCount(1, full=True),
        AdmittedCount(0, full=True),
    ]
    assert (await sums(client))["*"] == 5


async def test_limits_lowered_below_the_count_admit_no_connection(client: Redis) -> None:
    one = gateway(client, "one")
    await one.reset()
    await one.apply(10, 10, [ConnectionDelta("a", 0, 8)])
    assert await one.apply(3, 3, [ConnectionDelta("a", 8, 1)]) == [AdmittedCount(0, full=False)]
    assert await sums(client) == {"a": 8, "*": 8}


async def test_a_lost_reply_is_noticed_and_changes_no_count(
    client: Redis, server: RedisServer, tmp_path: Path
) -> None:
    async with LossyProxy(server.socket, tmp_path / "p") as proxy, connect(proxy.url) as lossy:
        one = gateway(lossy, "one")
        await one.reset()
        await one.apply(None, 9, [ConnectionDelta("b", 0, 2)])
        proxy.lose_next(b"EVALSHA")
        # Redis has run it; the client repeats it on a new connection.
        assert await one.apply(None, 9, [ConnectionDelta("a", 0, 3)]) is None, "count anew"
        assert proxy.lost == 1
        await one.reset()
        assert await one.apply(None, 9, [ConnectionDelta("a", 0, 3), ConnectionDelta("b", 2)]) == [
            AdmittedCount(3, full=False),
            AdmittedCount(0, full=False),
        ]
    assert await sums(client) == {"a": 3, "b": 2, "*": 5}


async def test_closed_connections_leave_no_count(client: Redis) -> None:
    one = gateway(client, "one")
    await one.reset()
    await one.apply(None, None, [ConnectionDelta("a", 0, 3), ConnectionDelta("b", 0, 1)])
    await one.apply(None, None, [ConnectionDelta("a", 0), ConnectionDelta("b", 0)])
    assert await sums(client) == {}
    await one.apply(None, None, [ConnectionDelta("a", 0, 2)])
    await one.remove()
    assert await client.keys(f"{KEYS.prefix}limit:*") == []


async def test_a_gateway_without_heartbeat_expires(client: Redis) -> None:
    dead, alive = gateway(client, "dead", ttl=0.3), gateway(client, "alive")
    await alive.reset()
    await dead.reset()
    await dead.apply(None, None, [ConnectionDelta("a", 0, 3), ConnectionDelta("b", 0, 1)])
    await alive.apply(None, None, [ConnectionDelta("a", 0, 2)])
    assert (await sums(client))["a"] == 5
    deadline = time.monotonic() + 10
    while await sums(client) != {"a": 2, "*": 2}:
        assert time.monotonic() < deadline
        await alive.apply(None, None, [])
        await asyncio.sleep(0.02)
    assert await dead.apply(None, None, []) is None, "it has to count anew"


async def test_everything_expires_with_the_last_gateway(client: Redis) -> None:
    one = gateway(client, "one", ttl=0.05)
    await one.reset()
    await one.apply(None, None, [ConnectionDelta("a", 0, 3)])
    lifetimes = [await client.pttl(key) for key in await client.keys(f"{KEYS.prefix}limit:*")]
    assert len(lifetimes) == 3
    assert all(0 < lifetime <= 200 for lifetime in lifetimes)


async def test_a_gateway_unknown_to_an_emptied_redis_is_notified(client: Redis) -> None:
    one = gateway(client, "one")
    assert await one.apply(None, None, [ConnectionDelta("a", 0, 3)]) is None
    await one.reset()
    await one.apply(None, None, [ConnectionDelta("a", 0, 3)])
    await client.flushall()
    assert await one.apply(None, None, []) is None


async def test_three_gateways_racing_are_exact(client: Redis) -> None:
    async def fill(counts: ConnectionCounts) -> int:
        await counts.reset()
        held = 0
        for _ in range(100):
            (let_in,) = await counts.apply(None, 100, [ConnectionDelta("a", held, 1)]) or []
            held += let_in.count
        return held

    held = await asyncio.gather(*(fill(gateway(client, name)) for name in ("x", "y", "z")))
    assert sum(held) == 100
    assert await sums(client) == {"a": 100, "*": 100}


@pytest.fixture
def full(executable: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(executable, tmp_path, maxmemory=1)
    server.start()
    yield server
    server.kill()


async def test_a_full_redis_counts_connections_but_no_rates(full: RedisServer) -> None:
    async with connect(full.url) as client:
        with pytest.raises(redis.exceptions.RedisError) as refused:
            await RateLimits(client, KEYS).acquire(requests(SLOW, 2))
        assert is_out_of_memory(refused.value)
        assert await client.keys("*") == []
        counts = gateway(client, "one")
        await counts.reset()
        assert await counts.apply(None, 2, [ConnectionDelta("a", 0, 3)]) == [
            AdmittedCount(2, full=False)
        ]
        assert await counts.apply(None, 2, [ConnectionDelta("b", 0, 1)]) == [
            AdmittedCount(1, full=False)
        ]
        assert await sums(client) == {"a": 2, "b": 1, "*": 3}
