"""The clock of Redis is wrong again and again: nothing is lost, repeated, or held up."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from launcher.runtime.embedded_redis import find_executable
from simlog.oracle.oracle import judge
from tests.certbus.servers import FAKETIME, ShiftedRedisServer
from tests.e2e.clients import all_received, connected
from tests.e2e.site import HURRIED, Site
from tests.waiting import until

DAYS = 86_400.0
CERTIFICATES = 2_000
MIN_ENTRIES = 60  # entries that are published before the clock is set again

pytestmark = pytest.mark.slow


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[ShiftedRedisServer]:
    if not FAKETIME.exists():
        pytest.skip(f"no {FAKETIME}")
    directory = tmp_path / "redis"
    directory.mkdir()
    server = ShiftedRedisServer(find_executable(), directory)
    server.start()
    yield server
    server.kill()


async def test_a_clock_that_is_wrong_again_and_again(redis: ShiftedRedisServer, site: Site) -> None:
    site.redis_url = redis.url
    await site.start_logs(
        rfc6962=1,
        static_ct=1,
        operators=1,
        duplicates=0.3,
        rate=60,
        total=CERTIFICATES,
        seed=3,
        start=time.time() + 5,
    )
    await site.configure(ct_log={**HURRIED, "default_operator_rate_limit_ms": 50})
    await site.start_gateway()

    async def progress() -> int:
        return sum(log.next or 0 for log in await site.logs())

    async with connected(site.gateways, ("full", "lite", "domains")) as clients:
        for _ in range(2):
            site.start_ingestor()
        for shift in (0.0, -120.0, 0.0, -1.0, 60.0, 0.0, 30 * DAYS, 0.0):
            redis.shift(shift)
            before = await progress()

            async def goes_on(before: int = before) -> bool:
                return await progress() >= before + MIN_ENTRIES

            await until(goes_on, f"entries that are published at {shift:+} s")
        await until(site.everything_ingested, "everything is ingested", 120)
        for ingestor in site.ingestors:
            assert ingestor.stop() == 0, str(ingestor)
        last = msgspec.json.decode((await site.streams())[0].messages[-1])["id"]
        await all_received(clients, last, 120)
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    assert {each.received for each in verdict.findings} == {CERTIFICATES}
