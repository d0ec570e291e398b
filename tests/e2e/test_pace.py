"""No operator receives more requests than its interval allows, whatever happens to ingestors."""

import asyncio

import msgspec
import pytest

from certbus.connection import connect
from certbus.keys import Keys
from certbus.logs.leases import Leases
from simlog.api import request_stats
from simlog.fault_types import Status
from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.waiting import until

INTERVAL = 0.1  # seconds between two requests to one operator
STORM_SECS = 3.0
LOGS = 6

pytestmark = pytest.mark.slow


async def test_each_operator_receives_at_most_one_request_an_interval(site: Site) -> None:
    """Three ingestors catch up; 429 storms run, one ingestor is killed, another one starts."""
    await site.start_redis()
    await site.start_logs(
        rfc6962=4, static_ct=2, operators=2, preload=9000, rate=20, max_entries=32, seed=3
    )
    await site.configure(
        ct_log={
            "default_operator_rate_limit_ms": int(1000 * INTERVAL),
            "poll_interval_ms": 200,
            "retry_initial_delay_ms": 100,
            "retry_max_delay_ms": 500,
        }
    )
    for _ in range(3):
        site.start_ingestor()
    await until(lambda: all_owned(site), "a worker for each log")
    storms: list[Status | None] = [Status(code=429, share=0.5), None, Status(code=429), None]
    for number, storm in enumerate((*storms, Status(code=429, retry_after=1), None)):
        body = msgspec.json.encode([] if storm is None else [storm])
        await site.put(f"{site.logs_url}/control/*/faults", body)
        if number == 1:
            site.ingestors[0].kill()
        if number == 3:
            site.start_ingestor()
        await asyncio.sleep(STORM_SECS)
    requests = request_stats.read(await site.get(f"{site.logs_url}/requests"))
    for name, counted in requests.operators.items():
        assert counted.statuses.get(429, 0) >= 3, f"{name}: no storm"
        for span in (1, 10):
            most = counted.most(span)
            assert most <= 1 + (span + 0.5) / INTERVAL, (name, span, most)
        assert counted.most(1) >= 0.5 / INTERVAL, f"{name}: nothing catches up"


async def test_a_pause_holds_for_the_next_owner_of_a_log(site: Site) -> None:
    """The ingestor that received a Retry-After is killed; no other one requests the log."""
    await site.start_redis()
    await site.start_logs(rfc6962=2, static_ct=0, operators=2, preload=200, rate=10, seed=4)
    await site.configure()
    for _ in range(2):
        site.start_ingestor()

    async def each_owns_one() -> bool:
        return len({log.owner for log in await site.logs()} - {None}) == 2

    await until(each_owns_one, "a log for each worker, so that none moves")
    (paused, owner) = next((log.name, log.owner) for log in await site.logs())
    fault = msgspec.json.encode([Status(code=429, retry_after=3600)])
    await site.put(f"{site.logs_url}/control/{paused}/faults", fault)

    async def has_paused() -> bool:
        (log,) = [log for log in await site.logs() if log.name == paused]
        return log.retry_at is not None

    await until(has_paused, "a pause in Redis")
    await site.put(f"{site.logs_url}/control/{paused}/faults", b"[]")

    def refused() -> list[Process]:
        return [each for each in site.ingestors if "log rate limited" in each.log.read_text()]

    await until(refused, "the ingestor that received the 429")
    (ingestor,) = refused()
    ingestor.kill()
    counts = [-1]

    async def has_received_all() -> bool:
        """Whether the log has received what the killed ingestor had sent."""
        await asyncio.sleep(0.2)
        counts.append((await requests_to(site, paused)).total)
        return counts[-2] == counts[-1]

    await until(has_received_all, "the last request")

    async def moved() -> bool:
        (log,) = [log for log in await site.logs() if log.name == paused]
        return log.owner not in (None, owner)

    await until(moved, "another owner")
    await asyncio.sleep(2)
    assert (await requests_to(site, paused)).total == counts[-1]


async def test_a_log_whose_start_another_ingestor_found_does_not_wait_for_its_own_lookup(
    site: Site,
) -> None:
    """The ingestor waits for a Retry-After while it looks up where the log starts."""
    await site.start_redis()
    await site.start_logs(rfc6962=1, static_ct=0, preload=200, rate=10, seed=5)
    fault = msgspec.json.encode([Status(code=429, retry_after=600)])
    await site.put(f"{site.logs_url}/control/*/faults", fault)
    await site.configure()
    ingestor = site.start_ingestor()
    await until(lambda: "log rate limited" in ingestor.log.read_text(), "a lookup that waits")
    (log,) = await site.logs()
    client = connect(site.redis_url)
    try:
        await Leases(client, Keys(), "another", ttl=5).set_start(log.log_id, 0)
    finally:
        await client.aclose()

    async def is_owned() -> bool:
        return await all_owned(site, 1)

    await until(is_owned, "an owner")


async def all_owned(site: Site, logs: int = LOGS) -> bool:
    return sum(log.owner is not None for log in await site.logs()) == logs


async def requests_to(site: Site, log: str) -> request_stats.Counts:
    return request_stats.read(await site.get(f"{site.logs_url}/requests")).logs[log]
