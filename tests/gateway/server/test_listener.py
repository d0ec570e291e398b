"""Connections without a stream: how many there may be, and who is refused."""

import asyncio
import errno
import fcntl
import json
import os
import socket
import sys
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from certconf.addresses import Network
from certhttp.client import fetch as ask_admin
from certhttp.tls import load_certificate
from gateway.admission.policy import Policy
from gateway.config import Settings
from gateway.endpoints.router import Route, Router
from gateway.http.messages import Outcome, Response
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.server.connection import HTTPConnection
from gateway.server.listener import Arrival, Limits, Listener, listen, set_socket_options
from launcher.runtime.supervisor import CERTSTREAM_SERVER
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import gateway, request, settings
from tests.gateway.certificates import Pair, pair
from tests.gateway.client_helpers import Raw, freed, upgrade_request
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until

MANY = 1 << 30


class Place:
    """Where a listener listens, and what it has refused."""

    def __init__(self, accepting: Listener, port: int, refused: Counter[str], service: Hub) -> None:
        self.listener = accepting
        self.port = port
        self.refused = refused
        self.service = service


class Elsewhere:
    """A listening socket to which clients connect from other addresses."""

    def __init__(self, listening: socket.socket, peers: Iterable[str]) -> None:
        self._listening = listening
        self._peers = iter(peers)

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, peer = self._listening.accept()
        return accepted, (next(self._peers, peer[0]), *peer[1:])

    def close(self) -> None:
        self._listening.close()


@asynccontextmanager
async def listener(
    limits: Limits,
    policy: Policy | None = None,
    tls: dict[str, Any] | None = None,
    *,
    given: Settings | None = None,
    answer: Outcome | None = None,
    peers: Iterable[str] = (),
) -> AsyncIterator[Place]:
    """Serve `answer` at /page; the first connections seem to come from `peers`."""
    service = Hub(given or Settings(), lambda client, cursor: None, Metrics())
    outcome = answer or Response(200, (), b"here")
    routes = Router(service, [Route("/page", "", lambda _: outcome, {})])
    refused: Counter[str] = Counter()
    with listen("127.0.0.1", 0) as listening:
        set_socket_options(listening, service.settings)
        policy = policy or Policy()
        connect = partial(HTTPConnection, service, routes, None)
        accepted = cast("socket.socket", Elsewhere(listening, peers))
        accepting = Listener(accepted, connect, refused, lambda: policy, limits, tls or {})
        try:
            yield Place(accepting, listening.getsockname()[1], refused, service)
        finally:
            accepting.close()


def arrive(place: Place, sent: bytes = request("/page")) -> socket.socket:
    """Connect and send something; return once the kernel has both for the listener.

    The event loop runs no iteration in this time.
    """
    client = socket.create_connection(("127.0.0.1", place.port), timeout=30)
    client.sendall(sent)
    while int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
        time.sleep(0.001)
    return client


async def silent(stack: AsyncExitStack, place: Place, count: int) -> list[Raw]:
    """Connect, send nothing, and wait until all are counted."""
    found = [await stack.enter_async_context(await Raw.open(place.port)) for _ in range(count)]
    await until(lambda: len(place.service.pending_connections) >= count, "all are connected")
    return found


async def page(port: int) -> tuple[int, dict[str, str]]:
    async with await Raw.open(port) as client:
        client.send(request("/page"))
        status, headers, _ = await client.answer()
        return status, headers


async def test_connections_of_one_address_without_a_stream_are_limited() -> None:
    async with listener(Limits(MANY, waiting_of_one=5)) as place, AsyncExitStack() as stack:
        first, *_ = await silent(stack, place, 5)
        for _ in range(3):
            status, headers = await page(place.port)
            assert (status, headers["connection"]) == (429, "close")
            assert int(headers["retry-after"]) >= 30
        assert place.refused["site"] == 3
        first.writer.transport.abort()
        await until(lambda: len(place.service.pending_connections) == 4)
        assert (await page(place.port))[0] == 200


