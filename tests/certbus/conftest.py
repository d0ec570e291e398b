from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

from certbus.connection import connect
from tests.certbus.bus import Worker
from tests.certbus.servers import RedisServer, executables

_SERVERS = executables()


@pytest.fixture(params=["redis6", "redis7", "valkey"])
def executable(request: pytest.FixtureRequest) -> str:
    if request.param not in _SERVERS:
        pytest.skip(f"no {request.param} on this machine")
    return _SERVERS[request.param]


@pytest.fixture
def server(executable: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(executable, tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RedisServer]]:
    """Servers by their executable, which tests share."""
    servers: dict[str, RedisServer] = {}
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture
def shared_server(
    executable: str,
    servers: dict[str, RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> RedisServer:
    """An empty server, for tests that leave its settings as they are."""
    if executable not in servers:
        servers[executable] = RedisServer(executable, tmp_path_factory.mktemp("shared"))
        servers[executable].start()
    with redis.Redis(unix_socket_path=str(servers[executable].socket)) as client:
        client.flushall()
        client.script_flush()
        client.config_resetstat()
    return servers[executable]


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with connect(server.url) as client:
        yield client


@pytest.fixture
def one(client: Redis) -> Worker:
    """A worker."""
    return Worker(client, "one")


@pytest.fixture
def two(client: Redis) -> Worker:
    """Another worker."""
    return Worker(client, "two")


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(next(iter(executables().values())), tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()
