"""Logs that are further behind than permitted skip, once; a late tree head is no delay.

Minutes of the public logs are seconds here, so the limits are below those that a file may have.
"""

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from structlog.testing import capture_logs

import simlog.app
from certbus.cluster import LogStatus
from certbus.streams.rejected import read_rejected
from certconf import load
from ingestor.client.static_ct import TILE
from ingestor.pipeline.catch_up import CatchUpLimits
from simlog.ctlog.tree import Tree, node_hash
from simlog.profile import Budget, Delay, Heads, Profile
from simlog.spec import DataTiles, LogSpec, Spec
from simlog.world import World
from tests.e2e.processes import free_port
from tests.ingestor.site import HURRIED, Ingestor, Site
from tests.ingestor.test_serve import adds_up
from tests.ingestor.verification.proofs import assert_frontier_leads_to_head, switch
from tests.waiting import until

OVERLAP = 256


@given(
    behind=st.integers(-5, 10**7),
    age=st.none() | st.floats(0, 10**5),
    since=st.floats(0, 10**5),
    entries=st.sampled_from([0, 10_000]),
    secs=st.sampled_from([0.0, 300.0]),
)
def test_limits(behind: int, age: float | None, since: float, entries: int, secs: float) -> None:
    exceeded = CatchUpLimits(entries, secs, OVERLAP).exceeded(behind, age, since)
    by_entries = bool(entries) and behind > entries
    by_time = bool(secs) and behind > 0 and age is not None and age > secs and since > secs
    assert (exceeded is not None) == (by_entries or by_time)


def grown(leaves: int) -> Tree:
    """A tree of arbitrary leaves."""
    tree = Tree()
    level = [sha256(n.to_bytes(4)).digest() for n in range(leaves)]
    tree._levels = []
    while level:
        tree._levels.append(bytearray(b"".join(level)))
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [node_hash(left, right) for left, right in pairs]
    return tree


def with_history(entries: int) -> Callable[[Spec], World]:
    """A world whose log has this number of entries before its own. They are never read."""

    def made(spec: Spec) -> World:
        world = World(spec)
        log = world.logs["log"]
        log.tree = grown(entries)
        log._numbers = array("Q", bytes(8 * entries))
        log._timestamps = array("Q", bytes(8 * entries))
        return world

    return made


