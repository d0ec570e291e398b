"""The clock of Redis is the only clock of what is stored there, and it may be wrong for a while."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.caches.log_lists import LogListCache
from certbus.cluster import ClusterRegistry, snapshot
from certbus.ids import parse_cursor
from certbus.limits.clients import (
    AdmittedCount,
    ConnectionCounts,
    ConnectionDelta,
    Rate,
    RateLimits,
)
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from certbus.logs.leases import Leases
from certbus.logs.registry import LogRegistry
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.batch import Published
from certbus.streams.cert_index import find_by_fingerprint
from certbus.streams.events import FORGOTTEN, Gap, StreamBatch
from certbus.streams.publisher import PublisherSettings
from certbus.streams.resume import resolve_cursor
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from tests.certbus.bus import (
    KEYS,
    LOG,
    OTHER_LOG,
    Worker,
    batch,
    following,
    log_status,
    message,
    repeated,
    retain,
    stored,
    stored_names,
)
from tests.certbus.servers import FAKETIME, ShiftedRedisServer
from tests.waiting import until

DAYS = 86_400.0
SHIFTS = [-120.0, -1.0, 60.0, 30 * DAYS]


# Valkey 8 ends with SIGSEGV under libfaketime.
pytestmark = pytest.mark.parametrize("executable", ["redis6", "redis7"], indirect=True)


@pytest.fixture
def server(executable: str, tmp_path: Path) -> Iterator[ShiftedRedisServer]:
    if not FAKETIME.exists():
        pytest.skip(f"no {FAKETIME}")
    server = ShiftedRedisServer(executable, tmp_path)
    server.start()
    yield server
    server.kill()


async def test_the_clock_of_a_server_can_be_shifted(
    client: Redis, server: ShiftedRedisServer
) -> None:
    for shift in (0.0, *SHIFTS):
        server.shift(shift)
        before = time.time()
        seconds, microseconds = await client.time()
        assert before + shift - 0.1 < seconds + microseconds / 1e6 < time.time() + shift + 0.1


class TestMembers:
    @pytest.mark.parametrize("shift", SHIFTS)
    async def test_skew_between_redis_and_the_host_hides_no_member(
        self, client: Redis, server: ShiftedRedisServer, shift: float
    ) -> None:
        server.shift(shift)
        directory = ClusterRegistry(client, KEYS)
        await directory.heartbeat("worker", "w1", {"loads": "{}"})
        await directory.heartbeat("worker", "w2", {"loads": "{}"})
        await directory.heartbeat("gateway", "g1", {})
        await directory.record_status(LOG, {}, succeeded=True)
        await client.sadd(KEYS.logs, LOG)
        seen = await snapshot(client, KEYS)
        assert [member.id for member in seen.workers] == ["w1", "w2"]
        assert [member.id for member in seen.gateways] == ["g1"]
        assert (await ClusterRegistry(client, KEYS).load_workers()).loads == {"w1": {}, "w2": {}}
        last_success = (await log_status(client)).last_success
        assert last_success is not None
        assert 0 <= seen.now - last_success < 60_000
        since = (await Leases(client, KEYS, "w1", 5.0).handover(LOG)).since_success
        assert since is not None
        assert 0 <= since < 60

    @pytest.mark.parametrize("shift", SHIFTS)
    async def test_after_a_shift_the_living_are_seen_with_their_next_heartbeat(
        self, client: Redis, server: ShiftedRedisServer, shift: float
    ) -> None:
        directory = ClusterRegistry(client, KEYS)
        await directory.heartbeat("worker", "w1", {})
        server.shift(shift)
        await directory.heartbeat("worker", "w1", {})
        assert [member.id for member in (await snapshot(client, KEYS)).workers] == ["w1"]

    async def test_a_clock_set_back_keeps_no_dead_member(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        server.shift(30 * DAYS)
        await ClusterRegistry(client, KEYS).heartbeat("worker", "dead", {})
        server.shift(0)
        assert (await snapshot(client, KEYS)).workers == []
        assert (await ClusterRegistry(client, KEYS).load_workers()).loads == {}
        await ClusterRegistry(client, KEYS).heartbeat("worker", "living", {})
        assert await client.zrange(KEYS.members("worker"), 0, -1) == [b"living"]

    async def test_a_member_that_dies_before_a_small_step_back_is_gone_soon(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        await ClusterRegistry(client, KEYS, ttl=0.2).heartbeat("worker", "dead", {})
        server.shift(-1)

        async def has_no_workers() -> bool:
            return not (await snapshot(client, KEYS)).workers

        await until(has_no_workers, "the dead worker is not shown")


class TestSetBack:
    """Values stored while the clock was ahead delay no process once it is right again."""

    @pytest.fixture(params=[120.0, 1.0, 30 * DAYS])
    def ahead(self, request: pytest.FixtureRequest, server: ShiftedRedisServer) -> float:
        server.shift(request.param)
        return float(request.param)

    async def test_turns_of_an_operator(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        operators = OperatorSlots(client, KEYS)
        assert (await operators.reserve("Example", 0.5)).wait == 0
        server.shift(0)
        assert (await operators.reserve("Example", 0.5)).wait <= 0.5
        assert (await operators.reserve("Example", 0.5)).wait <= 1.0

    async def test_the_pause_of_an_operator_is_no_longer_than_it_was(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        operators = OperatorSlots(client, KEYS)
        await operators.record_429("Example", LOG, 60)
        assert await operators.record_429("Example", OTHER_LOG, 60)
        server.shift(0)
        assert 0 < (await operators.reserve("Example", 0.5)).paused <= 60

    async def test_requests_of_a_client(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        limits, rate = RateLimits(client, KEYS), Rate(1, 100, 0, 1, 1, 1000)
        while (await limits.acquire([("one", rate)]))[0].allowed:
            pass
        server.shift(0)

        async def allowed() -> bool:
            return (await limits.acquire([("one", rate)]))[0].allowed

        await until(allowed, "an allowed request")

    async def test_connections_of_a_gateway_that_is_gone(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        gone, living = (ConnectionCounts(client, KEYS, name, 0.2) for name in ("gone", "living"))
        await gone.reset()
        assert await gone.apply(1, None, [ConnectionDelta("a", 0, 1)]) == [AdmittedCount(1, False)]
        server.shift(0)

        async def let_in() -> bool:
            counted = await living.apply(1, None, [ConnectionDelta("a", 0, 1)])
            if counted is None:
                await living.reset()
            return counted == [AdmittedCount(1, False)]

        await until(let_in, "the place of the gateway that is gone")

    async def test_a_lease_of_a_worker_that_is_gone(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        await Worker(client, "gone", ttl=0.2).take()
        server.shift(0)
        other = Worker(client, "other", ttl=0.2)

        async def taken() -> bool:
            return await other.leases.acquire(LOG, None) is not None

        await until(taken, "the log of the worker that is gone")

    async def test_a_log_list_is_requested(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        shelf = LogListCache(client, KEYS)
        assert await shelf.claim_refresh("list", 0.5)
        server.shift(0)

        async def claimed() -> bool:
            return await shelf.claim_refresh("list", 0.5)

        if ahead != 120:  # within two hours, as for any list that was requested
            await until(claimed, "the claim")

    async def test_the_circuit_of_a_log(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        circuits = CircuitStore(client, KEYS)
        now = int(time.time() * 1000)
        await circuits.save(LOG, CircuitStatus("open", 5, now + 60_000))
        # A process that reads it now waits as long, whatever its own clock.
        seen = (await circuits.load(LOG)).retry_at
        assert seen is not None
        assert 55_000 < seen - now < 65_000
        server.shift(0)
        seen = (await circuits.load(LOG)).retry_at
        assert seen is not None
        assert seen - now <= 3_605_000


@pytest.mark.parametrize("shift", SHIFTS)
async def test_times_of_a_log_are_those_of_redis(
    client: Redis, server: ShiftedRedisServer, one: Worker, shift: float
) -> None:
    server.shift(shift)
    lease = await one.take()
    await one.publisher.publish(lease, batch(0, ["a"]))
    ledger = TreeStateStore(client, KEYS)
    await ledger.record_alarm(LOG, "split_view", "two trees", [])
    await ledger.record_stale_head(LOG)
    await CircuitStore(client, KEYS).failed(LOG, CircuitStatus("closed", 1), "HTTP 500")
    now = (await snapshot(client, KEYS)).now
    status = await log_status(client)
    below_since = int(await client.hget(KEYS.log(LOG), "below_since") or 0)
    for at in (status.alarm_at, status.last_error_at, below_since):
        assert at is not None
        assert 0 <= now - at < 10_000
    assert (status.alarms, status.stale, status.errors) == (1, 1, 1)


@pytest.mark.parametrize("stored_at", [-30 * DAYS, 0.0])
@pytest.mark.parametrize("read_at", [-30 * DAYS, 0.0, 60.0])
async def test_a_log_regresses_for_no_longer_than_since_it_signed_the_verified_tree_head(
    client: Redis, server: ShiftedRedisServer, stored_at: float, read_at: float
) -> None:
    frontier = Frontier()
    frontier.extend([bytes(32)] * 3)
    signed = TreeHead(3, int(time.time() * 1000), frontier.root(), b"signature")
    fields = {
        "frontier": frontier.to_bytes(),
        "tree_size": signed.size,
        "tree_timestamp": signed.timestamp,
        "tree_root": signed.root,
        "tree_signature": signed.signature,
    }
    await client.hset(KEYS.log(LOG), mapping=cast("Any", fields))
    store = TreeStateStore(client, KEYS)
    server.shift(stored_at)
    await store.record_stale_head(LOG)
    server.shift(read_at)
    state = await store.load(LOG, 3)
    assert state is not None
    assert state.tree_head == signed
    assert state.below_for is not None
    assert 0 <= state.below_for < max(read_at, 0) + 10


@pytest.mark.parametrize("shift", SHIFTS)
async def test_retirements_are_in_the_time_of_redis(
    client: Redis, server: ShiftedRedisServer, shift: float
) -> None:
    server.shift(shift)
    seconds, _ = await client.time()
    assert abs(await LogRegistry(client, KEYS).now() - seconds) < 10


STEP = 50.0
"""Seconds that the clock may advance between two trimmings without being taken for a jump."""


async def let_pass(
    server: ShiftedRedisServer, worker: Worker, since: float, seconds: float
) -> float:
    """Let time pass by the clock of Redis, with a trimming now and then; returns the new shift."""
    shift = since
    while shift < since + seconds:
        shift += STEP
        server.shift(shift)
        await worker.trimmer.trim()
    return shift


class TestPublishing:
    @pytest.mark.parametrize("shift", SHIFTS)
    async def test_a_clock_that_is_wrong_for_a_moment_loses_and_repeats_nothing(
        self, client: Redis, server: ShiftedRedisServer, shift: float
    ) -> None:
        worker = Worker(client, "one", retention=retain(10**9, max_age_secs=3600))
        lease = await worker.take()
        await worker.publisher.configure()
        for index, (name, moment) in enumerate([("a", 0.0), ("b", shift), ("c", 0.0)]):
            server.shift(moment)
            await worker.trimmer.trim()
            outcome = await worker.publisher.publish(lease, batch(index, [name]))
            assert outcome == Published(outcome.id, index + 1)  # type: ignore[union-attr]
            await worker.trimmer.trim()
        assert await stored_names(client) == ["a", "b", "c"]
        assert await worker.publisher.find_known([message(n).sha256 for n in "abcd"]) == [
            *(True, True, True, False)
        ]
        window = batch(3, ["b", "a", "d", "c"])
        assert repeated(await worker.publisher.publish(lease, window)) == [0, 1, 3]
        for name in "abc":
            assert await find_by_fingerprint(client, KEYS, message(name).sha256) is not None
            assert await find_by_fingerprint(client, KEYS, message(name).sha1) is not None

    @pytest.mark.parametrize("shift", [60.0, 30 * DAYS])
    async def test_batches_published_while_the_clock_was_ahead_age_from_then_on(
        self, client: Redis, server: ShiftedRedisServer, shift: float
    ) -> None:
        worker = Worker(client, "one", retention=retain(10**9, max_age_secs=600))
        lease = await worker.take()
        await worker.publisher.configure()
        server.shift(shift)
        await worker.publisher.publish(lease, batch(0, ["ahead"]))
        server.shift(0)
        await worker.publisher.publish(lease, batch(1, ["after"]))
        entries: Any = await client.xrange(KEYS.stream("lite"))
        (_, ahead), (entry, after) = entries
        assert b"at" not in ahead
        assert int(after[b"at"]) < int(entry.split(b"-")[0])
        seconds, _ = await client.time()
        assert abs(int(after[b"at"]) / 1000 - seconds) < 10

        at = await let_pass(server, worker, 0, 300)
        assert await stored_names(client) == ["ahead", "after"]
        at = await let_pass(server, worker, at, 600)
        assert await stored_names(client) == []
        # The marks live as long as configured, and no longer.
        assert await worker.publisher.find_known([message("ahead").sha256]) == [True]
        await let_pass(server, worker, at, 3600)
        assert await client.hgetall(KEYS.windows) == {}
        assert [key async for key in client.scan_iter(f"{KEYS.marks}*")] == []
        assert [key async for key in client.scan_iter(f"{KEYS.sha1_marks}*")] == []
        assert await worker.publisher.find_known([message("ahead").sha256]) == [False]

    async def test_a_jump_that_holds_for_a_minute_is_believed(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        worker = Worker(client, "one", retention=retain(10**9, max_age_secs=600))
        lease = await worker.take()
        await worker.publisher.publish(lease, batch(0, ["a"]))
        await worker.trimmer.trim()
        server.shift(30 * DAYS)
        assert await worker.trimmer.trim() == 0
        server.shift(30 * DAYS + STEP)
        assert await worker.trimmer.trim() == 0
        server.shift(30 * DAYS + 2 * STEP)
        assert await worker.trimmer.trim() > 0
        assert await stored_names(client) == []

    async def test_no_id_that_redis_lost_is_given_again_although_the_newest_is_ahead(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        one, two = Worker(client, "one"), Worker(client, "two")
        lease, other = await one.take(LOG), await two.take(OTHER_LOG)
        server.shift(3600)
        await one.publisher.publish(lease, batch(0, ["a"]))
        server.shift(0)
        server.save_aside()
        lost = [await two.publisher.publish(other, batch(n, [f"lost {n}"])) for n in range(3)]
        server.wind_back()
        # This worker was given none of those ids.
        for n in range(1, 4):
            published = await one.publisher.publish(lease, batch(n, [f"b {n}"]))
            assert isinstance(published, Published)
            assert published.id not in {each.id for each in lost if isinstance(each, Published)}

    async def test_no_id_that_redis_lost_is_given_again_after_the_clock_was_set_back_twice(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        """TIME then keeps no worker from an id whose sequence number came from a later TIME."""
        one, two = Worker(client, "one"), Worker(client, "two")
        lease, other = await one.take(LOG), await two.take(OTHER_LOG)
        await one.publisher.publish(lease, batch(0, ["a"]))
        server.shift(-60)
        await one.publisher.publish(lease, batch(1, ["b"]))
        server.save_aside()
        server.shift(-3600)
        lost = [await two.publisher.publish(other, batch(n, [f"lost {n}"])) for n in range(3)]
        server.wind_back()
        again = [await one.publisher.publish(lease, batch(n, [f"c {n}"])) for n in range(2, 5)]
        ids = [each.id for each in (*lost, *again) if isinstance(each, Published)]
        assert len(set(ids)) == 6

    async def test_no_id_that_redis_lost_is_given_again_by_a_worker_that_did_not_receive_it(
        self, client: Redis, server: ShiftedRedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its connection ended before the reply; clients have the batch."""
        worker = Worker(client, "one")
        lease, other = await worker.take(LOG), await worker.take(OTHER_LOG)
        await worker.publisher.publish(lease, batch(0, ["a"]))
        server.shift(-60)
        await worker.publisher.publish(lease, batch(1, ["b"]))
        server.save_aside()

        send, requests = worker.publisher._publish, list[Any]()

        async def cut(**request: Any) -> None:
            requests.append(request)
            await send(**request)
            raise redis.exceptions.ConnectionError("cut")

        monkeypatch.setattr(worker.publisher, "_publish", cut)
        for its_lease, lost in ((lease, batch(2, ["c", "d"])), (other, batch(0, ["e", "f"]))):
            with pytest.raises(redis.exceptions.ConnectionError):
                await worker.publisher.publish(its_lease, lost)
        monkeypatch.undo()
        before = [each.id for each in (await stored(client))[-2:]]
        server.wind_back()
        for request in reversed(requests):  # as redis-py sends them again
            await send(**request)
        await worker.publisher.publish(lease, batch(4, ["g", "h"]))
        after = [each.id for each in await stored(client)]
        assert len(after) == 5
        assert not set(before) & set(after)
        for entry in before:
            place = await resolve_cursor(client, KEYS, "lite", parse_cursor(f"{entry}-0"))
            assert place.gap is not None

    async def test_that_the_newest_id_is_ahead_is_seen(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        worker = Worker(client, "one")
        lease = await worker.take()
        server.shift(30 * DAYS)
        await worker.publisher.publish(lease, batch(0, ["a"]))
        await worker.trimmer.trim()
        assert worker.trimmer.ahead == 0
        server.shift(0)
        await worker.trimmer.trim()
        assert worker.trimmer.ahead is not None
        assert abs(worker.trimmer.ahead - 30 * DAYS) < 10


async def test_lost_marks_are_reported_before_what_may_come_again(
    client: Redis, one: Worker
) -> None:
    lease = await one.take()
    async with following(client, ["lite"]) as reader:
        await reader.ready()
        await one.publisher.publish(lease, batch(0, ["a"]))
        for key in [key async for key in client.scan_iter(f"{KEYS.marks}*")]:
            await client.delete(key)  # as a clock that is years ahead for a moment does
        await one.publisher.publish(lease, batch(1, ["a"]))
        await one.publisher.publish(lease, batch(2, ["b"]))
        events = await reader.until(lambda events: len(events) == 4)
    first, gap, again, after = events
    assert isinstance(first, StreamBatch)
    assert isinstance(again, StreamBatch)
    assert isinstance(after, StreamBatch)
    assert gap == Gap("lite", first.id, again.id, FORGOTTEN)
    await one.trimmer.trim()
    assert one.trimmer.remembered is not None
    assert one.trimmer.remembered < 60
    assert [first.forgot, again.forgot, after.forgot] == [False, True, False]


class TestShareOfMemory:
    @pytest.fixture
    def server(self, executable: str, tmp_path: Path) -> Iterator[ShiftedRedisServer]:
        if not FAKETIME.exists():
            pytest.skip(f"no {FAKETIME}")
        server = ShiftedRedisServer(executable, tmp_path, maxmemory=32 * 1024 * 1024)
        server.start()
        yield server
        server.kill()

    async def test_the_oldest_window_expires_unless_a_retained_message_needs_it(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        """A window takes 4 MiB at least: half of 32 MiB has room for three."""
        settings = PublisherSettings(remember_ms=86_400_000)
        worker = Worker(client, "one", settings, retention=retain(10**9, 0))
        lease = await worker.take()
        await worker.publisher.configure()
        for number in range(5):
            server.shift(number * 1800.0)
            await worker.publisher.publish(lease, batch(number, [str(number)]))
        await worker.trimmer.trim()
        digests = [message(str(number)).sha256 for number in range(5)]
        assert await worker.publisher.find_known(digests) == [True] * 5, "all are retained"
        assert worker.trimmer.marks_bytes is not None
        assert worker.trimmer.marks_bytes > 16 * 1024 * 1024
        assert worker.trimmer.remembered is not None
        assert worker.trimmer.remembered == settings.remember_ms / 1000, "nothing was forgotten"

        newest = (await stored(client))[-1].id
        for stream in ("full", "lite", "domains"):
            await client.xtrim(KEYS.stream(stream), minid=newest, approximate=False)
        await worker.trimmer.trim()
        assert await worker.publisher.find_known(digests) == [False, False, True, True, True]
        assert worker.trimmer.remembered < 3 * 1800 < settings.remember_ms / 1000
        window = (await snapshot(client, KEYS)).dedup_window
        assert window is not None
        assert abs(window / 1000 - worker.trimmer.remembered) < 60
        assert await find_by_fingerprint(client, KEYS, message("4").sha256) is not None
        names = [key async for key in client.scan_iter(f"{KEYS.marks}*")]
        assert len(names) == 6, "a filter and a hash for each certificate that is known"

    async def test_a_full_redis_loses_messages_then_the_marks_that_none_needs(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        settings = PublisherSettings(remember_ms=86_400_000)
        worker = Worker(client, "one", settings, retention=retain(10**9, 0))
        lease = await worker.take()
        await worker.publisher.configure()
        for number in range(12):  # 48 MiB of filters alone
            server.shift(number * 1800.0)
            await worker.publisher.publish(lease, batch(number, [str(number)]))
        assert (await log_status(client)).published == 12
        used = (await client.info("memory"))["used_memory"]
        assert used <= 40 * 1024 * 1024, "maxmemory, a filter more, and what is freed at the time"


class TestPace:
    """The interval of an operator follows its answers; the test sets the clock of Redis."""

    INTERVAL = 0.1

    async def refused(self, operators: OperatorSlots, times: int) -> None:
        for _ in range(times):
            await operators.record_429("Example", LOG, 5, self.INTERVAL, requested=False)

    async def interval(self, operators: OperatorSlots, answered: int = 0) -> float:
        return (await operators.reserve("Example", self.INTERVAL, answered)).interval

    async def test_it_grows_while_a_quarter_of_the_answers_are_429(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        operators = OperatorSlots(client, KEYS)
        await self.interval(operators, answered=20)
        await self.refused(operators, 4)
        assert await self.interval(operators) == self.INTERVAL
        for second in range(1, 20):
            await self.refused(operators, 2)
            grown = min(self.INTERVAL * 1.25**second, 1.0)
            assert await self.interval(operators) == pytest.approx(grown, rel=0.01)
            server.shift(second + 0.1 * second)

    async def test_fewer_429_than_a_quarter_do_not_slow_it_down(self, client: Redis) -> None:
        operators = OperatorSlots(client, KEYS)
        for _ in range(10):
            await self.refused(operators, 1)
            assert await self.interval(operators, answered=4) == self.INTERVAL

    async def test_it_shrinks_after_five_quiet_seconds(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        operators = OperatorSlots(client, KEYS)
        for second in range(5):
            server.shift(1.1 * second)
            await self.refused(operators, 5)
        slow = self.INTERVAL * 1.25**5
        assert await self.interval(operators) == pytest.approx(slow, rel=0.01)
        server.shift(4.4 + 4.5)
        assert await self.interval(operators) == pytest.approx(slow, rel=0.01)
        server.shift(4.4 + 6.0)
        faster = await self.interval(operators, answered=20)
        assert self.INTERVAL < faster < slow
        server.shift(4.4 + 30.0)
        assert await self.interval(operators) == self.INTERVAL

    async def test_old_answers_do_not_count(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        operators = OperatorSlots(client, KEYS)
        await self.refused(operators, 4)
        server.shift(61)
        await self.refused(operators, 1)
        assert await self.interval(operators) == self.INTERVAL

    async def test_lost_state_starts_at_the_configured_interval(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        operators = OperatorSlots(client, KEYS)
        await self.refused(operators, 5)
        assert await self.interval(operators) > self.INTERVAL
        await client.flushdb()
        assert await self.interval(operators) == self.INTERVAL
