"""Logs that answer by RFC 6962 and also serve full data tiles, with either form of the leaf.

`hybrid1` has the `leaf_index` of the tile in its tree, `hybrid2` has it in the tile only.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import httpx
import msgspec
import pytest

from certbus.keys import Keys
from ctparse.v2_message import Verification
from ingestor.client.static_ct import TILE
from tests.ingestor.loglists import lists
from tests.ingestor.site import Site
from tests.ingestor.test_serve import adds_up
from tests.ingestor.verification.proofs import (
    FROM_START,
    alarms,
    assert_frontier_leads_to_head,
    shown,
)
from tests.retained import history
from tests.waiting import until

BOTH = ("hybrid1", "hybrid2")
ONLY: Mapping[str, object] = {"rfc6962": 0, "static_ct": 0, "hybrid": 2, "duplicates": 0}


async def messages(site: Site, keys: Keys) -> dict[tuple[str, int], dict[str, Any]]:
    """The `data` of every full message, by log and index."""
    found = {}
    for batch in await history(site.redis, keys, "full", "0-0", 1_000_000):
        for text in batch.messages:
            data = msgspec.json.decode(text)["data"]
            found[data["source"]["name"], data["cert_index"]] = data
    return found


def without_route(data: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what depends on the way in which its entry was read."""
    source = {name: value for name, value in data["source"].items() if name != "type"}
    left_out = ("seen", "cert_link", "source")
    return {"source": source} | {k: v for k, v in data.items() if k not in left_out}


async def rfc6962_settings(site: Site) -> dict[str, object]:
    """The same logs, read by get-entries into another part of Redis."""
    configured: list[Any] = site.simlog.settings(await site.simlog.config())["static_logs"]
    custom = [
        {name: value for name, value in log.items() if name != "tree_size_source"}
        for log in configured
    ]
    return {"custom_logs": custom, "static_logs": [], "redis_prefix": "other:"}


async def test_entries_are_those_that_get_entries_returns(site: Site) -> None:
    await site.simlog.start(**ONLY, preload=1000, rate=0)
    await site.ingestor("tiles", **FROM_START)
    await site.ingestor("entries", **FROM_START, **await rfc6962_settings(site))
    await until(site.complete, "all entries")
    await until(lambda: shown(site, "proven"), "proven entries")
    logs, sizes = await site.logs(), await site.simlog.sizes()
    assert {log.alarms for log in logs.values()} == {0}
    assert {log.kind for log in logs.values()} == {"static-ct"}
    assert all(map(adds_up, logs.values()))
    await assert_frontier_leads_to_head(site)
    for name, is_bare in (("hybrid1", b"0"), ("hybrid2", b"1")):
        assert await site.redis.hget(site.keys.log(logs[name].log_id), "bare_leaves") == is_bare
    batches = await history(site.redis, site.keys, "full", "0-0", 1_000_000)
    assert {batch.verification for batch in batches} == {Verification("verified", "verified")}
    found = await messages(site, site.keys)
    assert len(found) == sum(sizes.values()) > 3 * TILE

    async def has_all_by_get_entries() -> bool:
        return len(await messages(site, Keys("other:"))) == len(found)

    await until(has_all_by_get_entries, "the same entries by get-entries")
    others = await messages(site, Keys("other:"))
    async with httpx.AsyncClient(trust_env=False) as http:
        links = {data["cert_link"] for data in found.values()}
        statuses = {(await http.get(link)).status_code for link in links}
    assert statuses == {200}
    for (name, index), data in found.items():
        assert without_route(data) == without_route(others[name, index])
        assert data["chain"], "issuers are those of the entry"
        assert data["source"]["type"] == "static-ct"
        in_full_tile = index < sizes[name] // TILE * TILE
        assert ("/tile/data/" if in_full_tile else "/ct/v1/get-entries") in data["cert_link"]


