"""Commands whose connection to Redis is cut: each repeats what it needs, and succeeds."""

import asyncio
import json

import pytest
from redis.asyncio import Redis

from certbus.cluster import ClusterRegistry, LogDescription
from certbus.keys import Keys
from certbus.logs.registry import LogRegistry, Retirement
from tests.certbus.bus import log_status
from tests.certbus.proxy import How, Proxy, When
from tests.certbus.servers import RedisServer
from tests.e2e.processes import CERTSTREAM_SERVER
from tests.gateway.publishing import LOG, Press

DEADLINE_SECS = 90
"""For one process, on a busy machine."""

each_cut = pytest.mark.parametrize(
    ("how", "when"), [(how, when) for how in ("rst", "fin") for when in ("before", "after")]
)


async def run(*arguments: str) -> bytes:
    """Run a command, which must exit with status 0, and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *CERTSTREAM_SERVER, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_SECS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    return output


@pytest.fixture
async def published(server: RedisServer) -> str:
    """Publish three certificates of a log that has a name; returns the entry id."""
    async with Press(server.url, Keys().prefix) as press:
        registry = ClusterRegistry(press.redis, press.keys)
        url = "https://log.example/"
        log = LogDescription(LOG, "Example log", url, "Example", "rfc6962", "usable")
        await registry.describe([log])
        await registry.record_status(LOG, {"newest": 100})
        return await press.print(3)


@each_cut
@pytest.mark.parametrize("reply", [1, 3])
async def test_tail_continues(
    proxy: Proxy, published: str, how: How, when: When, reply: int
) -> None:
    proxy.cut_at(reply, how, when)
    printed = await run("tail", "--redis", proxy.url, "--since=0", "--limit=3", "--lite")
    messages = [json.loads(line) for line in printed.splitlines()]
    assert [message["id"] for message in messages] == [f"{published}-{n}" for n in range(3)]
    assert proxy.is_over()


@each_cut
@pytest.mark.usefixtures("published")
async def test_status_shows_the_cluster(proxy: Proxy, how: How, when: When) -> None:
    proxy.cut_at(4, how, when)
    process = await asyncio.create_subprocess_exec(
        *CERTSTREAM_SERVER,
        *("status", "--json", "--redis-url", proxy.url),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_SECS):
        printed, _ = await process.communicate()
    found = json.loads(printed)
    assert [log["name"] for log in found["logs"]] == ["Example log"]
    assert process.returncode == 1  # no ingestor runs
    assert "redis_unreachable" not in [problem["code"] for problem in found["problems"]]
    assert proxy.is_over()


@each_cut
@pytest.mark.usefixtures("published")
async def test_skip_skips_once(proxy: Proxy, client: Redis, how: How, when: When) -> None:
    proxy.cut_at(1, how, when, b"EVALSHA")
    printed = await run(
        *("skip", "Example log", "--to=10", "--reason=gone", "--yes", "--redis-url", proxy.url)
    )
    assert b"skipped 7 entries, 3 to 9" in printed
    status = await log_status(client, LOG)
    assert (status.next, status.skipped, status.published) == (10, 7, 3)
    assert await client.xlen(Keys().rejected) == 1
    assert proxy.is_over()


@each_cut
@pytest.mark.usefixtures("published")
async def test_retire_retires_once(proxy: Proxy, client: Redis, how: How, when: When) -> None:
    proxy.cut_at(1, how, when, b"EVALSHA")
    await run("retire", "Example log", "--reason=closed", "--redis-url", proxy.url)
    assert (await LogRegistry(client, Keys()).states())[LOG].retirement is not None
    assert proxy.is_over()


@pytest.mark.usefixtures("published")
async def test_retire_succeeds_and_is_undone_though_the_replies_are_lost(
    proxy: Proxy, client: Redis
) -> None:
    registry = LogRegistry(client, Keys())
    retirement = Retirement("command", "to load the scripts", 0.0, 0.0)
    assert await registry.retire(LOG, retirement)
    assert await registry.unretire(LOG, "command")
    proxy.cut_at(1, "rst", "before", b"EVALSHA")
    await run("retire", "Example log", "--reason=closed", "--redis-url", proxy.url)
    assert proxy.is_over()
    assert (await registry.states())[LOG].retirement is not None
    proxy.cut_at(1, "rst", "before", b"EVALSHA")
    await run("retire", "Example log", "--undo", "--redis-url", proxy.url)
    assert (await registry.states())[LOG].retirement is None
    assert proxy.is_over()
