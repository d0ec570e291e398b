"""HTTP on the public address: pages, refusals, limits."""

import asyncio
import json
import string

import pytest

from gateway.config import Settings
from gateway.endpoints.router import Route, Router
from gateway.http.messages import DeferredResponse, Response
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.server.connection import HTTPConnection
from tests.gateway.client_helpers import Raw, upgrade_request
from tests.gateway.conftest import Running, Start


async def ask(gateway: Running, request: str) -> tuple[int, dict[str, str], bytes]:
    async with await Raw.open(gateway.port) as client:
        client.send(f"{request}\r\nHost: test\r\n\r\n".encode())
        return await client.answer()


async def test_health(start: Start) -> None:
    gateway = await start()
    status, headers, body = await ask(gateway, "GET /health HTTP/1.1")
    assert (status, body) == (200, b"OK")
    assert headers["access-control-allow-origin"] == "*"


async def test_health_is_answered_without_redis(start: Start) -> None:
    gateway = await start(redis_url="unix:///nonexistent/redis.sock")
    assert (await ask(gateway, "GET /health HTTP/1.1"))[0] == 200


async def test_the_index_describes_how_to_connect(start: Start) -> None:
    status, headers, body = await ask(await start(), "GET / HTTP/1.1")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"/full-stream" in body


@pytest.mark.parametrize(
    ("request_line", "status", "code", "text"),
    [
        ("GET /nothing HTTP/1.1", 404, "not_found", "/nothing"),
        ("POST / HTTP/1.1", 405, "method_not_allowed", "POST"),
        ("DELETE /sse HTTP/1.1", 405, "method_not_allowed", "DELETE"),
        ("GET /full-stream HTTP/1.1", 426, "upgrade_required", "ws://"),
        ("GET /sse?stream=half HTTP/1.1", 400, "unknown_stream", "full, lite, domains or v2"),
        ("GET /sse?cursor=yesterday HTTP/1.1", 400, "invalid_cursor", "yesterday"),
        ("GET /sse?cursor=1-2-3-4 HTTP/1.1", 400, "invalid_cursor", "1-2-3-4"),
        ("GET /sse HTTP/1.1\r\nLast-Event-ID: x", 400, "invalid_cursor", "'x'"),
        (f"GET /?{'&'.join(f'a{n}=' for n in range(40))} HTTP/1.1", 400, "invalid_query", "fields"),
    ],
)
async def test_errors_have_a_code_and_a_text(
    start: Start, request_line: str, status: int, code: str, text: str
) -> None:
    got, headers, body = await ask(await start(), request_line)
    assert got == status
    assert headers["content-type"] == "application/json"
    error = json.loads(body)
    assert error.keys() == {"error", "code"}
    assert error["code"] == code
    assert text in error["error"]
    assert error["error"][0] in string.ascii_uppercase + "/"


async def test_wrong_methods_are_answered_with_the_allowed_ones(start: Start) -> None:
    gateway = await start()
    assert (await ask(gateway, "PUT / HTTP/1.1"))[1]["allow"] == "GET, HEAD, OPTIONS"
    status, headers, body = await ask(gateway, "OPTIONS /sse HTTP/1.1")
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == "*"
    assert "GET" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"].split(", ") == ["Authorization", "*"]


