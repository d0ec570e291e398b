"""Misbehaving logs beside honest ones: what is detected, what is published, what is kept."""

import base64
import re
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from certbus.caches.issuers import MAX_COUNT, PARTS
from ingestor.pipeline import prefetch
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
from tests.waiting import until

# Number of tree heads in the evidence, by kind of violation.
HEADS_SHOWN = {"split": 2, "bad_signature": 1, "wrong_issuer": 0, "forged_precert": 0}


@pytest.mark.parametrize(
    ("violation", "kind", "logs"),
    [
        # From the start.
        ("swapped_leaf:index=620", "wrong_leaf", PAIR),
        ("garbled:index=620", "wrong_leaf", ("rfc1",)),
        ("wrong_leaf_index:index=620", "wrong_leaf", ("static1",)),
        ("wrong_issuer", "wrong_issuer", ("static1",)),
        ("forged_precert:every=2", "forged_precert", PAIR),
        # Of logs that were honest at first.
        ("wrong_root", "root_mismatch", PAIR),
        ({"kind": "wrong_root"}, "split|root_mismatch", PAIR),
        ({"kind": "fork", "at": 100}, "split", PAIR),
        ({"kind": "bad_signature"}, "bad_signature", PAIR),
    ],
)
async def test_a_violation_is_named_and_not_published(
    site: Site, violation: str | dict[str, object], kind: str, logs: tuple[str, ...]
) -> None:
    # A full cache: an issuer cached from an honest log would not be fetched from this one.
    for part in range(PARTS):
        room: dict[Any, Any] = {str(n): "" for n in range(MAX_COUNT // PARTS)}
        await site.redis.hset(site.keys.issuers(part), mapping=room)
    faults = {"fault": f"*1:{violation}"} if isinstance(violation, str) else {}
    await site.simlog.start(rfc6962=2, static_ct=2, preload=2000, rate=200, **faults)
    await site.ingestor("a", **FROM_START)
    if isinstance(violation, dict):

        async def honest_so_far() -> bool:
            found = await by_path(site)
            return all(log in found and (found[log].next or 0) > 400 for log in logs)

        await until(honest_so_far, what="entries from before the violation")
        await switch(site, "*1", violation)
    for log in logs:

        async def caught(log: str = log) -> bool:
            return re.match(f"({kind}): ", await alarms(site, log)) is not None

        await until(caught, what=f"alarm about {log}: {kind}")
        status = (await by_path(site))[log]
        evidence: Any = await site.redis.xrange(site.keys.evidence(status.log_id))
        heads = msgspec.json.decode(evidence[-1][1][b"tree_heads"])
        if kind in HEADS_SHOWN:
            assert len(heads) == HEADS_SHOWN[kind]
        for head in heads:
            assert len(base64.b64decode(head["root"])) == 32
            assert head["signature"]

    async def honest_continue() -> bool:
        found = await by_path(site)
        return all((found[log].next or 0) > 700 for log in ("rfc2", "static2"))

    await until(honest_continue, what="entries of the honest logs")
    assert [await alarms(site, log) for log in ("rfc2", "static2")] == ["", ""]
    found = await findings(site)
    assert found.received > 1000
    assert (found.uncommitted, found.unknown, found.altered, found.repeated) == ((), (), (), ())


async def test_wrong_proofs_hold_back_what_needs_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        prefetch, "MAX_LOG_BYTES", 4 << 20
    )  # less than these logs: runs need proofs
    await site.simlog.start(
        rfc6962=1, static_ct=1, preload=12000, rate=0, fault="*:wrong_proofs", max_entries=256
    )
    await site.ingestor("a", **FROM_START, **{"ct_log.batch_size": 256})

    async def caught() -> bool:
        return all([(await alarms(site, log)).startswith("wrong_proof: ") for log in PAIR])

    await until(caught, what="alarms")
    await switch(site, "*")
    await until(site.complete, what="complete Redis, with the right proofs")
    assert not (await findings(site)).problems
    await assert_frontier_leads_to_head(site)


async def test_wrong_proofs_are_no_split(site: Site) -> None:
    """Stale tree heads, with wrong proofs by which they are of another tree."""
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=200)
    await site.ingestor("a", **FROM_START)
    await until(lambda: shown(site, "proven"), "proven logs")
    stale = {"kind": "stale", "share": 0.5, "entries": 37, "only": "head"}
    await switch(site, "*", stale, {"kind": "wrong_proofs", "only": "proofs"})
    before = {name: log.stale for name, log in (await by_path(site)).items()}

    async def shown_often() -> bool:
        return all(log.stale > before[name] + 20 for name, log in (await by_path(site)).items())

    await until(shown_often, "stale tree heads, and wrong proofs of them")
    for log in (await by_path(site)).values():
        assert "split" not in log.alarms_by_kind


