"""Entries that an operator passes over: counted, recorded, and no owner can undo it."""

from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry, snapshot
from certbus.logs.skip import Skipped, SkipRejected, skip
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.batch import Fenced, Published
from certbus.streams.rejected import read_rejected
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
    assert await one.leases.renew([lease]) == [lease]
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


def replaced(made: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(made, **fields)
