import time

import msgspec
from redis.asyncio import Redis

from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from tests.certbus.bus import KEYS, LOG, Worker, log_status


async def test_a_circuit_is_kept_and_seen(one: Worker, client: Redis) -> None:
    await one.take()
    circuits = CircuitStore(client, KEYS)
    assert await circuits.load(LOG) == CircuitStatus()
    broken = CircuitStatus("open", 5, int(time.time() * 1000) + 60_000)
    await circuits.failed(LOG, CircuitStatus("closed", 4), "get-sth: 500")
    await circuits.failed(LOG, broken, "get-sth: 503 " + "x" * 1000)
    stored = await circuits.load(LOG)
    assert msgspec.structs.replace(stored, retry_at=broken.retry_at) == broken
    assert stored.retry_at is not None
    assert broken.retry_at is not None
    assert abs(stored.retry_at - broken.retry_at) < 5_000
    seen = await log_status(client)
    assert (seen.circuit, seen.failures, seen.errors) == ("open", 5, 2)
    assert seen.retry_at is not None
    assert abs(seen.retry_at - broken.retry_at) < 5_000
    assert seen.last_error is not None
    assert seen.last_error.startswith("get-sth: 503 x")
    assert len(seen.last_error) == 500

    await circuits.save(LOG, CircuitStatus())
    assert await circuits.load(LOG) == CircuitStatus()
    seen = await log_status(client)
    assert (seen.circuit, seen.failures, seen.errors, seen.retry_at) == ("closed", 0, 2, None)


async def test_an_unreadable_circuit_is_closed(client: Redis) -> None:
    await client.hset(KEYS.log(LOG), mapping={"circuit": "ajar", "failures": "many"})
    assert await CircuitStore(client, KEYS).load(LOG) == CircuitStatus()


async def test_a_pause_is_no_longer_after_the_clock_of_redis_was_set_back(
    one: Worker, client: Redis
) -> None:
    """The stored time is moved, because the clock of this Redis cannot be."""
    await one.take()
    circuits = CircuitStore(client, KEYS)
    now = int(time.time() * 1000)
    await circuits.failed(LOG, CircuitStatus("closed", 1, now + 500), "get-sth: 503")
    await client.hincrby(KEYS.log(LOG), "retry_at", 3600 * 1000)
    stored = await circuits.load(LOG)
    assert stored.retry_at is not None
    assert stored.retry_at <= int(time.time() * 1000) + 500
    await client.hdel(KEYS.log(LOG), "retry_pause")  # as the previous release stores it
    stored = await circuits.load(LOG)
    assert stored.retry_at is not None
    assert stored.retry_at > now + 1000
