"""A real Redis behind a proxy that cuts connections, on the event loop that the server runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from redis.asyncio import Redis

from certbus.connection import connect
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.proxy import Proxy
from tests.certbus.servers import RedisServer
from tests.gateway.conftest import prefix, shared_redis, start
from tests.gateway.publishing import Press

__all__ = ["prefix", "shared_redis", "start"]  # fixtures


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(find_executable(), tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    """A client that nothing happens to."""
    async with connect(server.url) as client:
        yield client


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
async def lossy(proxy: Proxy) -> AsyncIterator[Redis]:
    """A client whose connections the proxy cuts."""
    async with connect(proxy.url) as lossy:
        yield lossy


@pytest.fixture
async def press(server: RedisServer, prefix: str) -> AsyncIterator[Press]:
    """What publishes, by a connection that nothing happens to."""
    async with Press(server.url, prefix) as press:
        yield press
