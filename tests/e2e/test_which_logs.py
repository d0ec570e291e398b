"""Which logs are followed, and as whom, changes while they are: nothing lost, nothing twice."""

import time
from functools import partial
from typing import Any

import pytest
import yaml

from simlog.api.log_list import Edition
from simlog.oracle.oracle import judge
from tests.e2e.site import Site
from tests.waiting import until

CERTIFICATES = 4_000
OVER = {"rfc1", "static2"}

pytestmark = pytest.mark.slow


async def running(site: Site, **options: object) -> None:
    """Redis, and two logs of each kind that soon begin to grow."""
    await site.start_redis()
    await site.start_logs(
        rfc6962=2,
        static_ct=2,
        duplicates=0.3,
        rate=200,
        seed=5,
        start=time.time() + 6,
        **options,
    )


async def published(site: Site, entries: int) -> bool:
    return sum(log.published for log in await site.logs()) >= entries


async def assert_flawless(site: Site) -> None:
    verdict = judge(await site.record(), await site.streams(), await site.tallies())
    assert verdict.flawless, f"\n{verdict}\n{site.report()}"
    assert [each.received for each in verdict.findings] == [CERTIFICATES] * 3


async def by_url_only(site: Site) -> dict[str, Any]:
    """The simulated logs, configured by their URLs alone."""
    config = yaml.safe_load(await site.get(f"{site.logs_url}/config.yaml"))
    return {
        kind: [{"name": log["name"], "url": log["url"]} for log in config[kind]]
        for kind in ("custom_logs", "static_logs")
    }


async def test_logs_are_renamed_under_ingestors_that_know_their_urls_only_and_are_killed(
    site: Site,
) -> None:
    await running(site, total=CERTIFICATES)
    await site.publish_list(Edition(lie="unavailable"))
    ignorant = site.save("by_url.yaml", await by_url_only(site))
    listed = site.save("by_list.yaml", {"log_lists": [await site.log_list()]})
    for config in (ignorant, ignorant, listed):
        site.start_ingestor(config)

    async def known() -> bool:
        return not any(log.log_id.startswith("url-") for log in await site.logs())

    await until(lambda: published(site, 300), "entries of logs without a key")
    assert not await known()
    await site.publish_list(Edition(number=1))
    await site.refresh_lists()
    await until(known, "every log has the id of its key")
    assert not await site.everything_ingested(), "they are renamed while they grow"
    for ingestor in site.ingestors:
        ingestor.kill()
        ingestor.restart()
    await until(site.everything_ingested, "everything is ingested", 120)
    assert site.ingestors[-1].log.read_text().count("log renamed") == 4
    await assert_flawless(site)


async def test_retired_logs_are_drained_and_dropped_while_ingestors_share_all_of_them(
    site: Site,
) -> None:
    await running(site, total=2_000, mmd=1)
    site.save("config.yaml", {"log_lists": [await site.log_list()]})
    for _ in range(2):
        site.start_ingestor()

    async def states(*wanted: str) -> bool:
        return {log.name for log in await site.logs() if log.state in wanted} == OVER

    async def listed() -> bool:
        return await site.listed() == 4

    await until(lambda: published(site, 300), "entries of all logs")
    await until(listed, "that the list names them")
    await site.publish_list(Edition(number=1, states={"rfc1": "retired"}, left_out=("static2",)))
    await site.refresh_lists()
    await until(lambda: states("draining", "retired"), "two logs are draining or retired")
    for ingestor in site.ingestors:
        ingestor.kill()
        ingestor.restart()
    await until(lambda: states("retired"), "that both are drained")
    ends = {log.name: log.next or 0 for log in await site.logs() if log.state == "retired"}
    assert all(ends.values())
    await until(partial(site.everything_ingested, OVER), "all of the others", 120)
    logs = [log for log in await site.logs() if log.name in OVER]
    assert {log.name: log.next for log in logs} == ends
    assert [log.owner for log in logs] == [None, None]
    # In this world they grow on all the same, which is nobody's business any more.
    beyond = {name: range(end, 1 << 31) for name, end in ends.items()}
    verdict = judge(await site.record(), await site.streams(), await site.tallies(), beyond)
    assert verdict.flawless, f"\n{verdict}\n{site.report()}"
