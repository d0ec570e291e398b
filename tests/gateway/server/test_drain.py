"""How a gateway stops: within its time, whatever its clients do."""

import asyncio
import socket
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certbus.cluster import snapshot
from certhttp.protocol import Request
from gateway.config import Settings
from gateway.http.messages import DeferredResponse, Outcome, Response
from gateway.server.drain import drain
from gateway.server.listener import Limits
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import gateway, request
from tests.gateway.certificates import pair
from tests.gateway.client_helpers import Raw, connect_blocking, upgrade_request
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.gateway.server.test_connection import serving, turns
from tests.gateway.server.test_listener import MANY, arrive, listener, tls_options
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


@pytest.mark.parametrize("secure", [False, True])
async def test_a_client_that_is_reading_a_response_gets_all_of_it(
    secure: bool, tmp_path: Path
) -> None:
    certificate = pair("here")
    options = tls_options(tmp_path, certificate) if secure else None
    trusting = certificate.trusting() if secure else None
    body = bytes(12_000_000)  # more than kernels hold for one connection
    settings, response = Settings(stop_timeout=60), Response(200, (), body)

    def begin(port: int) -> tuple[socket.socket, bytes]:
        client = connect_blocking(port, trusting)
        client.sendall(request("/page"))
        return client, client.recv(1000)

    def read(client: socket.socket) -> bytes:
        with client:
            return b"".join(iter(lambda: client.recv(1 << 16), b""))

    async with listener(Limits(MANY), tls=options, given=settings, answer=response) as place:
        client, first = await asyncio.to_thread(begin, place.port)
        stopping = asyncio.create_task(drain(place.listener, place.service, 1012, "restart"))
        await turns(100)
        received = first + await asyncio.to_thread(read, client)
        assert received.partition(b"\r\n\r\n")[2] == body
        await stopping


@pytest.mark.parametrize("iterations", range(4))
async def test_a_connection_that_is_accepted_last_is_answered(iterations: int) -> None:
    """However far it is set up when its gateway stops to accept others."""

    async def respond() -> Response:
        await turns(10)
        return Response(200, (), b"here")

    async with listener(
        Limits(MANY), given=Settings(stop_timeout=60), answer=DeferredResponse(respond)
    ) as place:
        stopping = asyncio.create_task(drain(place.listener, place.service, 1012, "restart"))
        await turns(iterations)
        with arrive(place) as client, capture_logs() as lines:
            await stopping
            assert [line["event"] for line in lines if line["log_level"] != "debug"] == []
            assert not place.service.pending_connections
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("iterations", range(4))
async def test_a_tls_handshake_that_begins_last_is_ended(iterations: int, tmp_path: Path) -> None:
    tls = tls_options(tmp_path, pair("here"))
    async with listener(Limits(MANY), tls=tls, given=Settings(stop_timeout=60)) as place:
        stopping = asyncio.create_task(drain(place.listener, place.service, 1012, "restart"))
        await turns(iterations)
        with arrive(place, b"\x16\x03\x01\x02\x00\x01\x00") as client:
            await stopping
            await turns(10)
            with suppress(ConnectionResetError):
                assert client.recv(1000) == b""