async def test_a_64_of_ipv6_is_one_address() -> None:
    """One client has 2**64 addresses there (RFC 6177)."""
    peers = [*(f"2001:db8:0:1::{host}" for host in range(5)), "2001:db8:0:2::1", "::ffff:192.0.2.1"]
    limits = Limits(MANY, waiting_of_one=3)
    async with listener(limits, peers=peers) as place, AsyncExitStack() as stack:
        await silent(stack, place, 3)
        assert [(await page(place.port))[0] for _ in peers[3:]] == [429, 429, 200, 200]
        assert place.refused["site"] == 2


async def test_a_64_of_ipv6_is_one_address_between_requests() -> None:
    peers = [*(f"2001:db8:0:1::{host}" for host in range(3)), "2001:db8:0:2::1"]
    limits = Limits(MANY, idle_of_one=2)
    async with listener(limits, peers=peers) as place, AsyncExitStack() as stack:
        endings = []
        for _ in peers:
            client = await stack.enter_async_context(await Raw.open(place.port))
            client.send(request("/page"))
            endings.append((await client.answer())[1].get("connection"))
    assert endings == [None, None, "close", None]


async def test_a_proxy_is_not_one_address() -> None:
    proxies = Policy(trusted_proxies=(Network("127.0.0.0/8"),))
    limits = Limits(MANY, waiting_of_one=2)
    async with listener(limits, proxies) as place, AsyncExitStack() as stack:
        await silent(stack, place, 10)
        assert (await page(place.port))[0] == 200


async def test_above_the_total_limit_the_oldest_connection_is_closed() -> None:
    async with listener(Limits(MANY, waiting=5)) as place, AsyncExitStack() as stack:
        first, second, *_ = await silent(stack, place, 5)
        assert (await page(place.port))[0] == 200
        assert await first.closed()
        await silent(stack, place, 1)
        assert (await page(place.port))[0] == 200
        assert await second.closed()
        assert place.refused["waiting"] >= 2


async def test_a_connection_that_is_being_set_up_makes_no_room() -> None:
    async with listener(Limits(MANY, waiting=2)) as place, AsyncExitStack() as stack:
        clients = [stack.enter_context(arrive(place)) for _ in range(3)]
        await until(lambda: place.refused["waiting"])
        received = [await asyncio.to_thread(client.recv, 1000) for client in clients]
        assert [answer[9:12] for answer in received] == [b"200", b"200", b"503"]


async def test_idle_connections_are_few() -> None:
    async with listener(Limits(MANY, idle_of_one=2)) as place, AsyncExitStack() as stack:
        endings = []
        for _ in range(5):
            client = await stack.enter_async_context(await Raw.open(place.port))
            client.send(request("/page"))
            _, headers, body = await client.answer()
            assert body == b"here"
            endings.append(headers.get("connection"))
        assert endings == [None, None, "close", "close", "close"]
        await until(lambda: len(place.service.pending_connections) == 2)


async def test_a_limit_for_one_client_holds_for_idle_connections(
    shared_redis: RedisServer, prefix: str
) -> None:
    limit = {"enabled": True, "per_ip_limit": 3}
    async with gateway(shared_redis.url, prefix, connection_limit=limit) as port:
        async with AsyncExitStack() as stack:
            kept = 0
            for _ in range(50):
                client = await stack.enter_async_context(await Raw.open(port))
                client.send(request("/health"))
                _, headers, _ = await client.answer()
                kept += headers.get("connection") != "close"
        assert kept == 3


class Exhausted:
    """A listening socket for which the kernel has no descriptors for a while."""

    def __init__(self, listening: socket.socket, times: int) -> None:
        self._listening = listening
        self._left = times

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> tuple[socket.socket, Any]:
        if self._left:
            self._left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._listening.accept()

    def close(self) -> None:
        self._listening.close()


async def test_no_descriptors_at_all_are_waited_for() -> None:
    service = Hub(Settings(), lambda client, cursor: None, Metrics())
    routes = Router(service, [Route("/page", "", lambda _: Response(200, (), b"here"), {})])
    refused: Counter[str] = Counter()
    with listen("127.0.0.1", 0) as listening:
        set_socket_options(listening, service.settings)
        exhausted = cast("socket.socket", Exhausted(listening, 3))
        connect = partial(HTTPConnection, service, routes, None)
        accepting = Listener(exhausted, connect, refused, Policy, Limits(MANY), {})
        assert (await page(listening.getsockname()[1]))[0] == 200
        assert refused == {"descriptors": 3}
        accepting.close()


