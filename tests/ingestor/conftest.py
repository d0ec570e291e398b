"""A real Redis, a real simlog process, and a site that joins them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from certbus.connection import connect
from launcher.runtime.embedded_redis import EmbeddedRedis
from tests.ingestor.site import Simlog, Site


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with EmbeddedRedis(tmp_path / "state") as redis_server:
        yield redis_server


@pytest.fixture
async def redis(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def simlog(tmp_path: Path) -> Iterator[Simlog]:
    logs = Simlog(tmp_path)
    yield logs
    logs.stop()


@pytest.fixture
async def site(server: EmbeddedRedis, redis: Redis, simlog: Simlog) -> AsyncIterator[Site]:
    everything = Site(server, redis, simlog)
    async with everything.stack:
        yield everything
