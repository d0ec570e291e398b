"""Logs that lie, and honest ones beside them: what is caught, what is published, what is kept."""

import base64
import re
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from certbus.directory import LogStatus
from certbus.issuers import MOST
from certbus.reader import history
from certconf import load
from ctparse.merkle import Frontier
from simlog import record, traffic
from simlog.oracle import Delivery, Findings, judge
from tests.ingestor.site import Site
from tests.waiting import until

FROM_START = {"ct_log.start_index": 0, "ct_log.retry_max_attempts": 1}
PAIR = ("rfc1", "static1")
# In the evidence of a lie, where it is not one.
HEADS_SHOWN = {"split": 2, "bad_signature": 1, "wrong_issuer": 0, "forged_precert": 0}


async def findings(site: Site) -> Findings:
    """What the oracle says of the lite stream."""
    async with httpx.AsyncClient(trust_env=False) as http:
        known = record.read((await http.get(f"{site.simlog.url}/record")).content)
    messages = [
        message.replace(b"{", b'{"id":"%b-%d",' % (batch.id.encode(), position), 1)
        for batch in await history(site.redis, site.keys, "lite", "0-0", 1_000_000)
        for position, message in enumerate(batch.messages)
    ]
    return judge(known, [Delivery("stream:lite", "lite", messages)]).findings[0]


async def by_path(site: Site) -> Mapping[str, LogStatus]:
    """Logs by their path on the simulated server."""
    return {log.url.rstrip("/").rpartition("/")[2]: log for log in (await site.logs()).values()}


async def shown(site: Site, state: str) -> bool:
    """Whether the directory says so of every log."""
    return {log.integrity for log in (await site.logs()).values()} == {state}


async def alarms(site: Site, log: str) -> str:
    found = (await by_path(site)).get(log)
    return (found and found.alarm) or ""


