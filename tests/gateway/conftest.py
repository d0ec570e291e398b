"""Fixtures: a real Redis, something that publishes, gateways in this process on real sockets."""

import asyncio
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
import uvloop
from redis.asyncio import Redis

from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import Keys
from certconf import ConfigHolder, load
from gateway.app import serve
from gateway.config import Settings
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer
from tests.gateway.publishing import Press
from tests.waiting import until

Start = Callable[..., Awaitable["Running"]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="gw") as directory:
        server = RedisServer(find_executable(), Path(directory), appendonly="no")
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One that a test may kill."""
    with running_redis() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(4)}:"


@pytest.fixture
async def press(shared_redis: RedisServer, prefix: str) -> AsyncIterator[Press]:
    async with Press(shared_redis.url, prefix) as press:
        yield press


def report_failed_start(ready: asyncio.Future[str], task: asyncio.Task[None]) -> None:
    """Report why a gateway did not start."""
    if not ready.done():
        ready.set_exception(task.exception() or AssertionError("it ended before it was ready"))


class Running:
    """A gateway in this process.

    Attributes:
        url: as the gateway reports it, http://127.0.0.1:port.
        stop: ends it.
        task: in which it runs.
        present: its configuration.
    """

    def __init__(
        self,
        url: str,
        stop: asyncio.Event,
        task: asyncio.Task[None],
        redis: Redis,
        keys: Keys,
        present: ConfigHolder,
    ) -> None:
        self.present = present
        self._redis = redis
        self._keys = keys
        self.url = url
        self.stop = stop
        self.task = task
        self.port = urlsplit(url).port or 0

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    async def following(self) -> Self:
        """Wait until it has found where the streams are: it misses nothing from now on."""
        await until(self._is_following)
        return self

    async def has_clients(self, count: int) -> bool:
        """Whether the directory reports this number of clients."""
        seen = await snapshot(self._redis, self._keys)
        (own,) = [member for member in seen.gateways if member.fields["url"] == self.url]
        return int(own.fields["clients"]) == count

    async def _is_following(self) -> bool:
        seen = await snapshot(self._redis, self._keys)
        return any(
            gateway.fields["url"] == self.url and int(gateway.fields["following"])
            for gateway in seen.gateways
        )

    async def stopped(self) -> None:
        self.stop.set()
        await self.task


@pytest.fixture
async def start(shared_redis: RedisServer, prefix: str) -> AsyncIterator[Start]:
    """Start gateways: `await start(settings=..., redis_url=...)`; they are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            settings: Settings | None = None,
            redis_url: str = shared_redis.url,
            admin: str | None = None,
            **configured: object,
        ) -> Running:
            config = load(
                None,
                {},
                {
                    "host": "127.0.0.1",
                    "redis_url": redis_url,
                    "redis_prefix": prefix,
                    **configured,
                },
            )
            present = ConfigHolder(config)
            stop = asyncio.Event()
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            listener = socket.create_server(("127.0.0.1", 0), reuse_port=True)
            task = asyncio.create_task(
                serve(
                    config,
                    stop,
                    settings=settings or Settings(stop_timeout=1.0),
                    listener=listener,
                    admin=admin,
                    ready=ready.set_result,
                    present=present,
                )
            )
            task.add_done_callback(partial(report_failed_start, ready))
            directory = connect(redis_url)
            stack.push_async_callback(directory.aclose)
            running = Running(await ready, stop, task, directory, Keys(prefix), present)
            stack.push_async_callback(running.stopped)
            return running

        yield start
