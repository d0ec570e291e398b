"""Logs that are honest: with proofs, without, behind balancers, and in each mode of integrity."""

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from certconf import load
from ctparse.v2_message import Verification
from simlog.api import request_stats
from tests.ingestor.site import Site
from tests.ingestor.verification.proofs import (
    FROM_START,
    PAIR,
    alarms,
    assert_frontier_leads_to_head,
    by_path,
    findings,
    shown,
    switch,
)
from tests.retained import history
from tests.waiting import until


async def test_warn_reports_and_publishes(site: Site) -> None:
    fault = "*1:swapped_leaf:index=620"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=2000, rate=0, fault=fault)
    with capture_logs() as lines:
        await site.ingestor("a", **FROM_START, **{"ct_log.integrity": "warn"})
        await until(site.complete, what="complete Redis")
    failed = [line for line in lines if line["event"] == "log verification failed"]
    assert {(line["kind"], line["entries"]) for line in failed} == {("wrong_leaf", "published")}
    # One certificate, if the entries in whose place it is shown are of one kind.
    assert len((await findings(site)).uncommitted) in (1, 2)
    assert {log.alarms > 0 for log in (await site.logs()).values()} == {True}
    batches = await history(site.redis, site.keys, "lite", "0-0", 1_000_000)
    found = {batch.verification for batch in batches}
    assert found - {Verification("verified", "verified")} == {Verification("verified", "failed")}


async def test_a_log_without_proofs_gets_no_request_for_one_at_each_poll(site: Site) -> None:
    fault = "*:status:code=404,only=proofs"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=1500, rate=50, fault=fault)
    await site.ingestor("a", **{"ct_log.start_index": 500, "ct_log.integrity": "warn"})

    async def requests(log: str) -> request_stats.Counts:
        async with httpx.AsyncClient(trust_env=False) as http:
            return request_stats.read((await http.get(f"{site.simlog.url}/requests")).content).logs[
                log
            ]

    async def beyond() -> bool:
        found = await by_path(site)
        return all(log in found and (found[log].next or 0) > 700 for log in PAIR)

    await until(beyond, "entries, unproven")
    for log in PAIR:
        before = await requests(log)

        async def often(log: str = log, total: int = before.total) -> bool:
            return (await requests(log)).total > total + 20

        await until(often, "more polls")
        assert (await requests(log)).statuses[404] == before.statuses[404]
    assert {log.alarms_by_kind.get("no_proof") for log in (await site.logs()).values()} == {1}


async def test_off_verifies_nothing(site: Site) -> None:
    fault = "*1:bad_signature"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=2000, rate=0, fault=fault)
    await site.ingestor("a", **FROM_START, **{"ct_log.integrity": "off"})
    await until(site.complete, what="complete Redis")
    assert {(log.integrity, log.alarms) for log in (await site.logs()).values()} <= {
        ("off", 0),
        ("", 0),
    }


async def test_a_start_in_the_middle_is_proven(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=2, preload=6000, rate=100)
    ingestor = await site.ingestor("a", **{"ct_log.start_index": 777})

    async def beyond(size: int = 1600) -> bool:
        logs = await site.logs()
        return len(logs) == 4 and all((log.next or 0) > size for log in logs.values())

    await until(beyond, what="entries")
    await ingestor.stop()
    stopped = await site.logs()
    await site.ingestor("b")
    sizes = {name: log.next or 0 for name, log in stopped.items()}

    async def continued() -> bool:
        logs = await site.logs()
        return all((log.next or 0) > sizes[name] + 20 for name, log in logs.items())

    await until(continued, what="entries after a restart")
    await until(lambda: shown(site, "proven"), what="proven logs")
    assert {(log.alarms, log.start) for log in (await site.logs()).values()} == {(0, 777)}


async def test_a_start_that_cannot_be_proven_is_held_back(site: Site) -> None:
    fault = "*1:status:code=404,only=proofs"
    await site.simlog.start(rfc6962=2, static_ct=1, preload=2000, rate=0, fault=fault)
    with capture_logs() as lines:
        first = await site.ingestor("a", **FROM_START | {"ct_log.start_index": 500})

        async def honest_complete() -> bool:
            found = await by_path(site)
            missing = [line for line in lines if line["event"] == "log proof missing"]
            complete = "rfc2" in found and found["rfc2"].next == found["rfc2"].tree_size
            return complete and len(missing) == 2

        await until(honest_complete, what="the honest log, and word of the others")
    for line in lines:
        if line["event"] == "log proof missing":
            assert "`integrity: warn`" in line["problem"]
    found = await by_path(site)
    assert [found[log].next for log in PAIR] == [500, 500]
    assert {found[log].alarms for log in found} == {0}
    await first.stop()
    await site.ingestor("b", **FROM_START, **{"ct_log.integrity": "warn"})
    await until(site.complete, what="complete Redis")


