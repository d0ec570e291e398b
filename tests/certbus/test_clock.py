"""The clock of Redis is the only clock of what is stored there, and it may be wrong for a while."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from certbus.directory import Directory, roster, snapshot
from tests.certbus.bus import KEYS, LOG, log_status
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
