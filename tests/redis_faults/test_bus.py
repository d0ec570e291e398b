"""Each component that talks to Redis, with connections that are cut at any reply.

Each scenario runs once for each reply that it needs, with a cut at that reply, until it ends
without one. Redis has executed what it is about: either only the reply is lost, or nothing.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from certbus.caches.log_lists import LogListCache
from certbus.cluster import ClusterRegistry, snapshot
from certbus.connection import connect
from certbus.errors import UNAVAILABLE
from certbus.ids import new_event
from certbus.keys import Keys
from certbus.limits.clients import (
    AdmittedCount,
    ConnectionCounts,
    ConnectionDelta,
    Rate,
    RateLimits,
)
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from certbus.logs.skip import Skipped, skip
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.batch import Published, Stale
from certbus.streams.events import Rewind, StreamBatch
from certbus.streams.reader import StreamReader
from ctparse.tree_head import TreeHead
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Following,
    Worker,
    assert_adds_up,
    batch,
    log_status,
    message,
)
from tests.certbus.proxy import How, Proxy, When
from tests.retained import history

HEAD = TreeHead(100, 1_790_000_000_000, bytes(32), b"signature")
RATE = Rate(capacity=10, refill=0.001, burst=0, burst_window=60, window=60, window_requests=100)

Scenario = Callable[[Redis, Redis], Awaitable[None]]

each_cut = pytest.mark.parametrize(
    ("how", "when"), [(how, when) for how in ("rst", "fin") for when in ("before", "after")]
)


async def at_every_reply(
    proxy: Proxy, client: Redis, how: How, when: When, scenario: Scenario
) -> None:
    """Run `scenario(lossy, client)` with a cut at its first reply, its second, and so on."""
    for reply in range(1, 100):
        await client.flushall()
        await client.script_flush()
        async with connect(proxy.url) as lossy:
            proxy.cut_at(reply, how, when)
            async with asyncio.timeout(30):
                await scenario(lossy, client)
        if not proxy.is_over():
            assert reply > 2
            return
    raise AssertionError("the scenario needs more than a hundred replies")


async def publishing(lossy: Redis, client: Redis) -> None:
    worker = Worker(lossy, f"lossy-{secrets.token_hex(4)}", ttl=0.2)
    lease = await worker.leases.acquire(LOG, 0)
    while lease is None:  # the reply was lost: a lease without an owner expires
        lease = await worker.leases.acquire(LOG, 0)
    for first in range(3):
        window = batch(first, [f"n{first}"])
        assert await worker.publisher.find_known([window.messages[0].sha256]) == [False]
        outcome = await worker.publisher.publish(lease, window)
        assert isinstance(outcome, Published) or outcome == Stale(window.next)
        assert await worker.lost([lease]) == []
    await worker.leases.release(lease)
    batches = await history(client, KEYS, "lite", "0-0", 10)
    assert [b"n%d" % n in b.messages[0] for n, b in enumerate(batches)] == [True] * 3
    assert_adds_up(await log_status(client))


async def reading(lossy: Redis, client: Redis) -> None:
    worker = Worker(client, "sound")
    lease = await worker.take()
    await worker.publisher.publish(lease, batch(0, ["a"]))
    after = dict.fromkeys(("full", "lite", "domains"), "0-0")
    running = Following(StreamReader(lossy, KEYS, tuple(after), after))
    try:
        await running.until(lambda events: len(events) == 3)
        await worker.publisher.publish(lease, batch(1, ["b"]))
        events = await running.until(lambda events: len(events) == 6)
        assert {type(event).__name__ for event in events} == {"StreamBatch"}
    finally:
        await running.stop()


async def skipping(lossy: Redis, client: Redis) -> None:
    worker = Worker(client, "sound")
    await worker.take()
    await ClusterRegistry(client, KEYS).record_status(LOG, {"newest": 100})
    assert await skip(lossy, KEYS, LOG, 10, "gone") == Skipped(0, 10)
    assert await skip(lossy, KEYS, LOG, 12, "gone: 3-4") == Skipped(10, 12)
    status = await log_status(client)
    assert (status.next, status.skipped) == (12, 12)
    assert await client.xlen(KEYS.rejected) == 2


async def counting_failures(lossy: Redis, client: Redis) -> None:
    """The caller repeats a call until it succeeds, as ingestors do."""
    await Worker(client, "sound").take()
    circuits, ledger = CircuitStore(lossy, KEYS), TreeStateStore(lossy, KEYS)
    for _ in range(2):
        await repeated(partial(circuits.failed, LOG, CircuitStatus(), "away", new_event()))
        await repeated(partial(ledger.record_alarm, LOG, "split", "x", [HEAD], event=new_event()))
        await repeated(
            partial(ledger.record_alarm, LOG, "no_proof", "x", [HEAD], event=new_event())
        )
        await repeated(partial(ledger.record_stale_head, LOG, new_event()))
    fields = ["errors", "alarms", "alarms.split", "alarms.no_proof", "stale"]
    assert await client.hmget(KEYS.log(LOG), fields) == [b"2"] * 5
    assert await client.xlen(KEYS.evidence(LOG)) == 4


async def recording_list_failures(lossy: Redis, client: Redis) -> None:
    """redis-py repeats a call whose reply is lost: it counts one failure all the same."""
    lists = LogListCache(lossy, KEYS)
    for number in range(3):
        await lists.record_failure("list", "name", "https://x", 60, f"problem {number}")
    (status,) = await LogListCache(client, KEYS).statuses(["list"])
    assert (status.failures, status.problem, status.name) == (3, "problem 2", "name")
    await lists.record_success("list", 60, "etag", "modified")
    (status,) = await LogListCache(client, KEYS).statuses(["list"])
    assert (status.failures, status.etag, status.modified) == (0, "etag", "modified")


async def repeated(call: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await call()
        except UNAVAILABLE:
            await asyncio.sleep(0.01)


async def acquiring_rates(lossy: Redis, client: Redis) -> None:
    """A request counts once, even if the answer is lost; the caller decides alone then."""
    limits = RateLimits(lossy, KEYS)
    requested = 0
    for _ in range(4):
        with suppress(*UNAVAILABLE):
            await limits.acquire([("address:x", RATE)])
        requested += 1
    (decision,) = await RateLimits(client, KEYS).acquire([("address:x", RATE)])
    # The cut request may not have reached Redis.
    assert decision.remaining in (10 - requested - 1, 10 - requested)


async def counting_connections(lossy: Redis, client: Redis) -> None:
    counts = ConnectionCounts(lossy, KEYS, secrets.token_hex(4), ttl=60)
    held = 0
    await counts.reset()
    for _ in range(4):
        let_in = None
        while let_in is None:
            let_in = await counts.apply(100, 100, [ConnectionDelta("a", held, 1)])
            if let_in is None:
                await counts.reset()
        assert let_in == [AdmittedCount(1, full=False)]
        held += 1
    assert await counts.apply(100, 100, [ConnectionDelta("a", held, 0)]) == [
        AdmittedCount(0, full=False)
    ]
    other = ConnectionCounts(client, KEYS, "other", ttl=60)
    await other.reset()
    assert await other.apply(4, None, [ConnectionDelta("b", 0, 1)]) == [AdmittedCount(0, full=True)]
    await counts.remove()
    assert await other.apply(4, None, [ConnectionDelta("b", 0, 1)]) == [
        AdmittedCount(1, full=False)
    ]


async def taking_turns(lossy: Redis, client: Redis) -> None:
    """A turn whose reply is lost is not used; no two are closer than the interval."""
    operators = OperatorSlots(lossy, Keys())
    waits = [(await operators.reserve("op", 10)).wait for _ in range(4)]
    assert all(later - earlier > 5 for earlier, later in pairwise(waits))
    assert waits[-1] < 10 * 5
    assert await operators.record_429("op", LOG, 20) in (False, True)


async def announcing(lossy: Redis, client: Redis) -> None:
    directory = ClusterRegistry(lossy, KEYS)
    await directory.heartbeat("gateway", "g", {"clients": 1})
    await directory.heartbeat("worker", "w", {"logs": 1})
    seen = await snapshot(lossy, KEYS)
    assert [member.id for member in (*seen.gateways, *seen.workers)] == ["g", "w"]
    await directory.remove("gateway", "g")
    assert (await snapshot(lossy, KEYS)).gateways == []


@each_cut
@pytest.mark.parametrize(
    "scenario",
    [
        publishing,
        reading,
        skipping,
        counting_failures,
        recording_list_failures,
        acquiring_rates,
        counting_connections,
        taking_turns,
        announcing,
    ],
)
async def test_a_cut_at_any_reply_is_survived(
    proxy: Proxy, client: Redis, how: How, when: When, scenario: Scenario
) -> None:
    await at_every_reply(proxy, client, how, when, scenario)


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_reconnect_shows_that_another_batch_has_the_id_of_the_newest_one(
    proxy: Proxy, lossy: Redis, client: Redis, how: How
) -> None:
    """Redis restarted without its last second and gave the id again before the reader returned."""
    worker = Worker(client, "sound")
    lease = await worker.take()
    first = await worker.publisher.publish(lease, batch(0, ["a"]))
    lost = await worker.publisher.publish(lease, batch(1, ["lost"]))
    assert isinstance(first, Published)
    assert isinstance(lost, Published)
    assert lost.id is not None
    running = Following(StreamReader(lossy, KEYS, ["lite"], {"lite": "0-0"}))
    try:
        await running.until(lambda events: len(events) == 2)
        await replace_batch(client, lost.id)
        proxy.cut(how)
        await worker.publisher.publish(lease, batch(2, ["next"]))
        events = await running.until(lambda events: len(events) == 5)
    finally:
        await running.stop()
    assert events[2] == Rewind("lite", since=first.id, seen=lost.id)
    again, after = events[3:]
    assert isinstance(again, StreamBatch)
    assert isinstance(after, StreamBatch)
    assert (again.id, again.log) == (lost.id, OTHER_LOG)
    assert after.messages == [message("next").lite]


async def replace_batch(client: Redis, entry_id: str) -> None:
    """Put a batch of another log in the place of the newest one of `lite`, under the same id."""
    key = KEYS.stream("lite")
    async with client.pipeline(transaction=True) as transaction:
        transaction.xrange(key)
        (entries,) = await transaction.execute()
        transaction.delete(key)
        for entry, fields in entries:
            if entry.decode() == entry_id:
                fields[b"log"] = OTHER_LOG.encode()
            transaction.xadd(key, fields, id=entry)
        await transaction.execute()
