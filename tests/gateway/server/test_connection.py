"""One connection of the public address: its flow control, its timers, its errors."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from certhttp.protocol import Request
from gateway.config import Settings
from gateway.endpoints.router import Route, Router
from gateway.endpoints.table import subscriptions
from gateway.http.messages import DeferredResponse, Outcome, Response
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.server.connection import HTTPConnection
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import Crowd, ask, gateway, handshake, request
from tests.gateway.client_helpers import Raw, masked, upgrade_request
from tests.waiting import until

if TYPE_CHECKING:
    from gateway.admission.controller import AdmissionController

LARGE = b"x" * 100_000


class Server:
    """One listening socket whose connections a test can inspect."""

    def __init__(self, port: int, connections: list[HTTPConnection], service: Hub) -> None:
        self.port = port
        self.connections = connections
        self.service = service

    @property
    def unsent(self) -> int:
        """Bytes that the process holds for the only connection."""
        (connection,) = self.connections
        return connection.transport.get_write_buffer_size()


@asynccontextmanager
async def serving(
    answer: Callable[[Request], Outcome],
    settings: Settings | None = None,
    admission: "AdmissionController | None" = None,
) -> AsyncIterator[Server]:
    """Serve `answer` at /page, and the streams."""
    service = Hub(settings or Settings(), lambda client, cursor: None, Metrics())
    routes = Router(
        service,
        [
            Route("/page", "", answer, {}),
            Route("/", "", answer, {}, stream="lite"),
            *subscriptions(service),
        ],
    )
    connections: list[HTTPConnection] = []

    def connect() -> HTTPConnection:
        connections.append(HTTPConnection(service, routes, admission))
        return connections[-1]

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    async with server:
        yield Server(server.sockets[0].getsockname()[1], connections, service)


async def open_narrow(port: int) -> Raw:
    """Connect with the smallest receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return Raw(*await asyncio.open_connection(sock=connection, limit=1 << 16))


async def turns(count: int = 1000) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("later", [False, True])
async def test_requests_are_not_read_while_answers_are_not_taken(later: bool) -> None:
    answered = 0

    def page(_: Request) -> Outcome:
        nonlocal answered
        answered += 1
        answer = Response(200, (), LARGE)

        async def respond_later() -> Response:
            return answer

        return DeferredResponse(respond_later) if later else answer

    async with serving(page) as server, await open_narrow(server.port) as client:
        client.read_nothing()
        client.send(request("/page") * 500)
        await until(lambda: server.connections and server.unsent, "writing is paused")
        await turns()
        before = answered
        await turns()
        assert answered == before
        assert server.unsent < 2 * len(LARGE), "no more than one answer is held"
        client.read_again()
        for _ in range(500):
            assert (await client.answer())[2] == LARGE
        assert answered == 500


@pytest.mark.parametrize("answers", [0, 100])
async def test_requests_are_read_again_after_a_full_connection(answers: int) -> None:
    """Pings are read after an upgrade that follows answers that were not taken for a while."""

    def page(_: Request) -> Outcome:
        return Response(200, (), LARGE)

    async with serving(page) as server, await open_narrow(server.port) as client:
        client.read_nothing()
        client.send(request("/page") * answers + upgrade_request())
        if answers:
            await until(lambda: server.connections and server.unsent, "writing is paused")
            await turns()
        client.read_again()
        for _ in range(answers):
            assert (await client.answer())[0] == 200
        assert (await client.head())[0] == 101
        client.send(masked(9, b"still there"))
        assert await client.frame() == (0xA, b"still there")


async def test_an_answer_may_take_longer_than_a_request() -> None:
    """Neither the time before a request nor the time for its answer counts as the request's."""

    async def slow() -> Response:
        await asyncio.sleep(1.4)
        return Response(200, (), b"at last")

    settings = Settings(request_timeout=1.0)
    async with (
        serving(lambda _: DeferredResponse(slow), settings) as server,
        await Raw.open(server.port) as client,
    ):
        for _ in range(2):
            client.send(request("/page"))
            assert (await client.answer())[2] == b"at last"


