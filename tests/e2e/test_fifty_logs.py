"""Fifty logs of ten operators, a third of them with faults at any time; ingestors come and go."""

import asyncio
import time

import msgspec
import pytest

from simlog.api import request_stats
from simlog.fault_types import HTTP_FAULTS
from simlog.oracle.oracle import judge
from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.waiting import until

KINDS = {"rfc": 25, "static": 25}
OPERATORS = 10
FAULT_SECS = 2.5  # seconds that each fault lasts
RATE = 60  # certificates a second

# Seconds between two requests to one operator: its five logs would send more.
INTERVAL = 0.25
POLL = 0.5
# Requests above that rate: slots are used at most half a second late, and requests between
# busy processes may be as long on their way.
BURST = 1 + (0.5 + 0.5) / INTERVAL

pytestmark = pytest.mark.slow


async def test_everything_arrives_once_and_no_operator_is_pressed(site: Site) -> None:
    await site.start_redis()
    await site.start_logs(
        rfc6962=KINDS["rfc"],
        static_ct=KINDS["static"],
        operators=OPERATORS,
        duplicates=0.3,
        preload=1000,
        rate=RATE,
        total=1000 + int(RATE * FAULT_SECS * len(HTTP_FAULTS)),
        start=time.time() + 3,
        seed=6,
    )
    await site.configure(
        ct_log={
            "default_operator_rate_limit_ms": int(1000 * INTERVAL),
            "operator_rate_limits": {},
            "poll_interval_ms": int(1000 * POLL),
            "request_timeout_secs": 3,
            "retry_initial_delay_ms": 100,
            "retry_max_delay_ms": 500,
            "unhealthy_threshold": 3,
            "health_check_interval_secs": 1,
        }
    )
    for _ in range(3):
        site.start_ingestor()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(add_faults(site))
        tasks.create_task(come_and_go(site))
    await until(site.everything_ingested, "everything is ingested all the same")
    verdict = judge(await site.record(), await site.streams(), await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    requests = request_stats.read(await site.get(f"{site.logs_url}/requests"))
    assert len(requests.operators) == OPERATORS
    for span in (1, 5, 20):
        most = {name: counted.most(span) for name, counted in requests.operators.items()}
        assert max(most.values()) <= span / INTERVAL + BURST, (span, most)
        # At least in one second: a slow machine reaches no pace for longer.
        assert span > 1 or max(most.values()) >= 0.6 / INTERVAL, f"all are far below: {most}"


async def add_faults(site: Site) -> None:
    """Every trouble in turn, each on another third of the logs."""
    names = [f"{kind}{n}" for kind, logs in KINDS.items() for n in range(1, logs + 1)]
    for turn, trouble in enumerate(HTTP_FAULTS):
        for position, name in enumerate(names):
            faults = [trouble] if (position + turn) % 3 == 0 else []
            await site.put(f"{site.logs_url}/control/{name}/faults", msgspec.json.encode(faults))
        await asyncio.sleep(FAULT_SECS)
    await site.put(f"{site.logs_url}/control/*/faults", b"[]")


async def come_and_go(site: Site) -> None:
    """One ingestor after the other is killed or stopped, and started again."""
    log_sizes = {ingestor.name: 0 for ingestor in site.ingestors}
    for turn in range(len(HTTP_FAULTS) // 2):
        await asyncio.sleep(FAULT_SECS)
        ingestor = site.ingestors[turn % len(site.ingestors)]

        def works(ingestor: Process = ingestor) -> bool:
            return "log assigned" in ingestor.log.read_text()[log_sizes[ingestor.name] :]

        await until(works, f"{ingestor.name} follows logs")
        if turn % 2:
            assert await asyncio.to_thread(ingestor.stop) == 0, str(ingestor)
        else:
            ingestor.kill()
        await asyncio.sleep(FAULT_SECS)
        log_sizes[ingestor.name] = len(ingestor.log.read_text())
        ingestor.restart()