async def test_a_log_without_proofs_publishes_what_a_root_confirms(site: Site) -> None:
    fault = "*:status:code=404,only=proofs"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=700, rate=50, fault=fault)
    await site.ingestor("a", **FROM_START)

    async def beyond() -> bool:
        logs = await site.logs()
        return len(logs) == 2 and all((log.next or 0) > 400 for log in logs.values())

    await until(beyond, what="entries")
    assert {log.alarms for log in (await site.logs()).values()} == {0}


async def test_honest_logs_in_every_trouble_never_alarm(site: Site) -> None:
    await site.simlog.start(
        rfc6962=3, static_ct=3, preload=3000, rate=100, troubles=0.7, total=4500
    )
    await site.ingestor("a", **{"ct_log.start_index": 0})
    await until(site.complete, "complete Redis", 60)
    await until(lambda: shown(site, "proven"), what="proven logs")
    assert {log.alarms for log in (await site.logs()).values()} == {0}
    await assert_frontier_leads_to_head(site)


async def test_replicas_that_are_behind_are_never_alarming(site: Site) -> None:
    """As behind a balancer: no replica has the newest entries, nor proofs of them."""
    await site.simlog.start(rfc6962=1, static_ct=1, preload=1500, rate=300)
    await switch(
        site,
        "*",
        {"kind": "stale", "share": 0.5, "entries": 40, "only": "head"},
        {"kind": "stale", "share": 1, "entries": 120, "only": "entries"},
        {"kind": "stale", "share": 1, "entries": 200, "only": "proofs"},
    )
    await site.ingestor("a", **{"ct_log.start_index": 500, "ct_log.retry_max_delay_ms": 5000})

    async def beyond() -> bool:
        logs = await site.logs()
        return len(logs) == 2 and all((log.next or 0) > 1500 for log in logs.values())

    await until(beyond, "entries that no replica had at first", 30)
    assert {log.alarms for log in (await site.logs()).values()} == {0}
    assert await site.redis.keys(f"{site.keys.evidence('')}*") == []
    await until(lambda: shown(site, "proven"), "proven logs")


@pytest.mark.parametrize("integrity", ["enforce", "warn"])
async def test_a_backlog_without_proofs(site: Site, integrity: str) -> None:
    """More than is fetched at once: read twice before it is published, or published unproven."""
    fault = "*:status:code=404,only=proofs"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=6000, rate=0, fault=fault)
    hurried = {"ct_log.batch_size": 256, "ct_log.integrity": integrity}
    await site.ingestor("a", **FROM_START, **hurried)
    await until(site.complete, "complete Redis")
    assert not (await findings(site)).problems
    if integrity == "enforce":
        await until(lambda: shown(site, "proven"), "proven logs")
        await assert_frontier_leads_to_head(site)
    assert {log.alarms for log in (await site.logs()).values()} == {0}


async def test_a_violation_in_a_backlog_without_proofs(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=6000, rate=0)
    await switch(
        site,
        "*",
        {"kind": "status", "code": 404, "only": "proofs"},
        {"kind": "swapped_leaf", "index": 620},
    )
    await site.ingestor("a", **FROM_START, **{"ct_log.batch_size": 256})

    async def caught() -> bool:
        return all([(await alarms(site, log)).startswith("root_mismatch: ") for log in PAIR])

    await until(caught, "alarms")
    assert {log.next for log in (await site.logs()).values()} == {0}


async def test_a_log_without_a_key_is_proven_but_unsigned(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=0)
    config = load(await site.simlog.config(), {}, {})

    def keyless(logs: tuple[msgspec.Struct, ...]) -> list[dict[str, object]]:
        dropped = {"key", "expected_log_id"}
        return [
            {
                k: v
                for k, v in msgspec.to_builtins(log).items()
                if v is not None and k not in dropped
            }
            for log in logs
        ]

    overrides = {
        "custom_logs": keyless(config.custom_logs),
        "static_logs": keyless(config.static_logs),
    }
    await site.ingestor("a", **FROM_START, **overrides)
    await until(site.complete, what="complete Redis")

    await until(lambda: shown(site, "unsigned"), what="unsigned logs")
    await assert_frontier_leads_to_head(site)