async def test_an_idle_connection_may_take_its_time_with_the_next_request() -> None:
    settings = Settings(request_timeout=1.0, idle_timeout=60)
    async with (
        serving(lambda _: Response(200, (), b"here"), settings) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(request("/page"))
        await client.answer()
        await asyncio.sleep(1.4)
        client.send(request("/page"))
        assert (await client.answer())[2] == b"here"
        client.send(request("/page")[:-2])
        assert (await client.answer())[0] == 408, "but not with the request itself"
        assert await client.closed()


@pytest.mark.parametrize(
    "sent", [b"POST /page HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhal"]
)
async def test_half_a_body_is_not_waited_for(sent: bytes) -> None:
    settings = Settings(request_timeout=0.2)
    async with (
        serving(lambda _: Response(200, (), b""), settings) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(sent)
        assert (await client.answer())[0] == 408
        assert await client.closed()


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def never() -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    settings = Settings(answer_timeout=0.2)
    async with (
        serving(lambda _: DeferredResponse(never), settings) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(request("/page"))
        status, headers, body = await client.answer()
        assert status == 503
        assert int(headers["retry-after"]) > 0
        assert json.loads(body)["code"] == "response_timeout"
        assert await client.closed()


async def test_an_answer_that_is_not_taken_is_dropped() -> None:
    settings = Settings(client_timeout=0.5)
    async with (
        serving(lambda _: Response(200, (), LARGE), settings) as server,
        await open_narrow(server.port) as client,
    ):
        client.read_nothing()
        client.send(request("/page") * 100)
        await until(lambda: server.connections and server.unsent, "writing is paused")
        await until(lambda: not server.service.pending_connections, "the connection is dropped")


@pytest.mark.parametrize("later", [False, True])
async def test_an_unexpected_error_is_answered_counted_and_logged_once(
    later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> Response:
        raise ZeroDivisionError

    def page(_: Request) -> Outcome:
        if later:
            return DeferredResponse(fail)
        raise ZeroDivisionError

    async with serving(page) as server:
        for _ in range(20):
            async with await Raw.open(server.port) as client:
                client.send(request("/page"))
                status, _, body = await client.answer()
                assert (status, json.loads(body)["code"]) == (500, "internal_error")
                assert await client.closed()
        errors = server.service.errors
        assert errors.count == 20
        assert errors.logged == 1


CONTROLS = [bytes([code]) for code in (*range(1, 9), *range(14, 32), 127)]


@pytest.mark.parametrize("control", CONTROLS)
async def test_control_characters_in_headers_are_refused(control: bytes) -> None:
    async with serving(lambda _: Response(200, (), b"")) as server:
        for head in (upgrade_request(), request("/page")):
            async with await Raw.open(server.port) as client:
                client.send(head[:-2] + b"X-Odd: a" + control + b"b\r\n\r\n")
                status, _, body = await client.answer()
                assert status == 400
                assert json.loads(body)["code"] == "bad_request"
                assert "x-odd" in json.loads(body)["error"]
                assert await client.closed()
        assert server.service.errors.count == 0


async def test_bad_handshakes_hold_no_slots(shared_redis: RedisServer, prefix: str) -> None:
    """More of them than the limit, of every kind that is refused after admission."""
    bad = [
        upgrade_request()[:-2] + b"X-Odd: \x01\r\n\r\n",
        upgrade_request().replace(b"Version: 13", b"Version: 12"),
        upgrade_request().replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        upgrade_request()[:-2] + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ]
    limit = {"enabled": True, "max_connections": 5}
    async with gateway(shared_redis.url, prefix, connection_limit=limit) as port:
        for number in range(60):
            async with await Raw.open(port) as client:
                client.send(bad[number % len(bad)])
                assert (await client.answer())[0] == 400
        async with Crowd() as crowd:
            await crowd.join(port, 5)
            assert not crowd.refused


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /page HTTP/9.9\r\nHost: t\r\n\r\n", 505),
        (b"GET /page HTTP/2.0\r\nHost: t\r\n\r\n", 505),
        (b"GET /page HTTP/0.9\r\nHost: t\r\n\r\n", 505),
        (b"GET /page HTTP/1.2\r\nHost: t\r\n\r\n", 200),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"PRI * HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET ftp://t/page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET http://t?at=1 HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"GET HTTPS://t:8080/page HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"GET http://[2001:db8::1]/page HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"GET http://[fe80::1%25a]:80/page HTTP/1.1\r\nHost: [fe80::1%25a]:80\r\n\r\n", 200),
        (b"GET http://[/page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET http://[x]/page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET /page HTTP/1.1\r\nHost: [x]\r\n\r\n", 400),
        (b"GET http://]/page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET http:///page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET http://u@t/page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET http://t:x/page HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"CONNECT t:80 HTTP/1.1\r\nHost: t:80\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n", 204),
        (b"GET /page?at=http://t/ HTTP/1.1\r\nHost: t\r\n\r\n", 200),
    ],
)
async def test_request_lines(head: bytes, status: int) -> None:
    async with (
        serving(lambda _: Response(200, (), b"")) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(head)
        assert (await client.head())[0] == status
        if status >= 400:
            assert await client.ends()


@pytest.mark.parametrize(
    "header",
    [b"Sec-WebSocket-Protocol:", b"Sec-WebSocket-Extensions:", b"Sec-WebSocket-Protocol: , ,"],
)
async def test_empty_lists_in_a_handshake_are_no_lists(header: bytes) -> None:
    async with (
        serving(lambda _: Response(200, (), b"")) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(upgrade_request()[:-2] + header + b"\r\n\r\n")
        assert (await client.head())[0] == 101


@pytest.mark.parametrize("version", [b"8", b"14", b"x", b"13, 8"])
async def test_the_supported_version_is_named(version: bytes) -> None:
    """RFC 6455 section 4.4."""
    async with (
        serving(lambda _: Response(200, (), b"")) as server,
        await Raw.open(server.port) as client,
    ):
        client.send(upgrade_request().replace(b"Version: 13", b"Version: " + version))
        status, headers, _ = await client.answer()
        assert (status, headers["sec-websocket-version"]) == (400, "13")


async def test_no_websocket_where_they_are_switched_off() -> None:
    settings = Settings(websocket=False)
    async with serving(lambda _: Response(200, (), b""), settings) as server:
        for path in ("/", "/full-stream", "/domains-only", "/sse", "/sse?stream=full", "/sse/"):
            async with await Raw.open(server.port) as client:
                client.send(upgrade_request(path))
                status, _, body = await client.answer()
                assert status == 404, path
                assert json.loads(body)["code"] == "disabled"
                assert "protocols.websocket" in json.loads(body)["error"]


async def test_streams_with_a_trailing_slash(shared_redis: RedisServer, prefix: str) -> None:
    async with gateway(shared_redis.url, prefix, base_path="/ct") as port:
        for base in ("", "/ct"):
            for path in ("/full-stream/", "/domains-only/", "/sse/"):
                assert (await handshake(port, base + path))[0] == 101
            async with await Raw.open(port) as client:
                client.send(request(f"{base}/sse/?stream=full"))
                assert (await client.head())[0] == 200
        assert (await ask(port, "/full-stream/"))[0] == 426
        assert (await ask(port, "/full-stream//"))[0] == 404


NEVER = "9999999999999-0-0"


@pytest.mark.parametrize(
    ("query", "header", "requested"),
    [
        ("lastEventId=9999999999999-0-0", None, NEVER),
        ("Last-Event-ID=9999999999999-0-0", None, NEVER),
        ("cursor=0&lastEventId=9999999999999-0-0", None, NEVER),
        ("lastEventId=0", NEVER, NEVER),
        ("cursor=9999999999999-0-0&lastEventId=", None, NEVER),
    ],
)
async def test_event_ids_in_the_query(
    shared_redis: RedisServer, prefix: str, query: str, header: str | None, requested: str
) -> None:
    """Clients that cannot set headers put what they have seen into the URL."""
    async with gateway(shared_redis.url, prefix) as port, await Raw.open(port) as client:
        headers = {} if header is None else {"Last_Event_ID": header}
        client.send(request(f"/sse?{query}", **headers))
        assert (await client.head())[0] == 200
        (event,) = await client.data_events(1)
        gap = json.loads(event["data"])
        assert (gap["message_type"], gap["data"]["requested"]) == ("gap", requested)


@pytest.mark.parametrize("name", ["lastEventId", "Last-Event-ID"])
async def test_an_event_id_in_the_query_that_is_none(name: str) -> None:
    async with serving(lambda _: Response(200, (), b"")) as server:
        status, _, body = await ask(server.port, f"/sse?{name}=yesterday")
        assert status == 400
        assert json.loads(body)["code"] == "invalid_cursor"
        assert "yesterday" in json.loads(body)["error"]


async def test_what_is_for_some_networks_is_not_for_every_origin(
    shared_redis: RedisServer, prefix: str
) -> None:
    """A page of any origin could read it with the network of the browser that shows it."""
    opened = "access-control-allow-origin"
    configured = {"protocols": {"api": True}}
    paths = ["/latest.json", "/api/stats", "/api/logs", f"/api/cert/{'0' * 64}", "/api/cert/x"]
    async with gateway(shared_redis.url, prefix, **configured) as port:
        for path in paths:
            for method in ("GET", "OPTIONS"):
                assert opened in (await ask(port, path, method))[1], path
    for network in ("127.0.0.0/8", "203.0.113.0/24"):
        allow = {"api": [network], "metrics": [network]}
        async with gateway(shared_redis.url, prefix, allow=allow, **configured) as port:
            for path in (*paths, "/metrics"):
                for method in ("GET", "OPTIONS", "POST"):
                    _, headers, _ = await ask(port, path, method, Origin="http://elsewhere")
                    shown = [name for name in headers if name.startswith("access-control-")]
                    assert not shown, (path, method)
            for path in ("/example.json", "/health", "/openapi.json"):
                assert opened in (await ask(port, path))[1]