async def test_a_log_that_rewinds_is_reported_after_its_mmd(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=0, mmd=1)
    key = await site.simlog.save("log_list_pubkey.pem")
    url = site.simlog.url
    listed = {
        "custom_logs": [],
        "static_logs": [],
        "log_lists": [
            {
                "url": f"{url}/log_list.json",
                "signature_url": f"{url}/log_list.sig",
                "key": str(key),
            }
        ],
    }
    await site.ingestor("a", **FROM_START, **listed)

    async def complete() -> bool:
        logs = (await by_path(site)).values()
        return len(logs) == 2 and all(log.next and log.next == log.tree_size for log in logs)

    await until(complete, what="complete Redis")
    before = {log.log_id: log.next for log in (await by_path(site)).values()}
    await switch(site, "*", {"kind": "rewind", "entries": 50})

    async def rewound() -> bool:
        return all([(await alarms(site, log)).startswith("rewound: ") for log in PAIR])

    await until(rewound, what="alarms")
    stale = {name: log.stale for name, log in (await by_path(site)).items()}

    async def shown_often() -> bool:
        return all(log.stale > stale[name] + 10 for name, log in (await by_path(site)).items())

    await until(shown_often, "more of the older tree heads")
    logs = (await by_path(site)).values()
    assert {log.log_id: log.next for log in logs} == before
    # Reported once, however long it lasts.
    assert [log.alarms_by_kind for log in logs] == [{"rewound": 1}] * 2
    assert {log.integrity for log in logs} == {"lying"}
    assert not (await findings(site)).problems


async def test_an_unsigned_tree_size_is_ignored(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=200)
    await site.ingestor("a", **FROM_START)
    await until(lambda: shown(site, "proven"), what="proven logs")
    await switch(site, "*", {"kind": "bad_signature"})
    sizes = await site.simlog.sizes()

    async def shown_often() -> bool:
        logs, grown = await site.logs(), await site.simlog.sizes()
        return all(log.errors > 4 and grown[name] > sizes[name] + 300 for name, log in logs.items())

    await until(shown_often, what="larger tree heads without a valid signature")
    for name, log in (await site.logs()).items():
        assert max(log.newest or 0, log.tree_size or 0) <= sizes[name]


async def test_no_log_is_blamed_for_a_frontier_that_was_changed_in_redis(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=20)

    async def caught_up() -> bool:
        logs = (await site.logs()).values()
        return len(logs) == 2 and all(330 < (log.next or 0) == log.tree_size for log in logs)

    for name in ("a", "b", "c", "d", "e"):  # one may be stopped in the middle of what is new
        ingestor = await site.ingestor(name, **FROM_START)
        await until(caught_up, "the backlog, and entries that came since")
        await ingestor.stop()
        if await caught_up():
            break
    before = await site.logs()
    for log in before.values():
        assert log.next == log.tree_size
        key = site.keys.log(log.log_id)
        kept: Any = await site.redis.hget(key, "frontier")
        await site.redis.hset(key, "frontier", kept[:-1] + bytes([kept[-1] ^ 1]))
    await site.ingestor("last", **FROM_START)

    async def continued() -> bool:
        logs = await site.logs()
        return all((log.next or 0) > (before[name].next or 0) for name, log in logs.items())

    await until(continued, "entries after a restart")
    assert {log.alarms for log in (await site.logs()).values()} == {0}


