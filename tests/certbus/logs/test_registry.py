"""Logs that get a better id."""

import pytest
from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry, LogDescription, snapshot
from certbus.logs.registry import LogRegistry, Retirement
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.batch import Fenced, Published
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from tests.certbus.bus import KEYS, LOG, Worker, assert_adds_up, batch, log_status, stored_names
from tests.certbus.streams.test_full_redis import TOO_LITTLE, allow

OLD = f"url-{'ef' * 32}"
HEAD = TreeHead(5, 1000, b"r" * 32, b"s")


@pytest.fixture
def roll(client: Redis) -> LogRegistry:
    return LogRegistry(client, KEYS)


async def ids(client: Redis) -> list[str]:
    return [log.log_id for log in (await snapshot(client, KEYS)).logs]


async def test_all_state_of_a_log_continues_under_its_new_id(
    one: Worker, two: Worker, client: Redis, roll: LogRegistry
) -> None:
    lease = await one.take(OLD, 7)
    await one.publisher.publish(lease, batch(7, ["a", "b"], duplicates=1))
    await client.hset(KEYS.log(OLD), mapping={"frontier": Frontier().to_bytes(), "stale": 3})
    await TreeStateStore(client, KEYS).record_alarm(OLD, "split", "two trees", [HEAD])
    before = await client.hgetall(KEYS.log(OLD))
    assert await roll.rename(OLD, LOG)

    assert await ids(client) == [LOG]
    after = await client.hgetall(KEYS.log(LOG))
    assert after == {name: value for name, value in before.items() if name != b"owner"}
    assert await client.xlen(KEYS.evidence(LOG)) == 1
    assert await client.exists(KEYS.evidence(OLD), KEYS.lease(OLD), KEYS.lease(LOG)) == 0
    assert await roll.aliases([OLD, LOG]) == {OLD: LOG}

    taken = await two.take(LOG)
    assert taken.next == 10
    assert isinstance(await two.publisher.publish(taken, batch(10, ["c"])), Published)
    assert await stored_names(client) == ["a", "b", "c"]
    assert_adds_up(await log_status(client))


async def test_the_owner_of_a_log_under_its_old_id_is_fenced(
    one: Worker, client: Redis, roll: LogRegistry
) -> None:
    lease = await one.take(OLD)
    await one.publisher.publish(lease, batch(0, ["a"]))
    await roll.rename(OLD, LOG)
    assert await one.publisher.publish(lease, batch(1, ["b"])) == Fenced()
    assert await one.lost([lease]) == [lease]
    assert await one.leases.next_index(OLD) is None
    assert await one.restore(lease, 1) is None
    assert await one.leases.acquire(OLD, 0) is None
    assert not await one.leases.set_start(OLD, 0)
    assert not await one.leases.release(lease)
    description = LogDescription(OLD, "old", "https://log.example/", "", "rfc6962", "")
    await ClusterRegistry(client, KEYS).describe([description])
    assert await ids(client) == [LOG]
    assert await stored_names(client) == ["a"]


@pytest.mark.parametrize("by_previous_release", [False, True])
async def test_a_merged_log_continues_at_its_position(
    one: Worker, two: Worker, client: Redis, roll: LogRegistry, by_previous_release: bool
) -> None:
    """Also if the owner of the discarded record followed the log from an earlier entry on."""
    await one.publisher.configure()
    lease = await one.take(LOG, 0)
    await one.publisher.publish(lease, batch(0, ["a", "b", "c", "d", "e"]))
    moved = await two.take(OLD, 3)
    await two.publisher.publish(moved, batch(3, ["f"], duplicates=2))
    if by_previous_release:
        await client.hdel(KEYS.log(OLD), "created")
    assert await roll.rename(OLD, LOG)
    assert await one.publisher.publish(lease, batch(5, ["f"])) == Fenced()
    assert await one.restore(lease, 5) is None
    assert (await one.take(LOG)).next == 6


async def test_the_owner_restores_a_merged_log_in_a_redis_that_was_emptied_before(
    one: Worker, two: Worker, client: Redis, roll: LogRegistry
) -> None:
    """The entries before the merged start were published in no Redis."""
    await one.publisher.configure()
    lease = await one.take(LOG, 0)
    await client.flushall()
    await two.publisher.configure()
    for log_id, first in ((LOG, 3), (OLD, 4)):
        await two.publisher.publish(await two.take(log_id, first), batch(first, ["f", log_id]))
    assert await roll.rename(OLD, LOG)
    restored = await one.restore(lease, 2)
    assert restored is not None
    assert restored.next == 2


