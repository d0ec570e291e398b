"""The clock of Redis is the only clock of what is stored there, and it may be wrong for a while."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from certbus.circuits import Circuits, CircuitStatus
from certbus.directory import Directory, roster, snapshot
from certbus.ledger import Ledger
from certbus.limits import Connected, ConnectionCounts, LetIn, Rate, RateLimits
from certbus.operators import Operators
from certbus.shelf import Shelf
from tests.certbus.bus import KEYS, LOG, OTHER_LOG, Worker, batch, log_status
from tests.certbus.servers import FAKETIME, ShiftedRedisServer
from tests.waiting import until

DAYS = 86_400.0
SHIFTS = [-120.0, -1.0, 60.0, 30 * DAYS]


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
    async def test_skew_between_redis_and_the_host_hides_nobody(
        self, client: Redis, server: ShiftedRedisServer, shift: float
    ) -> None:
        server.shift(shift)
        directory = Directory(client, KEYS)
        await directory.worker_alive("w1", {"loads": "{}"})
        await directory.worker_alive("w2", {"loads": "{}"})
        await directory.gateway_alive("g1", {})
        await directory.log_succeeded(LOG)
        await client.sadd(KEYS.logs, LOG)
        seen = await snapshot(client, KEYS)
        assert [member.id for member in seen.workers] == ["w1", "w2"]
        assert [member.id for member in seen.gateways] == ["g1"]
        assert (await roster(client, KEYS)).loads == {"w1": {}, "w2": {}}
        last_success = (await log_status(client)).last_success
        assert last_success is not None
        assert 0 <= seen.now - last_success < 10_000

    @pytest.mark.parametrize("shift", SHIFTS)
    async def test_after_a_shift_the_living_are_seen_with_their_next_heartbeat(
        self, client: Redis, server: ShiftedRedisServer, shift: float
    ) -> None:
        directory = Directory(client, KEYS)
        await directory.worker_alive("w1", {})
        server.shift(shift)
        await directory.worker_alive("w1", {})
        assert [member.id for member in (await snapshot(client, KEYS)).workers] == ["w1"]

    async def test_a_clock_set_back_keeps_no_dead_member(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        server.shift(30 * DAYS)
        await Directory(client, KEYS).worker_alive("dead", {})
        server.shift(0)
        assert (await snapshot(client, KEYS)).workers == []
        assert (await roster(client, KEYS)).loads == {}
        await Directory(client, KEYS).worker_alive("living", {})
        assert await client.zrange(KEYS.workers, 0, -1) == [b"living"]

    async def test_a_member_that_dies_before_a_small_step_back_is_gone_soon(
        self, client: Redis, server: ShiftedRedisServer
    ) -> None:
        await Directory(client, KEYS, ttl=0.2).worker_alive("dead", {})
        server.shift(-1)

        async def nobody() -> bool:
            return not (await snapshot(client, KEYS)).workers

        await until(nobody, "the dead worker is not shown")


class TestSetBack:
    """What was stored while the clock was ahead holds nobody up once it is right again."""

    @pytest.fixture(params=[120.0, 1.0, 30 * DAYS])
    def ahead(self, request: pytest.FixtureRequest, server: ShiftedRedisServer) -> float:
        server.shift(request.param)
        return float(request.param)

    async def test_turns_of_an_operator(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        operators = Operators(client, KEYS)
        assert await operators.turn("Example", 0.5) == 0
        server.shift(0)
        assert await operators.turn("Example", 0.5) <= 0.5
        assert await operators.turn("Example", 0.5) <= 1.0

    async def test_the_pause_of_an_operator_is_no_longer_than_it_was(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        operators = Operators(client, KEYS)
        await operators.refused("Example", LOG, 60)
        assert await operators.refused("Example", OTHER_LOG, 60)
        server.shift(0)
        assert 0 < await operators.turn("Example", 0.5) <= 60

    async def test_requests_of_a_client(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        limits, rate = RateLimits(client, KEYS), Rate(1, 100, 0, 1, 1, 1000)
        while (await limits.take([("one", rate)]))[0].allowed:
            pass
        server.shift(0)

        async def allowed() -> bool:
            return (await limits.take([("one", rate)]))[0].allowed

        await until(allowed, "an allowed request", 10)

    async def test_connections_of_a_gateway_that_is_gone(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        gone, living = (ConnectionCounts(client, KEYS, name, 0.2) for name in ("gone", "living"))
        await gone.begin()
        assert await gone.count(1, None, [Connected("a", 0, 1)]) == [LetIn(1, False)]
        server.shift(0)

        async def let_in() -> bool:
            counted = await living.count(1, None, [Connected("a", 0, 1)])
            if counted is None:
                await living.begin()
            return counted == [LetIn(1, False)]

        await until(let_in, "the place of the gateway that is gone", 10)

    async def test_a_lease_of_a_worker_that_is_gone(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        await Worker(client, "gone", ttl=0.2).take()
        server.shift(0)
        other = Worker(client, "other", ttl=0.2)

        async def taken() -> bool:
            return await other.leases.acquire(LOG, None) is not None

        await until(taken, "the log of the worker that is gone", 10)

    async def test_a_log_list_is_asked_for(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        shelf = Shelf(client, KEYS)
        assert await shelf.claim("list", 0.5)
        server.shift(0)

        async def claimed() -> bool:
            return await shelf.claim("list", 0.5)

        if ahead != 120:  # within two hours, as any list that was asked for
            await until(claimed, "the claim", 10)

    async def test_the_circuit_of_a_log(
        self, client: Redis, server: ShiftedRedisServer, ahead: float
    ) -> None:
        circuits = Circuits(client, KEYS)
        now = int(time.time() * 1000)
        await circuits.save(LOG, CircuitStatus("open", 5, now + 60_000))
        # A process that reads it meanwhile waits as long, whatever its own clock says.
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
    ledger = Ledger(client, KEYS)
    await ledger.alarm(LOG, "split_view", "two trees", [])
    await ledger.stale(LOG)
    await Circuits(client, KEYS).failed(LOG, CircuitStatus("closed", 1), "HTTP 500")
    now = (await snapshot(client, KEYS)).now
    status = await log_status(client)
    below_since = int(await client.hget(KEYS.log(LOG), "below_since") or 0)
    for at in (status.alarm_at, status.last_error_at, below_since):
        assert at is not None
        assert 0 <= now - at < 10_000
    assert (status.alarms, status.stale, status.errors) == (1, 1, 1)
