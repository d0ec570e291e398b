import asyncio
from unittest.mock import ANY

from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry
from certbus.logs.leases import Handover
from certbus.logs.registry import LogRegistry, Retirement
from certbus.streams.batch import Fenced, Published, Stale
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Worker,
    assert_adds_up,
    batch,
    log_status,
    stored_names,
)
from tests.certbus.streams.test_full_redis import TOO_LITTLE, allow


async def test_a_new_log_starts_at_the_given_index_and_later_resumes(
    one: Worker, two: Worker
) -> None:
    assert await one.leases.next_index(LOG) is None
    lease = await one.take(start=42)
    assert (lease.worker, lease.next) == ("one", 42)
    await one.publisher.publish(lease, batch(42, ["a"]))
    assert await one.leases.release(lease)
    assert (await two.take(start=1000)).next == 43
    assert await two.leases.next_index(LOG) == 43


async def test_a_log_without_a_start_is_not_made(one: Worker, client: Redis) -> None:
    assert await one.leases.acquire(LOG, None) is None
    assert await client.dbsize() == 0


async def test_a_start_can_be_set_once(one: Worker) -> None:
    assert await one.leases.set_start(LOG, 7)
    assert not await one.leases.set_start(LOG, 9)
    lease = await one.leases.acquire(LOG, None)
    assert lease is not None
    assert lease.next == 7


async def test_the_next_owner_gets_what_the_last_one_has_learned(
    one: Worker, client: Redis
) -> None:
    assert await one.leases.handover(LOG) == Handover()
    directory = ClusterRegistry(client, KEYS)
    await directory.record_status(LOG, {"page": 32, "gaps": "16.2 36.0"}, succeeded=True)
    handover = await one.leases.handover(LOG)
    assert (handover.page, handover.gaps) == (32, (16.2, 36.0))
    assert handover.since_success is not None
    await client.hset(KEYS.log(LOG), mapping={"page": "many", "last_success": "", "gaps": "nan,-"})
    assert await one.leases.handover(LOG) == Handover()


async def test_a_held_lease_is_not_given_to_anyone(one: Worker, two: Worker) -> None:
    lease = await one.take()
    assert await two.leases.acquire(LOG, 0) is None
    assert await one.leases.acquire(LOG, 0) is None
    assert await two.leases.acquire(OTHER_LOG, 0) is not None
    assert await one.lost([lease]) == []


async def test_a_lease_expires_unless_it_is_renewed(client: Redis) -> None:
    short = Worker(client, "short", ttl=0.2)
    lease = await short.take()
    renewed = Worker(client, "renewed", ttl=0.2)
    other = await renewed.take(OTHER_LOG)
    async with asyncio.timeout(10):
        while (taken := await Worker(client, "next").leases.acquire(LOG, 0)) is None:
            assert await renewed.lost([other]) == []
            await asyncio.sleep(0.02)
    assert await short.lost([lease]) == [lease]
    assert taken.fence != lease.fence
    assert await renewed.lost([other]) == []


async def test_renewing_returns_the_positions_in_redis(
    one: Worker, two: Worker, client: Redis
) -> None:
    first, second = await one.take(LOG, 5), await one.take("cd" * 32, 7)
    lost = await two.take("ef" * 32)
    await one.publisher.publish(first, batch(5, ["a", "b"]))
    assert await one.leases.renew([second, first, lost]) == [7, 7, None]
    await client.hset(KEYS.log(LOG), "next", "not a number")
    assert await one.leases.renew([first, second]) == [0, 7]


async def test_renewing_many_returns_the_lost_ones(one: Worker, two: Worker, client: Redis) -> None:
    log_ids = [f"{number:064x}" for number in range(50)]
    leases = [await one.take(log_id) for log_id in log_ids]
    await client.delete(*[KEYS.lease(log_id) for log_id in log_ids[::7]])
    assert await two.leases.acquire(log_ids[0], 0) is not None
    assert await two.leases.acquire(log_ids[7], 0) is not None
    assert await one.lost(leases) == [leases[0], leases[7]]
    assert await one.lost([]) == []


async def test_a_lease_that_expired_is_taken_again_under_its_fence(
    one: Worker, two: Worker, client: Redis
) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    await client.delete(KEYS.lease(LOG))  # as it expires
    assert await one.lost([lease]) == []
    assert 0 < await client.pttl(KEYS.lease(LOG)) <= 30_000
    assert await two.leases.acquire(LOG, None) is None
    assert await one.publisher.publish(lease, batch(1, ["b"])) == Published(ANY, 2)
    assert (await log_status(client)).owner == "one"


async def test_a_log_that_was_released_retired_or_renamed_is_not_taken_again(
    one: Worker, client: Redis
) -> None:
    roll = LogRegistry(client, KEYS)
    released = await one.take()
    await one.leases.release(released)
    dropped = await one.take(OTHER_LOG)
    await roll.retire(OTHER_LOG, Retirement("command", "over", 0.0, 0.0))
    await one.leases.drop(dropped, dropped.next)
    renamed = await one.take("url-1")
    await roll.rename("url-1", "ef" * 32)
    leases = [released, dropped, renamed]
    assert await one.lost(leases) == leases
    for lease in leases:
        assert await client.exists(KEYS.lease(lease.log_id)) == 0


async def test_a_full_redis_lets_a_worker_take_its_expired_lease_again(
    one: Worker, client: Redis
) -> None:
    lease = await one.take()
    await client.delete(KEYS.lease(LOG))
    await allow(client, TOO_LITTLE)
    assert await one.lost([lease]) == []
    assert await client.pttl(KEYS.lease(LOG)) > 0


async def test_a_lost_lease_cannot_be_released(one: Worker, two: Worker, client: Redis) -> None:
    lease = await one.take()
    await client.delete(KEYS.lease(LOG))
    taken = await two.take()
    assert not await one.leases.release(lease)
    assert await two.lost([taken]) == []


async def test_an_earlier_lease_of_the_same_worker_is_another(one: Worker, client: Redis) -> None:
    first = await one.take()
    await client.delete(KEYS.lease(LOG))
    second = await one.take()
    assert await one.lost([first, second]) == [first]
    assert not await one.leases.release(first)
    assert await one.publisher.publish(first, batch(0, ["a"])) == Fenced()
    assert isinstance(await one.publisher.publish(second, batch(0, ["a"])), Published)


async def test_two_workers_fight_over_one_log(client: Redis) -> None:
    """Each takes the lease from the other again and again; every entry is published once."""
    entries = 60

    async def fight(name: str) -> int:
        worker, fenced = Worker(client, name), 0
        while True:
            await client.delete(KEYS.lease(LOG))  # as if the other one's had expired
            lease = await worker.leases.acquire(LOG, 0)
            if lease is None:
                continue
            at = lease.next
            while at < entries:
                match await worker.publisher.publish(lease, batch(at, [str(at)])):
                    case Published(next=at):
                        await asyncio.sleep(0)
                    case Stale(next=at):
                        pass
                    case Fenced():
                        fenced += 1
                        break
            else:
                return fenced

    fenced = await asyncio.gather(fight("one"), fight("two"))
    assert sum(fenced) > 0, "they never met"
    assert await stored_names(client) == [str(index) for index in range(entries)]
    status = await log_status(client)
    assert (status.next, status.published) == (entries, entries)
    assert_adds_up(status)
