"""How a gateway stops: within its time, whatever its clients do."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from certbus.cluster import snapshot
from certhttp.protocol import Request
from gateway.config import Settings
from gateway.http.messages import DeferredResponse, Outcome, Response
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import gateway, request
from tests.gateway.client_helpers import Raw, upgrade_request
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.gateway.server.test_connection import serving
from tests.waiting import until


@pytest.mark.parametrize("path", ["/full-stream", "/sse?stream=full"])
async def test_a_client_that_reads_nothing_does_not_delay_a_clean_end(
    start: Start, press: Press, path: str
) -> None:
    """Its registration and its clients are gone from the directory, and its connections closed."""
    settings = Settings(stop_timeout=1.0, close_timeout=3600)
    running = await (await start(settings)).following()
    async with await Raw.open(running.port) as stuck, await Raw.open(running.port) as silent:
        await silent.upgrade("/")  # reads, but answers no closing handshake
        stuck.send(upgrade_request(path) if path == "/full-stream" else request(path))
        await stuck.head()
        stuck.read_nothing()
        await until(lambda: running.has_clients(2))
        for _ in range(10):
            await press.print(20, padding=50_000)
        began = time.monotonic()
        await running.stopped()
        assert time.monotonic() - began < 20, "not the hour that a closing handshake may take"
        seen = await snapshot(press.redis, press.keys)
        assert running.url not in [gateway.fields["url"] for gateway in seen.gateways]
        assert await silent.ends()
        stuck.read_again()
        assert await stuck.ends()


async def test_closed_connections_are_not_counted(shared_redis: RedisServer, prefix: str) -> None:
    """Those that were cut off leave their places to others at once."""
    limit = {"enabled": True, "max_connections": 2}
    async with AsyncExitStack() as stack:
        async with gateway(shared_redis.url, prefix, connection_limit=limit) as port:
            for _ in range(2):
                silent = await stack.enter_async_context(await Raw.open(port))
                await silent.upgrade()
        async with gateway(shared_redis.url, prefix, connection_limit=limit) as port:
            for _ in range(2):
                await (await stack.enter_async_context(await Raw.open(port))).upgrade()


async def test_a_pending_answer_is_still_sent() -> None:
    requested, release = asyncio.Event(), asyncio.Event()

    def page(_: Request) -> Outcome:
        async def respond() -> Response:
            requested.set()
            await release.wait()
            return Response(200, (), b"at last")

        return DeferredResponse(respond)

    async with (
        serving(page, Settings(stop_timeout=20)) as server,
        await Raw.open(server.port) as client,
        await Raw.open(server.port) as idle,
    ):
        client.send(request("/page"))
        await requested.wait()
        await until(lambda: len(server.service.pending_connections) == 2)
        for connection in tuple(server.service.pending_connections):
            connection.close()
        assert await idle.closed()
        release.set()
        _, headers, body = await client.answer()
        assert (headers["connection"], body) == ("close", b"at last")
        assert await client.closed()
