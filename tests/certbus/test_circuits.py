from redis.asyncio import Redis

from certbus.circuits import Circuits, CircuitStatus
from tests.certbus.bus import KEYS, LOG, Worker, log_status


async def test_a_circuit_is_kept_and_seen(one: Worker, client: Redis) -> None:
    await one.take()
    circuits = Circuits(client, KEYS)
    assert await circuits.load(LOG) == CircuitStatus()
    broken = CircuitStatus("open", 5, 1_800_000_000_000)
    await circuits.failed(LOG, CircuitStatus("closed", 4), "get-sth: 500")
    await circuits.failed(LOG, broken, "get-sth: 503 " + "x" * 1000)
    assert await circuits.load(LOG) == broken
    seen = await log_status(client)
    assert (seen.circuit, seen.failures, seen.errors) == ("open", 5, 2)
    assert seen.retry_at == broken.retry_at
    assert seen.last_error is not None
    assert seen.last_error.startswith("get-sth: 503 x")
    assert len(seen.last_error) == 500

    await circuits.save(LOG, CircuitStatus())
    assert await circuits.load(LOG) == CircuitStatus()
    seen = await log_status(client)
    assert (seen.circuit, seen.failures, seen.errors, seen.retry_at) == ("closed", 0, 2, None)


async def test_what_cannot_be_read_is_a_closed_circuit(client: Redis) -> None:
    await client.hset(KEYS.log(LOG), mapping={"circuit": "ajar", "failures": "many"})
    assert await Circuits(client, KEYS).load(LOG) == CircuitStatus()