@pytest.mark.parametrize("path", ["/", "/health", "/example.json", "/nothing"])
async def test_head_is_get_without_the_body(start: Start, path: str) -> None:
    gateway = await start()
    status, _, _ = await ask(gateway, f"GET {path} HTTP/1.1")
    async with await Raw.open(gateway.port) as client:
        client.send(f"HEAD {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
        assert (await client.head())[0] == status
        assert await client.closed()


async def test_head_of_a_stream_ends(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(b"HEAD /sse HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert await client.closed()


async def test_connections_are_kept_and_requests_may_come_at_once(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n" * 50)
        for _ in range(50):
            assert (await client.answer())[2] == b"OK"
        client.send(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
        assert (await client.answer())[2] == b"OK"


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
    ],
)
async def test_connections_are_closed_where_they_should_be(
    start: Start, request_head: bytes
) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(request_head)
        assert (await client.answer())[2] == b"OK"
        assert await client.closed()


async def test_absolute_targets_as_sent_to_proxies(start: Start) -> None:
    assert (await ask(await start(), "GET http://test/health HTTP/1.1"))[2] == b"OK"


async def test_a_body_is_read_and_ignored_up_to_a_limit(start: Start) -> None:
    gateway = await start()
    async with await Raw.open(gateway.port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello")
        assert (await client.answer())[2] == b"OK"
        client.send(b"GET /health HTTP/1.1\r\nHost: t\r\nContent-Length: 999999\r\n\r\n")
        client.send(b"x" * 100_000)
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (413, "body_too_large")


async def test_expect_continue_is_answered_at_once(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(
            b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        )
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (417, "body_not_supported")
        assert await client.closed()


@pytest.mark.parametrize(
    ("nonsense", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),  # no Host
        (b"GET /" + b"x" * 20_000, 431, "head_too_large"),
        (b"GET / HTTP/1.1\r\nCookie: " + b"x" * 20_000, 431, "head_too_large"),
    ],
)
async def test_nonsense_and_excess(start: Start, nonsense: bytes, status: int, code: str) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(nonsense)
        got, _, body = await client.answer()
        assert (got, json.loads(body)["code"]) == (status, code)
        assert await client.closed()


@pytest.mark.parametrize("sent", [b"", b"GET /hea"])
async def test_a_slow_request_is_cut_off(start: Start, sent: bytes) -> None:
    gateway = await start(Settings(request_timeout=0.2))
    async with await Raw.open(gateway.port) as client:
        client.send(sent)
        if sent:
            status, _, body = await client.answer()
            assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        assert await client.closed()


async def test_a_byte_now_and_then_gains_no_time(start: Start) -> None:
    gateway = await start(Settings(request_timeout=0.3))
    async with await Raw.open(gateway.port) as client:
        closed = asyncio.create_task(client.ends())
        while not closed.done():
            client.send(b"G")
            await asyncio.wait({closed}, timeout=0.05)
        assert await closed


async def test_an_idle_connection_is_closed(start: Start) -> None:
    gateway = await start(Settings(idle_timeout=0.2))
    async with await Raw.open(gateway.port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
        await client.answer()
        assert await client.closed()


@pytest.mark.parametrize(
    ("settings", "request_head", "named"),
    [
        (Settings(websocket=False), upgrade_request("/"), "protocols.websocket"),
        (Settings(sse=False), b"GET /sse HTTP/1.1\r\nHost: t\r\n\r\n", "protocols.sse"),
        (Settings(health=False), b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n", "protocols.health"),
        (
            Settings(example_json=False),
            b"GET /example.json HTTP/1.1\r\nHost: t\r\n\r\n",
            "protocols.example_json",
        ),
        (Settings(streams=("lite",)), upgrade_request("/full-stream"), "streams.full"),
        (
            Settings(streams=("lite",)),
            b"GET /sse?stream=domains HTTP/1.1\r\nHost: t\r\n\r\n",
            "streams.domains_only",
        ),
    ],
)
async def test_what_is_switched_off_is_reported(
    start: Start, settings: Settings, request_head: bytes, named: str
) -> None:
    async with await Raw.open((await start(settings)).port) as client:
        client.send(request_head)
        status, _, body = await client.answer()
    assert status == 404
    error = json.loads(body)
    assert error["code"] == "disabled"
    assert named in error["error"]


async def test_switched_off_streams_leave_the_others(start: Start) -> None:
    async with await Raw.open((await start(Settings(streams=("lite",)))).port) as client:
        await client.upgrade("/")


async def test_an_unexpected_error_is_answered_at_once() -> None:
    """The error has no handler of its own."""

    async def fail() -> Response:
        raise ZeroDivisionError

    service = Hub(Settings(), lambda client, cursor: None, Metrics())
    route = Route("/fails", "", lambda _: DeferredResponse(fail), {})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: HTTPConnection(service, Router(service, [route])), "127.0.0.1", 0
    )
    async with server, await Raw.open(server.sockets[0].getsockname()[1]) as client:
        client.send(b"GET /fails HTTP/1.1\r\nHost: t\r\n\r\n")
        status, _, body = await client.answer()
        expected = {"error": "Internal server error", "code": "internal_error"}
        assert (status, json.loads(body)) == (500, expected)
        assert await client.closed()
