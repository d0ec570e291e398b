"""Which logs are followed, and as whom, changes while they are: nothing lost, nothing twice."""

import time
from typing import Any

import pytest
import yaml

from simlog.oracle import judge
from tests.e2e.site import Site
from tests.e2e.test_exactly_once import killing
from tests.waiting import until

CERTIFICATES = 4_500

pytestmark = pytest.mark.slow


async def running(site: Site) -> None:
    """Redis, and two logs of each kind that grow for fifteen seconds."""
    await site.start_redis()
    await site.start_logs(
        rfc6962=2,
        static_ct=2,
        duplicates=0.3,
        rate=300,
        total=CERTIFICATES,
        seed=5,
        start=time.time() + 3,
    )


async def published(site: Site, entries: int) -> bool:
    return sum(log.published for log in await site.logs()) >= entries


async def assert_flawless(site: Site) -> None:
    verdict = judge(await site.record(), await site.streams(), await site.tallies())
    assert verdict.flawless, f"\n{verdict}\n{site.report()}"
    assert [each.received for each in verdict.findings] == [CERTIFICATES] * 3


async def by_url_only(site: Site) -> dict[str, Any]:
    """The simulated logs as somebody configures them who knows no more than where they are."""
    config = yaml.safe_load(await site.get(f"{site.logs_url}/config.yaml"))
    return {
        kind: [{"name": log["name"], "url": log["url"]} for log in config[kind]]
        for kind in ("custom_logs", "static_logs")
    }


async def test_logs_are_renamed_under_ingestors_that_are_killed_and_know_their_urls_only(
    site: Site,
) -> None:
    await running(site)
    ignorant = site.save("by_url.yaml", await by_url_only(site))
    knowing = site.save("by_list.yaml", {"log_lists": [await site.log_list()]})
    for _ in range(2):
        site.start_ingestor(ignorant)
    await until(lambda: published(site, 500), "entries of logs without a key", 60)
    assert all(log.log_id.startswith("url-") for log in await site.logs())
    better = site.start_ingestor(knowing)

    async def renamed() -> bool:
        return not any(log.log_id.startswith("url-") for log in await site.logs())

    async with killing(site.ingestors, seed=2):
        await until(renamed, "every log has the id of its key", 60)
        assert not await site.everything_ingested(), "they are renamed while they grow"
        at = sum(log.published for log in await site.logs())
        await until(lambda: published(site, at + 500), "more entries", 60)
    await until(site.everything_ingested, "everything is ingested", 150)
    assert better.log.read_text().count("log renamed") == 4
    await assert_flawless(site)
