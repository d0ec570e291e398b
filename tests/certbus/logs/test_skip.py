"""Entries that an operator passes over: counted, recorded, and no owner can undo it."""

from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry, snapshot
from certbus.logs.leases import SkipAhead
from certbus.logs.skip import Skipped, SkipRejected, skip
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.batch import Fenced, Published
from certbus.streams.rejected import read_rejected
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from tests.certbus.bus import KEYS, LOG, Worker, assert_adds_up, batch, log_status, rejected

HEAD = TreeHead(100, 1_790_000_000_000, bytes(32), b"signature")


async def test_skipped_entries_are_counted_and_recorded(one: Worker, client: Redis) -> None:
    lease = await one.take()
    begun = batch(0, ["a", "b"])
    await one.publisher.publish(lease, replaced(begun, tree_head=HEAD, frontier=b"frontier"))
    assert await skip(client, KEYS, LOG, 10, "always \n 500") == Skipped(2, 10)
    status = await log_status(client)
    assert (status.next, status.published, status.skipped) == (10, 2, 8)
    assert status.skip == "2-9: always 500"
    assert_adds_up(status)
    assert await TreeStateStore(client, KEYS).load(LOG, 10) is None
    (record,) = [each async for each in read_rejected(client, KEYS)]
    assert (record.log_id, record.index, record.last) == (LOG, 2, 9)
    assert (record.reason, record.raw, record.size) == ("always 500", b"", 0)
    (stream,) = [s for s in (await snapshot(client, KEYS)).streams if s.name == "rejected"]
    assert (stream.entries, stream.messages) == (1, 1)


async def test_the_owner_before_a_skip_is_fenced(one: Worker, two: Worker, client: Redis) -> None:
    lease = await one.take()
    await ClusterRegistry(client, KEYS).record_status(LOG, {"newest": 100})
    assert await skip(client, KEYS, LOG, 5, "") == Skipped(0, 5)
    for first in (0, 5):
        assert await one.publisher.publish(lease, batch(first, ["a"])) == Fenced()
    assert await one.lost([lease]) == [lease]
    taken = await two.take()
    assert taken.next == 5
    assert isinstance(await two.publisher.publish(taken, batch(5, ["a"])), Published)
    assert_adds_up(await log_status(client))


async def test_a_skip_moves_forward_and_not_beyond_the_tree(one: Worker, client: Redis) -> None:
    with pytest.raises(SkipRejected, match="not been started"):
        await skip(client, KEYS, LOG, 1, "")
    lease = await one.take(start=3)
    with pytest.raises(SkipRejected, match="no tree head of the log is known"):
        await skip(client, KEYS, LOG, 4, "")
    await one.publisher.publish(lease, replaced(batch(3, ["a"]), tree_head=HEAD))
    with pytest.raises(SkipRejected, match="must be above 4, the position of the log"):
        await skip(client, KEYS, LOG, 4, "")
    with pytest.raises(SkipRejected, match="--to must be at most 100,"):
        await skip(client, KEYS, LOG, 101, "")
    assert isinstance(await one.publisher.publish(lease, batch(4, ["b"])), Published)
    assert await skip(client, KEYS, LOG, 100, "") == Skipped(5, 100)


async def test_pages_of_rejections_come_newest_first(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(
        lease, replaced(batch(0, []), next=150, rejected=[rejected(n) for n in range(150)])
    )
    found = [each.index async for each in read_rejected(client, KEYS)]
    assert found == list(range(150))[::-1]


def ahead(first: int, end: int, frontier: Frontier | None) -> SkipAhead:
    return SkipAhead(first, end, "too far behind", HEAD, frontier)


async def test_a_worker_skips_under_its_lease(one: Worker, client: Redis) -> None:
    """Position, counter, record, tree head and frontier change together; the lease stays."""
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a", "b"]))
    frontier = Frontier()
    frontier.extend([bytes(32)] * 90)
    for _ in range(2):  # repeated, because a reply was lost
        assert await one.leases.skip_ahead(lease, ahead(2, 90, frontier), "event") == "skipped"
    status = await log_status(client)
    assert (status.next, status.skipped, status.tree_size) == (90, 88, HEAD.size)
    assert (status.skip, status.owner) == ("2-89: too far behind", "one")
    assert_adds_up(status)
    state = await TreeStateStore(client, KEYS).load(LOG, 90)
    assert state is not None
    assert (state.frontier.root(), state.tree_head) == (frontier.root(), HEAD)
    (record,) = [each async for each in read_rejected(client, KEYS)]
    assert (record.index, record.last, record.reason) == (2, 89, "too far behind")
    assert isinstance(await one.publisher.publish(lease, batch(90, ["c"])), Published)
    assert_adds_up(await log_status(client))


async def test_a_skip_without_a_proof_removes_the_frontier(one: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, replaced(batch(0, ["a"]), tree_head=HEAD, frontier=b"f"))
    assert await one.leases.skip_ahead(lease, ahead(1, 90, None), "event") == "skipped"
    assert not await client.hexists(KEYS.log(LOG), "frontier")


async def test_who_must_not_skip_does_not(one: Worker, two: Worker, client: Redis) -> None:
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a", "b"]))
    assert await one.leases.skip_ahead(lease, ahead(1, 90, None), "stale") == 2
    await one.leases.release(lease)
    taken = await two.take()
    assert await one.leases.skip_ahead(lease, ahead(2, 90, None), "fenced") == "fenced"
    assert (await log_status(client)).next == 2
    await client.delete(KEYS.log(LOG), KEYS.lease(LOG))
    assert await two.leases.skip_ahead(taken, ahead(2, 90, None), "missing") == "missing"


def replaced(made: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(made, **fields)
