import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.cluster import (
    ClusterRegistry,
    LogDescription,
    ProcessInfo,
    Rate,
    Snapshot,
    StreamStatus,
    WorkerLoads,
    snapshot,
)
from certbus.cluster_health import number
from certbus.keys import STREAMS
from tests.certbus.bus import KEYS, LOG, OTHER_LOG, Worker, batch, log_status
from tests.certbus.streams.test_full_redis import TOO_LITTLE, allow
from tests.waiting import until

ARGON = LogDescription(LOG, "Argon 2027", "https://log.example/", "Example", "rfc6962", "usable")


async def test_an_empty_redis_has_an_empty_directory(client: Redis) -> None:
    streams = [StreamStatus(name, False, 0, 0, 0) for name in STREAMS]
    rejected = StreamStatus("rejected", True, 0, 0, 0)
    seen = await snapshot(client, KEYS)
    assert seen == Snapshot(seen.now, None, None, [], [], [], [*streams, rejected])


async def test_a_log_is_described_and_followed(one: Worker, client: Redis) -> None:
    directory = ClusterRegistry(client, KEYS)
    other = LogDescription(OTHER_LOG, "other", "https://other.example/", "Other", "static-ct", "")
    await directory.describe([ARGON, other])
    await directory.describe([])
    status = await log_status(client)
    assert (status.name, status.operator, status.kind) == ("Argon 2027", "Example", "rfc6962")
    assert (status.start, status.next, status.owner, status.last_error) == (None, None, None, None)
    # To be described is not to be known: the log still has no start.
    assert await one.leases.acquire(LOG, None) is None

    lease = await one.take(start=3)
    await one.publisher.publish(lease, batch(3, ["a"]))
    await directory.record_status(LOG, {}, succeeded=True)
    status = await log_status(client)
    assert (status.start, status.next, status.published, status.owner) == (3, 4, 1, "one")
    assert status.last_success is not None
    assert status.last_error is None
    assert [log.log_id for log in (await snapshot(client, KEYS)).logs] == [LOG, OTHER_LOG]


async def test_a_log_whose_worker_was_killed_has_no_owner(one: Worker, client: Redis) -> None:
    await one.take(start=3)
    await client.delete(KEYS.lease(LOG))  # as it expires
    assert (await log_status(client)).owner is None


async def test_ages_are_bounded_by_the_clock_of_redis(one: Worker, client: Redis) -> None:
    directory, key = ClusterRegistry(client, KEYS), KEYS.log(LOG)
    await one.take(start=0)

    async def ages() -> tuple[float | None, float | None]:
        seen = await snapshot(client, KEYS)
        (log,) = seen.logs
        return log.tree_head_age(seen.now), log.ingest_delay(seen.now)

    assert await ages() == (None, None)
    now = (await snapshot(client, KEYS)).now
    await directory.record_status(LOG, {"newest": 100, "newest_timestamp": now - 90_000})
    await client.hset(key, "entry_timestamp", now - 30_000)
    head, delay = await ages()
    assert head is not None
    assert delay is not None
    assert 90 <= head < 150
    assert 30 <= delay < 90
    # The larger of the shown and the verified tree head counts; of equal sizes the newer one.
    await client.hset(key, mapping={"tree_size": 99, "tree_timestamp": now})
    assert (await ages())[0] == pytest.approx(head, abs=50)
    await client.hset(key, mapping={"tree_size": 100, "tree_timestamp": now + 10**9})
    assert (await ages())[0] == 0

    await client.hset(key, mapping={"entry_timestamp": 2**64 - 1})
    assert (await ages())[1] == 0
    await client.hset(key, mapping={"entry_timestamp": -5, "newest_timestamp": "x"})
    assert (await ages())[1] == pytest.approx(now / 1000, abs=100)


async def test_members_come_and_go(client: Redis) -> None:
    directory = ClusterRegistry(client, KEYS)
    await directory.heartbeat("worker", "w1", {"rate": 1.5, "host": "höst"})
    await directory.heartbeat("worker", "w2", {})
    await directory.heartbeat("gateway", "g1", {"clients": 7})
    seen = await snapshot(client, KEYS)
    assert seen.workers == [
        ProcessInfo("w1", {"id": "w1", "rate": "1.5", "host": "höst"}),
        ProcessInfo("w2", {"id": "w2"}),
    ]
    assert seen.gateways == [ProcessInfo("g1", {"id": "g1", "clients": "7"})]
    await directory.remove("worker", "w1")
    await directory.remove("gateway", "g1")
    seen = await snapshot(client, KEYS)
    assert [member.id for member in seen.workers] == ["w2"]
    assert seen.gateways == []