@pytest.mark.parametrize(
    ("commanded", "old", "new"),
    [
        (OLD, None, None),
        (OLD, None, (0, 5)),
        (OLD, (0, 1), (0, 5)),
        (LOG, (0, 1), None),
        (LOG, (0, 9), (0, 5)),
    ],
)
async def test_a_log_that_an_operator_retired_stays_retired_under_its_new_id(
    one: Worker,
    client: Redis,
    roll: LogRegistry,
    commanded: str,
    old: tuple[int, int] | None,
    new: tuple[int, int] | None,
) -> None:
    """Whichever record the log continues with. A log of which nothing was read is not followed."""
    retirement = Retirement("command", "noisy", 0.0, 0.0)
    listed = Retirement("list", "because", 0.0, 0.0)
    for log_id, position in ((OLD, old), (LOG, new)):
        description = LogDescription(log_id, "log", "https://log.example/", "", "rfc6962", "")
        await ClusterRegistry(client, KEYS).describe([description])
        if position is not None:
            first, end = position
            lease = await one.take(log_id, first)
            await one.publisher.publish(lease, batch(first, [], duplicates=end - first))
            if log_id != commanded:
                assert await roll.retire(log_id, listed, "list")
                assert await one.leases.drop(lease, end)
        if log_id == commanded:
            assert await roll.retire(log_id, retirement)
    await roll.rename(OLD, LOG)
    state = (await roll.states())[LOG]
    assert state.retirement == retirement
    assert await ids(client) == [LOG]
    assert await client.pttl(KEYS.log(LOG)) == -1
    if old is None and new is None:
        assert state.is_dropped
        assert await one.leases.acquire(LOG, 0) is None
    assert await roll.unretire(LOG, "command")
    assert (await roll.states())[LOG].retirement is None


async def test_a_list_retirement_of_the_discarded_record_is_not_kept(
    one: Worker, client: Redis, roll: LogRegistry
) -> None:
    await one.take(OLD, 5)
    await one.take(LOG, 3)
    assert await roll.retire(OLD, Retirement("list", "because", 0.0, 0.0), "list")
    assert await roll.rename(OLD, LOG)
    assert (await roll.states())[LOG].retirement is None


async def test_an_unused_id_becomes_an_alias(one: Worker, client: Redis, roll: LogRegistry) -> None:
    assert not await roll.rename(OLD, LOG)
    assert await roll.aliases([OLD]) == {OLD: LOG}
    assert await one.leases.acquire(OLD, 0) is None
    assert await ids(client) == []
    await ClusterRegistry(client, KEYS).describe(
        [LogDescription(LOG, "log", "https://log.example/", "", "rfc6962", "")]
    )
    assert await ids(client) == [LOG]
    assert (await one.take(LOG, 4)).next == 4


async def test_a_log_that_was_never_followed_is_removed(client: Redis, roll: LogRegistry) -> None:
    description = LogDescription(OLD, "old", "https://log.example/", "", "rfc6962", "")
    await ClusterRegistry(client, KEYS).describe([description])
    assert not await roll.rename(OLD, LOG)
    assert await ids(client) == []
    assert await client.hgetall(KEYS.log(OLD)) == {b"renamed": LOG.encode()}


async def test_a_log_is_renamed_once(one: Worker, client: Redis, roll: LogRegistry) -> None:
    await one.take(OLD, 7)
    assert await roll.rename(OLD, LOG)
    assert not await roll.rename(OLD, LOG)
    assert not await roll.rename(OLD, "ab" * 32)
    assert await roll.aliases([OLD]) == {OLD: LOG}
    assert (await log_status(client)).next == 7


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ((0, 30), (10, 20), (0, 30)),  # further on, and nothing is left out between them
        ((10, 20), (0, 30), (0, 30)),
        ((0, 20), (0, 20), (0, 20)),
        ((0, 10), (20, 30), (0, 10)),  # 10 to 19 are in neither
        ((20, 30), (0, 10), (0, 10)),
        ((0, 10), (10, 30), (10, 30)),
    ],
)
async def test_a_log_that_was_followed_under_both_ids_is_one_and_loses_nothing(
    one: Worker,
    two: Worker,
    client: Redis,
    roll: LogRegistry,
    old: tuple[int, int],
    new: tuple[int, int],
    merged: tuple[int, int],
) -> None:
    leases = []
    for worker, log_id, (start, end) in ((one, OLD, old), (two, LOG, new)):
        lease = await worker.take(log_id, start)
        await worker.publisher.publish(lease, batch(start, [], duplicates=end - start))
        await TreeStateStore(client, KEYS).record_alarm(log_id, "split", "two trees", [HEAD])
        leases.append(lease)
    assert await roll.rename(OLD, LOG)
    status = await log_status(client)
    assert (status.start, status.next) == merged
    assert status.alarms == 2
    assert_adds_up(status)
    assert await client.xlen(KEYS.evidence(LOG)) == 2
    assert await ids(client) == [LOG]
    # The owner of the dropped record is fenced; the owner of the kept one continues.
    stays = merged == new
    first, second = leases
    at = merged[1]
    assert await one.publisher.publish(first, batch(at, ["a"])) == Fenced()
    outcome = await two.publisher.publish(second, batch(at, ["b"]))
    assert isinstance(outcome, Published if stays else Fenced)


async def test_a_full_redis_renames_too(one: Worker, client: Redis, roll: LogRegistry) -> None:
    await one.take(OLD, 7)
    await allow(client, TOO_LITTLE)
    assert await roll.rename(OLD, LOG)
    assert (await log_status(client)).next == 7
