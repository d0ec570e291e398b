"""Fixtures: a real Redis, something that publishes, gateways in this process on real sockets."""

import asyncio
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import pytest
import redis as sync_redis
import uvloop
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.directory import snapshot
from certbus.embedded import find_executable
from certbus.keys import Keys
from certconf import load
from gateway.app import serve
from gateway.settings import Settings
from tests.gateway.press import Press

Start = Callable[..., Awaitable["Running"]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not become true in time"
        await asyncio.sleep(0.01)


class Server:
    """A redis-server without persistence, on a unix socket."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/redis.sock"
        self._socket = f"{directory}/redis.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                find_executable(),
                *("--port", "0", "--unixsocket", self._socket),
                *("--save", "", "--dir", str(self._directory)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                sync_redis.Redis(unix_socket_path=self._socket).ping()
            except sync_redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextmanager
def running_redis() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="gw") as directory:
        server = Server(Path(directory))
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Server]:
    with running_redis() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """One that a test may kill."""
    with running_redis() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(4)}:"


@pytest.fixture
async def press(shared_redis: Server, prefix: str) -> AsyncIterator[Press]:
    async with Press(shared_redis.url, prefix) as press:
        yield press


def give_up(ready: asyncio.Future[str], task: asyncio.Task[None]) -> None:
    """Say why a gateway did not come up."""
    if not ready.done():
        ready.set_exception(task.exception() or AssertionError("it ended before it was ready"))


class Running:
    """A gateway in this process.

    Attributes:
        url: as it tells it, http://127.0.0.1:port.
        stop: ends it.
        task: in which it runs.
    """

    def __init__(
        self, url: str, stop: asyncio.Event, task: asyncio.Task[None], redis: Redis, keys: Keys
    ) -> None:
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
async def start(shared_redis: Server, prefix: str) -> AsyncIterator[Start]:
    """Start gateways: `await start(settings=..., redis_url=...)`; they are stopped at the end."""
    async with AsyncExitStack() as stack:

        async def start(
            settings: Settings | None = None,
            redis_url: str = shared_redis.url,
            admin: str | None = None,
        ) -> Running:
            config = load(
                None,
                {},
                {
                    "host": "127.0.0.1",
                    "redis_url": redis_url,
                    "redis_prefix": prefix,
                },
            )
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
                )
            )
            task.add_done_callback(partial(give_up, ready))
            directory = connect(redis_url)
            stack.push_async_callback(directory.aclose)
            running = Running(await ready, stop, task, directory, Keys(prefix))
            stack.push_async_callback(running.stopped)
            return running

        yield start
