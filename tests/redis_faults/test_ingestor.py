"""Ingestors whose Redis is cut, refuses to write, or holds something unusable of one log."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from certbus.connection import connect
from ingestor.assignment import worker
from ingestor.backoff import Backoff
from launcher.runtime.embedded_redis import EmbeddedRedis
from tests.certbus.proxy import How, Proxy
from tests.ingestor.site import Simlog, Site
from tests.ingestor.test_serve import assert_exactly_once
from tests.waiting import until

FROM_START = {"ct_log.start_index": 0}


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with EmbeddedRedis(tmp_path / "state") as server:
        yield server


@pytest.fixture
def simlog(tmp_path: Path) -> Iterator[Simlog]:
    logs = Simlog(tmp_path)
    yield logs
    logs.stop()


@pytest.fixture
async def site(embedded: EmbeddedRedis, simlog: Simlog) -> AsyncIterator[Site]:
    async with connect(embedded.url) as client:
        everything = Site(embedded, client, simlog)
        async with everything.stack:
            yield everything


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_cuts_lose_and_repeat_nothing(site: Site, embedded: EmbeddedRedis, how: How) -> None:
    await site.simlog.start(rfc6962=2, static_ct=1, preload=600, duplicates=0.3, rate=0)
    async with Proxy(Path(embedded.url.removeprefix("unix://"))) as proxy:
        with capture_logs() as lines:
            ingestor = await site.ingestor("a", redis_url=proxy.url, **FROM_START)
            for turn in range(20):
                proxy.cut_at(5 + turn % 7, how, "before" if turn % 2 else "after")
                await until(proxy.is_over, "the cut")
            await until(site.complete, "complete Redis", 60)
            await ingestor.stop()
    await assert_exactly_once(site)
    assert [line for line in lines if line["log_level"] == "error"] == []


async def heads(site: Site) -> dict[str, int]:
    return {name: log.next or 0 for name, log in (await site.logs()).items()}


async def test_an_unusable_record_of_one_log_stops_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WRONGTYPE, for every command that concerns the log."""
    monkeypatch.setattr(worker, "FAILURE_BACKOFF", Backoff(0.2, 1.0))
    await site.simlog.start(rfc6962=2, static_ct=1, preload=100, rate=60)
    with capture_logs() as lines:
        ingestor = await site.ingestor("a", **FROM_START)
        await until(lambda: _has(site, 3, 100), "every log is followed")
        name, victim = next((n, log) for n, log in (await site.logs()).items())
        key = site.keys.log(victim.log_id)
        await site.redis.rename(key, "aside")
        await site.redis.set(key, "not a hash")
        await until(lambda: _events(lines, "log failed"), "the failure")
        before = await _others(site.redis, site, name)

        async def others_continue() -> bool:
            now = await _others(site.redis, site, name)
            return all(now[other] > at + 100 for other, at in before.items())

        await until(others_continue, "the other logs continue", 60)
        assert not ingestor.has_ended
        assert {line["log"] for line in _events(lines, "log failed")} == {name}
        assert all(line["exc_info"] for line in _events(lines, "log failed"))
        assert _events(lines, "redis unavailable") == []
        # Mended: it is followed again, from where it was.
        await site.redis.rename("aside", key)
        sizes = await site.simlog.sizes()

        async def caught_up() -> bool:
            return (await heads(site)).get(name, 0) >= sizes[name]

        await until(caught_up, "the log is followed again", 60)
        await ingestor.stop()
    pauses = [line["again_in_secs"] for line in _events(lines, "log failed")]
    assert max(pauses) > 0.2  # it is tried less and less often
    await assert_exactly_once(site)


async def test_a_redis_that_refuses_to_write_is_an_outage_of_all(site: Site) -> None:
    await site.simlog.start(rfc6962=2, static_ct=0, preload=200, rate=50)
    with capture_logs() as lines:
        ingestor = await site.ingestor("a", **FROM_START)
        await until(lambda: _has(site, 2, 200), "every log is followed")
        await site.redis.config_set("min-replicas-to-write", 1)
        await until(lambda: _events(lines, "redis unavailable"), "the outage")
        await site.redis.config_set("min-replicas-to-write", 0)
        sizes = await site.simlog.sizes()

        async def caught_up() -> bool:
            known = await heads(site)
            return all(at >= sizes[name] for name, at in known.items())

        await until(caught_up, "everything is published", 60)
        await ingestor.stop()
    outages = _events(lines, "redis unavailable")
    assert "NOREPLICAS" in outages[0]["problem"]
    assert _events(lines, "log failed") == []
    await assert_exactly_once(site)


def _events(lines: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["event"] == event]


async def _has(site: Site, logs: int, entries: int) -> bool:
    known = await heads(site)
    return len(known) == logs and all(at >= entries for at in known.values())


async def _others(client: Redis, site: Site, name: str) -> dict[str, int]:
    """How far the other logs are; the directory cannot be read while one is unusable."""
    found = {}
    members: Any = await client.smembers(site.keys.logs)
    for log_id in members:
        key = site.keys.log(log_id.decode())
        if await client.type(key) == b"hash":
            values: Any = await client.hmget(key, ["name", "next"])
            found[values[0].decode()] = int(values[1])
    assert name not in found
    assert found
    return found