@asynccontextmanager
async def served(
    site: Site, profile: Profile | None, data_tiles: DataTiles = "none", **spec: Any
) -> AsyncIterator[str]:
    """Serve one log in this process."""
    port, stop, ready = free_port(), asyncio.Event(), asyncio.Event()
    logs = (LogSpec("log", "rfc6962", "Operator", profile=profile, data_tiles=data_tiles),)
    task = asyncio.create_task(
        simlog.app.serve(
            Spec(logs=logs, start=time.time(), **spec),
            "127.0.0.1",
            port,
            stop,
            ready=lambda _url: ready.set(),
        )
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    site.simlog.url = f"http://127.0.0.1:{port}"
    try:
        yield site.simlog.url
    finally:
        stop.set()
        await task


async def follow(
    site: Site, *, integrity: str = "enforce", overlap: int = OVERLAP, **changed: float
) -> Ingestor:
    """Follow the log of a site from its first entry, with these settings of ct_log."""
    settings = {
        **HURRIED,
        "redis_url": site.server.url,
        "ct_log.start_index": 0,
        "ct_log.start_overlap_leaves": overlap,
        "ct_log.retry_max_attempts": 1,
        "ct_log.integrity": integrity,
    }
    config = load(await site.simlog.config(), {}, settings)
    return site._run(replace(config, ct_log=replace(config.ct_log, **changed)), "a")


async def the_log(site: Site) -> LogStatus:
    (log,) = (await site.logs()).values()
    return log


async def skips(site: Site) -> list[tuple[int, int, str]]:
    """Every recorded range, with its reason."""
    return [
        (each.index, each.last, each.reason)
        async for each in read_rejected(site.redis, site.keys)
        if each.last is not None and each.last > each.index
    ]


async def is_at_head(site: Site) -> bool:
    logs = (await site.logs()).values()
    return bool(logs) and all(log.next and log.next == log.tree_size for log in logs)


async def test_a_log_a_million_entries_behind_jumps_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("simlog.app.World", with_history(1_000_000))
    async with served(site, None, preload=900, rate=50.0):
        await follow(site, max_catchup_lag_entries=100_000)

        async def is_proven() -> bool:
            return await is_at_head(site) and (await the_log(site)).integrity == "proven"

        await until(is_proven, "the head, proven")
        log = await the_log(site)
        ((first, last, reason),) = await skips(site)
        assert first == log.start == 0
        assert last + 1 >= 1_000_900 - OVERLAP
        assert reason == f"{last + 1 + OVERLAP} entries behind, max_catchup_lag_entries is 100000"
        assert log.skipped == last + 1
        assert log.skip is not None
        assert log.skip.startswith(f"0-{last}: ")
        assert log.alarms == 0
        assert adds_up(log)
        at = log.next or 0

        async def continues() -> bool:
            return ((await the_log(site)).next or 0) > at + 100

        await until(continues, "more entries under the same lease")
        after = await the_log(site)
        assert (after.skipped, after.owner) == (log.skipped, log.owner)
        assert len(await skips(site)) == 1
        assert adds_up(after)
        await assert_frontier_leads_to_head(site)


async def test_without_a_proof_nothing_is_skipped_unless_unproven_entries_are_published(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simlog.app.World", with_history(20_000))
    async with served(site, None, preload=900, rate=0.0):
        await switch(site, "log", {"kind": "status", "code": 404, "only": "proofs"})
        strict = await follow(site, max_catchup_lag_entries=10_000)

        async def is_followed() -> bool:
            logs = (await site.logs()).values()
            return any(log.owner and log.errors for log in logs)

        await until(is_followed, "a log whose old entries contradict its tree")
        assert (await the_log(site)).skipped == 0
        await strict.stop()
        await follow(site, integrity="warn", max_catchup_lag_entries=10_000)
        await until(lambda: is_at_head(site), "the head")
        assert len(await skips(site)) == 1
        assert adds_up(await the_log(site))


async def test_a_head_that_is_published_late_is_no_delay(site: Site) -> None:
    """A budget of requests, and a head of thousands of entries that are older than the limit."""
    profile = Profile(
        page=64,
        heads=Heads(interval=Delay(7.0, 1.0), first=0.5),
        head=Delay(0.01),
        entries=Delay(0.05),
        limits=(Budget(requests=15, pause=1.0),),
    )
    async with served(site, profile, preload=300, rate=200.0):
        await follow(site, max_catchup_lag_secs=4, fetch_concurrency=4)

        async def has_read(entries: int) -> bool:
            logs = (await site.logs()).values()
            return any((log.next or 0) > entries for log in logs)

        await until(lambda: has_read(200), "the first head")
        at = (await the_log(site)).next or 0
        await until(lambda: has_read(at + 800), "the next head, hours later", 120)
        await until(lambda: is_at_head(site), "all of its entries", 120)
        log = await the_log(site)
        assert (log.skipped, await skips(site)) == (0, [])
        assert adds_up(log)


async def test_what_a_setting_delays_is_no_delay(site: Site) -> None:
    """Entries wait for their tile, and for a poll, for longer than the limit."""
    async with served(site, None, "same", preload=300, rate=150.0):
        await follow(
            site,
            overlap=0,
            max_catchup_lag_secs=1,
            partial_tile_wait_secs=600,
            poll_interval_ms=2000,
        )

        async def has_read_two_tiles() -> bool:
            logs = (await site.logs()).values()
            return any((log.next or 0) >= 2 * TILE for log in logs)

        await until(has_read_two_tiles, "a tile that was full after the limit")
        log = await the_log(site)
        assert log.skipped == 0
        assert log.next is not None
        assert log.next % TILE == 0


async def test_a_log_that_was_silent_skips_once(site: Site) -> None:
    async with served(site, None, preload=300, rate=400.0):
        await follow(site, max_catchup_lag_secs=1)
        await until(lambda: is_at_head(site), "the head")
        await switch(site, "log", {"kind": "status", "code": 503})
        at = await the_log(site)

        async def was_silent() -> bool:
            return (await the_log(site)).failures > 0 and time.time() > silent + 2

        silent = time.time()
        await until(was_silent, "a silence of twice the limit")
        await switch(site, "log")

        async def has_skipped() -> bool:
            return (await the_log(site)).skipped > 0

        await until(has_skipped, "a skip")
        await until(lambda: is_at_head(site), "the head")
        log = await the_log(site)
        ((first, last, reason),) = await skips(site)
        assert first >= (at.next or 0)
        assert last - first > 400
        assert reason.endswith("s behind, max_catchup_lag_secs is 1")
        assert (log.skipped, log.alarms) == (last - first + 1, 0)
        assert adds_up(log)


async def test_entries_that_a_violation_withholds_are_not_skipped(site: Site) -> None:
    async with served(site, None, preload=300, rate=400.0):
        first = await follow(site, max_catchup_lag_secs=1)
        await until(lambda: is_at_head(site), "the head")
        await switch(site, "log", {"kind": "swapped_leaf", "every": 1})
        with capture_logs() as lines:

            def is_rejected() -> bool:
                return any(line["event"] == "skip rejected" for line in lines)

            await until(is_rejected, "a skip is rejected")
        log = await the_log(site)
        assert (log.skipped, log.integrity) == (0, "lying")
        await first.stop()
        with capture_logs() as lines:
            await follow(site, max_catchup_lag_entries=1)  # the next worker finds the log so
            await until(is_rejected, "a skip is rejected again")
        after = await the_log(site)
        assert (after.skipped, after.next) == (0, log.next)
        await switch(site, "log")

        async def continues() -> bool:
            return ((await the_log(site)).next or 0) > (log.next or 0)

        await until(continues, "entries after the withheld one")
        first_skip = min((first for first, *_ in await skips(site)), default=log.next)
        assert (first_skip or 0) >= (log.next or 0)


async def test_the_skip_is_counted_and_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simlog.app.World", with_history(20_000))
    admin = f"127.0.0.1:{free_port()}"
    async with served(site, None, preload=300, rate=0.0):
        settings = {**HURRIED, "redis_url": site.server.url, "ct_log.start_index": 0}
        settings |= {"ct_log.max_catchup_lag_entries": 10_000, "admin": admin}
        site._run(load(await site.simlog.config(), {}, settings), "a")
        await until(lambda: is_at_head(site), "the head")
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://{admin}/metrics")).text
        skipped = (await the_log(site)).skipped
        assert f'certstream_ct_log_skipped_entries_total{{log="log"}} {float(skipped)}' in text