async def switch(site: Site, logs: str, *faults: dict[str, object]) -> None:
    """Set what is wrong with these logs from now on."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(f"{site.simlog.url}/control/{logs}/faults", json=faults)
    assert answer.status_code == 200, answer.text


async def assert_frontier_leads_to_head(site: Site) -> None:
    for log in (await site.logs()).values():

        async def leads_there(key: str = site.keys.log(log.log_id)) -> bool:
            kept: dict[Any, Any] = await site.redis.hgetall(key)  # all of one moment
            frontier = Frontier.from_bytes(kept[b"frontier"])
            assert frontier.size == int(kept[b"next"])
            at_head = frontier.size == int(kept[b"tree_size"])
            return at_head and frontier.root() == kept[b"tree_root"]

        await until(leads_there, f"the root of {log.name}")


@pytest.mark.parametrize(
    ("lie", "kind", "logs"),
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
async def test_a_lie_is_named_and_not_published(
    site: Site, lie: str | dict[str, object], kind: str, logs: tuple[str, ...]
) -> None:
    # No room for issuers: an honest log's would spare the liar the question.
    await site.redis.hset(site.keys.issuers, mapping={str(n): "" for n in range(MOST)})
    faults = {"fault": f"*1:{lie}"} if isinstance(lie, str) else {}
    await site.simlog.start(rfc6962=2, static_ct=2, preload=2000, rate=200, **faults)
    await site.ingestor("a", **FROM_START)
    if isinstance(lie, dict):

        async def honest_so_far() -> bool:
            found = await by_path(site)
            return all(log in found and (found[log].next or 0) > 400 for log in logs)

        await until(honest_so_far, what="entries from before the lie")
        await switch(site, "*1", lie)
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

    async def honest_go_on() -> bool:
        found = await by_path(site)
        return all((found[log].next or 0) > 700 for log in ("rfc2", "static2"))

    await until(honest_go_on, what="entries of the honest logs")
    assert [await alarms(site, log) for log in ("rfc2", "static2")] == ["", ""]
    found = await findings(site)
    assert found.received > 1000
    assert (found.lies, found.unknown, found.altered, found.repeated) == ((), (), (), ())


async def test_wrong_proofs_hold_back_what_needs_them(site: Site) -> None:
    await site.simlog.start(
        rfc6962=1, static_ct=1, preload=6000, rate=0, fault="*:wrong_proofs", max_entries=256
    )
    await site.ingestor("a", **FROM_START, **{"ct_log.batch_size": 256})

    async def caught() -> bool:
        return all([(await alarms(site, log)).startswith("wrong_proof: ") for log in PAIR])

    await until(caught, what="alarms")
    await switch(site, "*")
    await until(site.complete, what="complete Redis, with the right proofs")
    assert not (await findings(site)).troubles
    await assert_frontier_leads_to_head(site)


async def test_wrong_proofs_are_no_split(site: Site) -> None:
    """Stale tree heads, of which a wrong proof says that they are of another tree."""
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


async def test_a_log_that_rewinds_is_told_after_its_mmd(site: Site) -> None:
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
    # Told once, however long it lasts.
    assert [log.alarms_by_kind for log in logs] == [{"rewound": 1}] * 2
    assert {log.integrity for log in logs} == {"lying"}
    assert not (await findings(site)).troubles


async def test_a_size_that_nobody_signed_is_no_size(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=200)
    await site.ingestor("a", **FROM_START)
    await until(lambda: shown(site, "proven"), what="proven logs")
    await switch(site, "*", {"kind": "bad_signature"})
    sizes = await site.simlog.sizes()

    async def shown_often() -> bool:
        logs, grown = await site.logs(), await site.simlog.sizes()
        return all(log.errors > 4 and grown[name] > sizes[name] + 300 for name, log in logs.items())

    await until(shown_often, what="larger tree heads, signed by nobody")
    for name, log in (await site.logs()).items():
        assert max(log.newest or 0, log.tree_size or 0) <= sizes[name]


async def test_no_log_is_blamed_for_a_frontier_that_was_changed_in_redis(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=20)
    first = await site.ingestor("a", **FROM_START)

    async def live() -> bool:
        logs = (await site.logs()).values()
        return len(logs) == 2 and all((log.next or 0) > 330 for log in logs)

    await until(live, what="the backlog, and entries that came since")
    await first.stop()
    before = await site.logs()
    for log in before.values():
        assert log.next == log.tree_size
        key = site.keys.log(log.log_id)
        kept: Any = await site.redis.hget(key, "frontier")
        await site.redis.hset(key, "frontier", kept[:-1] + bytes([kept[-1] ^ 1]))
    await site.ingestor("b", **FROM_START)

    async def went_on() -> bool:
        logs = await site.logs()
        return all((log.next or 0) > (before[name].next or 0) for name, log in logs.items())

    await until(went_on, "entries after a restart")
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
        since = int(await site.redis.hget(site.keys.log(log.log_id), "below_since") or 0)
        a_day_ago = since - 86_400_000
        await site.redis.hset(site.keys.log(log.log_id), "below_since", a_day_ago)
    second = await site.ingestor("b", **FROM_START)

    async def rewound() -> bool:
        return all([(await alarms(site, log)).startswith("rewound: ") for log in PAIR])

    await until(rewound, what="alarms")
    await switch(site, "*")
    await until(lambda: shown(site, "proven"), what="proven logs")
    await second.stop()
    for log in (await site.logs()).values():
        assert not await site.redis.hexists(site.keys.log(log.log_id), "below_since")


async def test_a_lie_in_each_window_is_counted_and_told_once(site: Site) -> None:
    fault = "*:forged_precert:every=5"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=200, fault=fault)
    with capture_logs() as lines:
        await site.ingestor("a", **FROM_START)

        async def often() -> bool:
            counts = [log.alarms_by_kind for log in (await site.logs()).values()]
            return len(counts) == 2 and all(kinds.get("forged_precert", 0) > 4 for kinds in counts)

        await until(often, what="lies")
    told = [line for line in lines if line["event"] == "log lies"]
    assert sorted(line["log"] for line in told) == ["rfc1", "static1"]
    assert {line["entries"] for line in told} == {"rejected"}
    for log in (await site.logs()).values():
        assert await site.redis.xlen(site.keys.evidence(log.log_id)) == 1
        assert log.alarms == log.alarms_by_kind["forged_precert"]
        assert re.fullmatch(r"forged_precert: entry \d+: the leaf .*", log.alarm or "")


async def test_a_log_that_lies_now_and_then_goes_on_and_fills_no_log_file(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=60)
    with capture_logs() as lines:
        await site.ingestor("a", **FROM_START)
        await until(lambda: shown(site, "proven"), what="proven logs")
        await switch(site, "*", {"kind": "fork", "at": 100, "share": 0.5, "only": "head"})

        async def often() -> bool:
            return all(log.errors > 8 for log in (await site.logs()).values())

        await until(often, what="lies")
        await switch(site, "*")
        sizes = await site.simlog.sizes()

        async def went_on() -> bool:
            return all((log.next or 0) > sizes[name] for name, log in (await site.logs()).items())

        await until(went_on, what="entries of honest logs")
    for log in PAIR:
        told = [line["event"] for line in lines if line.get("log") == log]
        assert told.count("log unavailable, trying until it is back") == 1
        assert told.count("log lies") <= 3  # one of a kind
    assert not (await findings(site)).lies


async def test_an_emptied_redis_is_told_again_what_is_proven(site: Site) -> None:
    await site.simlog.start(rfc6962=1, static_ct=1, preload=600, rate=20)
    await site.ingestor("a", **FROM_START)
    await until(lambda: shown(site, "proven"), what="proven logs")
    await site.redis.flushall()
    await until(lambda: shown(site, "proven"), what="proven logs in an emptied Redis")


async def test_warn_tells_and_publishes(site: Site) -> None:
    fault = "*1:swapped_leaf:index=620"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=2000, rate=0, fault=fault)
    with capture_logs() as lines:
        await site.ingestor("a", **FROM_START, **{"ct_log.integrity": "warn"})
        await until(site.complete, what="complete Redis")
    told = [line for line in lines if line["event"] == "log lies"]
    assert {(line["kind"], line["entries"]) for line in told} == {
        ("wrong_leaf", "published all the same")
    }
    assert len((await findings(site)).lies) == 2
    assert {log.alarms > 0 for log in (await site.logs()).values()} == {True}


async def test_a_log_without_proofs_is_not_asked_for_one_at_each_poll(site: Site) -> None:
    fault = "*:status:code=404,only=proofs"
    await site.simlog.start(rfc6962=1, static_ct=1, preload=1500, rate=50, fault=fault)
    await site.ingestor("a", **{"ct_log.start_index": 500, "ct_log.integrity": "warn"})

    async def asked(log: str) -> traffic.Counted:
        async with httpx.AsyncClient(trust_env=False) as http:
            return traffic.read((await http.get(f"{site.simlog.url}/requests")).content).logs[log]

    async def beyond() -> bool:
        found = await by_path(site)
        return all(log in found and (found[log].next or 0) > 700 for log in PAIR)

    await until(beyond, "entries, unproven")
    for log in PAIR:
        before = await asked(log)

        async def often(log: str = log, total: int = before.total) -> bool:
            return (await asked(log)).total > total + 20

        await until(often, "more polls")
        assert (await asked(log)).statuses[404] == before.statuses[404]
    assert {log.alarms_by_kind.get("no_proof") for log in (await site.logs()).values()} == {1}


async def test_off_looks_at_nothing(site: Site) -> None:
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

    async def went_on() -> bool:
        logs = await site.logs()
        return all((log.next or 0) > sizes[name] + 20 for name, log in logs.items())

    await until(went_on, what="entries after a restart")
    await until(lambda: shown(site, "proven"), what="proven logs")
    assert {(log.alarms, log.start) for log in (await site.logs()).values()} == {(0, 777)}


async def test_a_start_that_cannot_be_proven_is_held_back(site: Site) -> None:
    fault = "*1:status:code=404,only=proofs"
    await site.simlog.start(rfc6962=2, static_ct=1, preload=2000, rate=0, fault=fault)
    with capture_logs() as lines:
        first = await site.ingestor("a", **FROM_START | {"ct_log.start_index": 500})

        async def honest_complete() -> bool:
            found = await by_path(site)
            told = [line for line in lines if line["event"] == "log proves nothing"]
            complete = "rfc2" in found and found["rfc2"].next == found["rfc2"].tree_size
            return complete and len(told) == 2

        await until(honest_complete, what="the honest log, and word of the others")
    for line in lines:
        if line["event"] == "log proves nothing":
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
    assert not (await findings(site)).troubles
    if integrity == "enforce":
        await until(lambda: shown(site, "proven"), "proven logs")
        await assert_frontier_leads_to_head(site)
    assert {log.alarms for log in (await site.logs()).values()} == {0}


async def test_a_lie_in_a_backlog_without_proofs(site: Site) -> None:
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
