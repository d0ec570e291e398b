"""What the tests of admission share: gateways by their configuration, and requests to them."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self
from urllib.parse import urlsplit

from certconf import load
from gateway.app import serve
from gateway.config import Settings, settings_of
from launcher.runtime.supervisor import CERTSTREAM_SERVER
from tests.gateway.client_helpers import Raw, upgrade_request

Answer = tuple[int, dict[str, str], bytes]


@asynccontextmanager
async def gateway(redis_url: str, prefix: str, **configured: Any) -> AsyncIterator[int]:
    """A gateway in this process.

    Args:
        redis_url: its Redis.
        prefix: of its keys there.
        configured: settings by section: `auth={"enabled": True}`.

    Yields:
        Its port.
    """
    config = load(None, {}, settings(redis_url, prefix, configured))
    stop = asyncio.Event()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(
        serve(
            config,
            stop,
            settings=settings_of(config, Settings(stop_timeout=0.2)),
            listener=listener,
            ready=ready.set_result,
        )
    )
    waiting: set[asyncio.Future[Any]] = {serving, ready}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    try:
        yield urlsplit(await ready).port or 0
    finally:
        stop.set()
        await serving


class GatewayProcess:
    """A gateway of its own process, which a test may kill."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    @classmethod
    async def start(cls, redis_url: str, prefix: str, **configured: Any) -> Self:
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as placeholder:
            port: int = placeholder.getsockname()[1]
            given = settings(redis_url, prefix, configured) | {"port": port}
            process = await asyncio.create_subprocess_exec(
                *CERTSTREAM_SERVER,
                "gateway",
                *(f"--set={key}={json.dumps(value)}" for key, value in given.items()),
                stderr=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
            )
            started = cls(process, port)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    async with await Raw.open(port):
                        return started
                assert process.returncode is None, "the gateway does not start"
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


def settings(redis_url: str, prefix: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings."""
    flat: dict[str, Any] = {}
    for section, value in sections.items():
        if isinstance(value, dict):
            flat |= {f"{section}.{name}": item for name, item in value.items()}
        else:
            flat[section] = value
    return {"host": "127.0.0.1", "redis_url": redis_url, "redis_prefix": prefix, **flat}


async def ask(port: int, path: str = "/health", method: str = "GET", **headers: str) -> Answer:
    """One request on a connection of its own."""
    async with await Raw.open(port) as client:
        client.send(request(path, method, **headers))
        return await client.answer()


async def handshake(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str]]:
    """What a WebSocket handshake is answered."""
    async with await Raw.open(port) as client:
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        client.send(upgrade_request(path)[:-2] + f"{lines}\r\n".encode())
        return await client.head()


def request(path: str, method: str = "GET", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n".encode()


class Crowd:
    """WebSocket clients that came in, and stay."""

    def __init__(self) -> None:
        self.clients: list[tuple[int, Raw]] = []
        self.refused: list[int] = []

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def join(self, port: int, count: int, at_once: int = 25) -> None:
        """Try to connect `count` clients to a gateway."""
        turns = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with turns:
                client = await Raw.open(port)
                client.send(upgrade_request())
                status, _ = await client.head()
            if status == 101:
                await self._stack.enter_async_context(client)
                self.clients.append((port, client))
            else:
                self.refused.append(status)
                client.writer.transport.abort()

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())

    def of(self, port: int) -> list[Raw]:
        return [client for at, client in self.clients if at == port]

    def leave(self, client: Raw) -> None:
        self.clients = [pair for pair in self.clients if pair[1] is not client]
        client.writer.transport.abort()