async def test_how_long_a_log_is_below_its_tree_survives_a_restart(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=0)
    first = await site.ingestor("a", **FROM_START)
    await until(site.complete, what="complete Redis")
    await until(lambda: shown(site, "proven"), what="proven logs")
    await switch(site, "*", {"kind": "rewind", "entries": 50})

    async def below() -> bool:
        return all(log.stale > 1 for log in (await site.logs()).values())

    await until(below, what="older tree heads")
    await first.stop()
    for log in (await site.logs()).values():
        for field in ("below_since", "tree_timestamp"):  # as if both were a day older
            stored = int(await site.redis.hget(site.keys.log(log.log_id), field) or 0)
            await site.redis.hset(site.keys.log(log.log_id), field, stored - 86_400_000)
    second = await site.ingestor("b", **FROM_START)

    async def rewound() -> bool:
        return all([(await alarms(site, log)).startswith("rewound: ") for log in PAIR])

    await until(rewound, what="alarms")
    await switch(site, "*")
    await until(lambda: shown(site, "proven"), what="proven logs")
    await second.stop()
    for log in (await site.logs()).values():
        assert not await site.redis.hexists(site.keys.log(log.log_id), "below_since")


async def test_a_violation_in_each_window_is_counted_and_reported_once(site: Site) -> None:
    fault = "*:forged_precert:every=5"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=200, fault=fault)
    with capture_logs() as lines:
        await site.ingestor("a", **FROM_START)

        async def often() -> bool:
            counts = [log.alarms_by_kind for log in (await site.logs()).values()]
            return len(counts) == 2 and all(kinds.get("forged_precert", 0) > 4 for kinds in counts)

        await until(often, what="violations")
    failed = [line for line in lines if line["event"] == "log verification failed"]
    assert sorted(line["log"] for line in failed) == ["rfc1", "static1"]
    assert {line["entries"] for line in failed} == {"rejected"}
    for log in (await site.logs()).values():
        assert await site.redis.xlen(site.keys.evidence(log.log_id)) == 1
        assert log.alarms == log.alarms_by_kind["forged_precert"]
        assert re.fullmatch(r"forged_precert: entry \d+: the leaf .*", log.alarm or "")


async def test_a_log_that_misbehaves_at_times_is_followed_and_fills_no_log_file(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=60)
    with capture_logs() as lines:
        await site.ingestor("a", **FROM_START)
        await until(lambda: shown(site, "proven"), what="proven logs")
        await switch(site, "*", {"kind": "fork", "at": 100, "share": 0.5, "only": "head"})

        async def often() -> bool:
            return all(log.errors > 8 for log in (await site.logs()).values())

        await until(often, what="violations")
        await switch(site, "*")
        sizes = await site.simlog.sizes()

        async def continued() -> bool:
            return all((log.next or 0) > sizes[name] for name, log in (await site.logs()).items())

        await until(continued, what="entries of honest logs")
    for log in PAIR:
        events = [line["event"] for line in lines if line.get("log") == log]
        assert events.count("log unavailable") == 1
        assert events.count("log verification failed") <= 3  # one of a kind
    assert not (await findings(site)).uncommitted


async def test_an_emptied_redis_is_filled_with_what_is_proven(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=20)
    await site.ingestor("a", **FROM_START)
    await until(lambda: shown(site, "proven"), what="proven logs")
    await site.redis.flushall()
    await until(lambda: shown(site, "proven"), what="proven logs in an emptied Redis")