async def test_entries_after_the_last_full_tile_wait(site: Site) -> None:
    await site.simlog.start(**ONLY, preload=1100, rate=0)
    first = await site.ingestor("a", **FROM_START, **{"ct_log.partial_tile_wait_secs": 600})
    sizes = await site.simlog.sizes()
    boundaries = {name: size // TILE * TILE for name, size in sizes.items()}
    assert all(0 < boundaries[name] < sizes[name] for name in BOTH)

    async def are_at(expected: Mapping[str, int]) -> bool:
        logs = await site.logs()
        return {name: log.next for name, log in logs.items()} == expected

    await until(partial(are_at, boundaries), "all full tiles")

    await until(lambda: shown(site, "proven"), "entries proven by get-proof-by-hash")
    assert await are_at(boundaries)
    # Another ingestor, with a short wait, reads the rest.
    await first.stop()
    await site.ingestor("b", **FROM_START, **{"ct_log.partial_tile_wait_secs": 0.2})
    await until(partial(are_at, sizes), "the rest", 60)


async def test_a_growing_log_is_proven_all_along(site: Site) -> None:
    await site.simlog.start(**ONLY, preload=300, rate=800)
    await site.ingestor("a", **FROM_START, **{"ct_log.partial_tile_wait_secs": 0.5})

    async def have_grown() -> bool:
        logs = (await site.logs()).values()
        return bool(logs) and all((log.next or 0) > 1000 for log in logs)

    await until(have_grown, "several tiles", 90)
    await until(lambda: shown(site, "proven"), "proven entries")
    for log in (await site.logs()).values():
        assert (log.alarms, log.errors) == (0, 0)
        assert adds_up(log)


@pytest.mark.parametrize(
    ("violation", "kind"),
    [
        ("swapped_leaf:index=300", "wrong_leaf"),
        ("wrong_root", "root_mismatch"),
        ("bad_signature", "bad_signature"),
    ],
)
async def test_a_violation_is_named_and_not_published(
    site: Site, violation: str, kind: str
) -> None:
    await site.simlog.start(**ONLY, preload=1300, rate=0, fault=f"hybrid*:{violation}")
    await site.ingestor("a", **FROM_START)

    async def caught(log: str) -> bool:
        return (await alarms(site, log)).startswith(f"{kind}: ")

    for log in BOTH:
        await until(partial(caught, log), f"alarm about {log}")
    if kind == "wrong_leaf":
        assert all(index != 300 for _, index in await messages(site, site.keys))
    else:
        assert not await messages(site, site.keys)


async def test_a_configured_hybrid_replaces_the_listed_log(site: Site) -> None:
    """The same id, position and operator; the key is the list's."""
    await site.simlog.start(**ONLY, preload=900, rate=0)
    listed: dict[str, Any] = {**lists.LISTED_ONLY, "log_lists": [await lists.signed(site)]}
    first = await site.ingestor("a", **listed)
    await until(site.complete, "all entries by get-entries")
    before = await site.logs()
    await first.stop()
    config: list[Any] = site.simlog.settings(await site.simlog.config())["static_logs"]
    by_id = {
        "name": "by id",
        "url": config[0]["url"],
        "tree_size_source": "get_sth",
        "expected_log_id": before["hybrid1"].log_id,
    }
    by_url = {"name": "by URL", "url": config[1]["url"], "tree_size_source": "get_sth"}
    await site.ingestor("b", **{**listed, "static_logs": [by_id, by_url]})

    async def replaced() -> bool:
        logs = {log.log_id: log for log in (await site.logs()).values()}
        return {(log.name, log.kind) for log in logs.values()} == {
            ("by id", "static-ct"),
            ("by URL", "static-ct"),
        } and all(log.owner and log.integrity == "proven" for log in logs.values())

    await until(replaced, "the configured logs, verified by the key of the list")
    after = await site.logs()
    for name, listed_as in (("by id", "hybrid1"), ("by URL", "hybrid2")):
        log, was = after[name], before[listed_as]
        assert (log.log_id, log.start, log.next) == (was.log_id, was.start, was.next)
        assert log.operator == was.operator
        assert log.alarms == 0
