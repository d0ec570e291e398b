"""Which logs are followed, and as whom, changes while they are: nothing lost, nothing twice."""

import time
from typing import Any

import pytest
import yaml

from simlog.loglist import Edition
from simlog.oracle import judge
from tests.e2e.site import Site
from tests.waiting import until

CERTIFICATES = 4_000

pytestmark = pytest.mark.slow


async def running(site: Site) -> None:
    """Redis, and two logs of each kind that soon begin to grow, for twenty seconds."""
    await site.start_redis()
    await site.start_logs(
        rfc6962=2,
        static_ct=2,
        duplicates=0.3,
        rate=200,
        total=CERTIFICATES,
        seed=5,
        start=time.time() + 6,
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


async def test_logs_are_renamed_under_ingestors_that_know_their_urls_only_and_are_killed(
    site: Site,
) -> None:
    await running(site)
    await site.publish_list(Edition(lie="unavailable"))
    ignorant = site.save("by_url.yaml", await by_url_only(site))
    listed = site.save("by_list.yaml", {"log_lists": [await site.log_list()]})
    for config in (ignorant, ignorant, listed):
        site.start_ingestor(config)

    async def known() -> bool:
        return not any(log.log_id.startswith("url-") for log in await site.logs())

    await until(lambda: published(site, 300), "entries of logs without a key", 60)
    assert not await known()
    await site.publish_list(Edition(number=1))
    await site.refresh_lists()
    await until(known, "every log has the id of its key", 30)
    assert not await site.everything_ingested(), "they are renamed while they grow"
    for ingestor in site.ingestors:
        ingestor.kill()
        ingestor.restart()
    await until(site.everything_ingested, "everything is ingested", 120)
    assert site.ingestors[-1].log.read_text().count("log renamed") == 4
    await assert_flawless(site)