async def test_a_member_that_falls_silent_is_gone(client: Redis) -> None:
    silent, living = ClusterRegistry(client, KEYS, ttl=0.1), ClusterRegistry(client, KEYS)
    await silent.heartbeat("worker", "silent", {})
    await living.heartbeat("worker", "living", {})

    async def alone() -> bool:
        return len((await snapshot(client, KEYS)).workers) == 1

    await until(alone, "one worker left")
    await living.heartbeat("worker", "living", {})
    assert await client.zrange(KEYS.members("worker"), 0, -1) == [b"living"]

    async def forgotten() -> bool:
        return await client.exists(KEYS.member("worker", "silent")) == 0

    await until(forgotten, "its heartbeat has expired")


async def test_workers_see_the_leases_of_each_other(one: Worker, client: Redis) -> None:
    assert await ClusterRegistry(client, KEYS).load_workers() == WorkerLoads(None, {})
    directory = ClusterRegistry(client, KEYS)
    await directory.heartbeat("worker", "w1", {"loads": '{"log":1.5,"other":20}'})
    await directory.heartbeat("worker", "w2", {"loads": "what?"})
    await directory.heartbeat("worker", "w3", {"knows": 3})
    await directory.heartbeat("worker", "w4", {"knows": 0})
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    seen = await ClusterRegistry(client, KEYS).load_workers()
    assert seen.loads == {"w1": {"log": 1.5, "other": 20}, "w2": {}, "w3": {}}
    assert seen.epoch == (await snapshot(client, KEYS)).epoch is not None


async def test_a_full_redis_still_hears_heartbeats(client: Redis) -> None:
    directory = ClusterRegistry(client, KEYS)
    await directory.heartbeat("worker", "w1", {"rate": 1})
    await client.pexpire(KEYS.member("worker", "w1"), 1000)
    await allow(client, TOO_LITTLE)
    await directory.heartbeat("worker", "w1", {"rate": 2})
    await directory.heartbeat("gateway", "g1", {"clients": 7})
    await directory.record_status(LOG, {}, succeeded=True)
    assert await client.pttl(KEYS.member("worker", "w1")) > 1000
    seen = await snapshot(client, KEYS)
    assert seen.workers == [ProcessInfo("w1", {"id": "w1", "rate": "2"})]
    assert seen.gateways == [ProcessInfo("g1", {"id": "g1", "clients": "7"})]
    assert await client.hget(KEYS.log(LOG), "last_success") is not None


async def test_another_refusal_than_a_full_redis_is_raised(client: Redis) -> None:
    await client.set(KEYS.member("worker", "w1"), "no hash")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await ClusterRegistry(client, KEYS).heartbeat("worker", "w1", {"rate": 1})


async def test_an_unusable_record_hides_no_other(one: Worker, client: Redis) -> None:
    directory = ClusterRegistry(client, KEYS)
    await directory.describe([ARGON])
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await directory.heartbeat("worker", "w1", {"rate": 1})
    await directory.heartbeat("worker", "w2", {"rate": 2})
    await client.delete(KEYS.member("worker", "w1"))
    await client.set(KEYS.member("worker", "w1"), "no hash")
    await client.sadd(KEYS.logs, OTHER_LOG, "ef" * 32)
    await client.set(KEYS.log(OTHER_LOG), "no hash")
    await client.hset(KEYS.log("ef" * 32), mapping={"name": "Odd", "next": "many"})
    seen = await snapshot(client, KEYS)
    assert {log.log_id: (log.name, log.next) for log in seen.logs} == {
        LOG: ("Argon 2027", 1),
        OTHER_LOG: ("", None),
        "ef" * 32: ("Odd", None),
    }
    assert seen.workers == [ProcessInfo("w1", {}), ProcessInfo("w2", {"id": "w2", "rate": "2"})]


async def test_odd_members_spoil_nothing_but_themselves(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    directory = ClusterRegistry(client, KEYS)
    await directory.heartbeat("worker", "good", {"logs": 1})
    await directory.heartbeat("gateway", "odd", {"clients": "many", "sent": "nan"})
    await directory.heartbeat("worker", "typed", {})
    await client.set(KEYS.member("worker", "typed"), "no hash")
    await client.hset(
        KEYS.log(LOG), mapping={b"errors": b"lots", b"name\xff": b"\xff", "name": "A"}
    )
    await client.hset(KEYS.head, "lite.bytes", "-1e3")
    seen = await snapshot(client, KEYS)
    assert [member.fields.get("logs") for member in seen.workers] == ["1", None]
    assert number(seen.gateways[0].fields, "clients") == 0
    assert number(seen.gateways[0].fields, "sent") == 0
    (log,) = seen.logs
    assert (log.name, log.next, log.errors) == ("A", 1, 0)
    assert [stream.bytes for stream in seen.streams if stream.name == "lite"] == [0]


def test_a_rate_is_an_average_over_the_last_seconds() -> None:
    rate = Rate()

    def after(now: float, count: int) -> float:
        rate.observe(now, count)
        return rate.per_second

    assert after(0, 1_000_000) == 0, "what was there before is no rate"
    assert after(1, 1_000_100) == 100
    assert after(10, 1_001_000) == 100
    assert after(20, 1_001_000) == 0