async def test_streams_take_no_place_among_those_without(start: Start) -> None:
    running = await start()
    async with AsyncExitStack() as stack:
        for _ in range(600):  # more than one address may have without a stream
            client = await stack.enter_async_context(await Raw.open(running.port))
            client.send(upgrade_request())
            assert (await client.head())[0] == 101


async def test_ended_and_upgraded_connections_leave_no_garbage(start: Start) -> None:
    """Their memory is free at once: reference cycles would wait for a garbage collection."""
    gateway = await (await start()).following()
    async with AsyncExitStack() as stack, freed(HTTPConnection, Arrival):
        for _ in range(20):
            client = await stack.enter_async_context(await Raw.open(gateway.port))
            await client.upgrade()
            async with await Raw.open(gateway.port) as client:
                client.send(b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
                assert await client.ends()


def tls_options(directory: Path, certificate: Pair) -> dict[str, Any]:
    certificate.write(directory / "cert", directory / "key")
    context, _ = load_certificate(directory / "cert", directory / "key")
    return {"ssl": context, "ssl_handshake_timeout": 60.0}


async def test_tls_handshakes_count_as_well(tmp_path: Path) -> None:
    certificate = pair("here")
    tls = tls_options(tmp_path, certificate)
    trusting = certificate.trusting()
    async with listener(Limits(MANY, waiting=3), tls=tls) as place, AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(await Raw.open(place.port)) for _ in range(3)]
        for index in range(2):
            async with await Raw.open(place.port, tls=trusting) as client:
                client.send(request("/page"))
                assert (await client.answer())[2] == b"here"
            assert await stalled[index].closed(), "the oldest gives way"


async def test_a_gateway_short_of_descriptors_refuses_clients_alone(
    press: Press, shared_redis: RedisServer, prefix: str, tmp_path: Path
) -> None:
    """Those who are connected, Redis and the admin address notice nothing."""
    with listen("127.0.0.1", 0) as placeholder:
        port: int = placeholder.getsockname()[1]
        admin = f"unix:{tmp_path}/admin"
        given = settings(shared_redis.url, prefix, {"port": port, "admin": admin})
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            'ulimit -n 300 && exec "$@"',
            "sh",
            *CERTSTREAM_SERVER,
            "gateway",
            "--log-format=json",
            *(f"--set={key}={json.dumps(value)}" for key, value in given.items()),
            stderr=asyncio.subprocess.PIPE,
        )
    try:

        async def healthy() -> bool:
            reply = await ask_admin(admin, "/ready", 5)
            return reply is not None and reply.status == 200

        await until(healthy, "the gateway is ready", 60)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(await Raw.open(port))
            await client.upgrade()
            statuses: Counter[int] = Counter()
            for number in range(400):
                other = await stack.enter_async_context(await Raw.open(port))
                other.send(b"GET /hea" if number < 350 else request("/health"))
                if number >= 350:
                    statuses[(await other.answer())[0]] += 1
            assert statuses == {503: 50}
            reply = await ask_admin(admin, "/health", 20)
            assert reply is not None
            assert reply.status == 200
            await press.print(3)
            for serial in range(3):
                message = await client.text()
                assert message["data"]["leaf_cert"]["serial_number"] == str(serial)
            reply = await ask_admin(admin, "/metrics", 20)
            assert reply is not None
            name = b'certstream_gateway_refused_total{reason="descriptors"} '
            _, _, count = reply.body.partition(name)
            assert float(count.partition(b"\n")[0]) >= 50

        async def served() -> bool:
            async with await Raw.open(port) as again:
                again.send(request("/health"))
                return (await again.answer())[0] == 200

        await until(served, "there is room again")
        process.terminate()
        _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    events = [json.loads(line) for line in stderr.splitlines()]
    rejected = [event for event in events if event["event"] == "connection rejected"]
    assert [event["reason"] for event in rejected] == ["descriptors"]
