"""The admin address of one process: it answers or closes each connection, and keeps serving."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certhttp.address import address_of, is_here, listen
from certhttp.client import ClientResponse, fetch
from certhttp.protocol import MAX_BODY_BYTES, MAX_CHUNKS, RequestError, ServerProtocol
from certhttp.server import Response, serve_pages, text_response


async def _well() -> Response:
    return text_response("OK")


async def _broken() -> Response:
    raise ZeroDivisionError


async def _endless() -> Response:
    return text_response("x" * (5 * 1024 * 1024))


@pytest.fixture(params=["tcp", "unix"])
async def address(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    wanted = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/a.sock"
    listening = listen(wanted)
    pages = {"/health": _well, "/broken": _broken, "/endless": _endless}
    async with serve_pages(listening, pages):
        yield address_of(listening)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")
@pytest.mark.parametrize("wanted", ["[::1]:0", "::1:0", "[::]:0", "localhost:0", "127.0.0.1:0"])
async def test_the_family_is_that_of_the_address(wanted: str) -> None:
    listening = listen(wanted)
    async with serve_pages(listening, {"/health": _well}):
        port = listening.getsockname()[1]
        reached = ["127.0.0.1"] if listening.family == socket.AF_INET else ["[::1]"]
        for host in [*reached, *(["127.0.0.1"] if wanted == "[::]:0" else [])]:
            assert await fetch(f"{host}:{port}", "/health", 10) == ClientResponse(200, b"OK")


def test_every_address_is_every_ipv4_address_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen("[::]:0") as listening:
        assert listening.family == socket.AF_INET
        with socket.create_connection(listening.getsockname()):
            pass


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("port: 80\n")
    with pytest.raises(FileExistsError, match=r"not a socket.*config\.yaml"):
        listen(f"unix:{file}")
    assert file.read_text() == "port: 80\n"
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(FileExistsError):
        listen(f"unix:{tmp_path}/link")
    assert (tmp_path / "link").is_symlink()


def test_a_socket_that_was_left_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        with listen(f"unix:{tmp_path}/a.sock"):
            pass


async def say(address: str, request: bytes) -> bytes:
    """Everything that comes back until it hangs up."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(request)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


async def test_pages(address: str) -> None:
    assert await fetch(address, "/health", 5) == ClientResponse(200, b"OK")
    assert await fetch(address, "/health?x=1", 5) == ClientResponse(200, b"OK")
    assert await fetch(address, "/endless", 5) is None, "longer than the time limit"
    head = await say(address, b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 2\r\n" in head


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (
            b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
            b"405",
            "method_not_allowed",
        ),
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"404", "not_found"),
        (b"hello\r\n\r\n", b"400", "bad_request"),
        (b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400", "bad_request"),
        (b"GET /?domain=b\xc3\xbccher.example HTTP/1.1\r\n\r\n", b"400", "bad_request"),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 40_000 + b"\r\n\r\n", b"431", "head_too_large"),
    ],
)
async def test_mistakes(address: str, request_head: bytes, status: bytes, code: str) -> None:
    head, _, body = (await say(address, request_head)).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    error = json.loads(body)
    assert error["code"] == code
    assert "bytearray" not in error["error"]
    assert (b"\xc3" in request_head) == ("percent-encode" in error["error"])
    assert "TLS" not in error["error"]
    assert await fetch(address, "/health", 5) == ClientResponse(200, b"OK")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b"GET /?a=\xc3\xbc HTTP/1.1", "percent-encode characters that are not ASCII"),
        (b"GET /'\xc3\" HTTP/1.1", "percent-encode characters that are not ASCII"),
        (b"GET /?a=\x01 HTTP/1.1", ""),
        (b"GET /?a=\\xc3 b HTTP/1.1", ""),
        (b"G\xc3T / HTTP/1.1", ""),
        (b"GET / HTTP/1.1\r\nHost: x\r\na\xc3: b", ""),
        (b"GET / HTTP/1.1\r\nHost: x\r\na: \x00", ""),
        (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03", "this is a TLS handshake; connect without TLS"),
        (b"\x16\x03\x01'", "this is a TLS handshake; connect without TLS"),
        (b"\x16\x03\x01" + bytes(range(1, 255)), "this is a TLS handshake; connect without TLS"),
    ],
)
async def test_a_malformed_request_has_a_hint_that_is_true(
    address: str, line: bytes, hint: str
) -> None:
    _, _, body = (await say(address, line + b"\r\n\r\n")).partition(b"\r\n\r\n")
    text, _, found = json.loads(body)["error"].partition("; ")
    assert text.startswith("Malformed request: illegal ")
    assert "bytearray" not in text
    assert found == hint


def test_the_hint_for_a_malformed_line_takes_time_linear_in_it() -> None:
    """A regex with `.*` after each space took seconds."""
    protocol = ServerProtocol(keep_bodies=False)
    protocol.receive(b"GET" + b" " * 16_000 + b"\r\n\r\n")
    with pytest.raises(RequestError, match=r"illegal request line$"):
        protocol.next_request()


CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 60_000 + b"\r\n", 431),
        (CHUNKED + b"0\r\n" + b"a:\r\n" * 60_000 + b"\r\n", 431),
        (CHUNKED + b"1\r\na\r\n" * 60_000 + b"0\r\n\r\n", 413),
        (CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (65_537, b"a" * 65_537), 413),
    ],
)
def test_large_parts_are_refused_also_if_they_come_at_once(data: bytes, status: int) -> None:
    """One read of the event loop can be 250 KiB; a small header or chunk costs microseconds."""
    protocol = ServerProtocol(keep_bodies=False)
    protocol.receive(data)
    with pytest.raises(RequestError) as caught:
        protocol.next_request()
    assert caught.value.status == status


@pytest.mark.parametrize("read", [1, 1000, 1 << 20])
def test_allowed_bodies_and_the_requests_after_them_are_read(read: int) -> None:
    data = CHUNKED + b"40\r\n%b\r\n" % (b"a" * 64) * MAX_CHUNKS + b"0\r\nX: a\r\n\r\n"
    data += b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n" + b"b" * MAX_BODY_BYTES
    data += b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3
    protocol, bodies = ServerProtocol(keep_bodies=True), []
    for start in range(0, len(data), read):
        protocol.receive(data[start : start + read])
        while (request := protocol.next_request()) is not None:
            bodies.append(request.body)
            protocol.encode(200, (), b"")
            assert protocol.next_cycle()
    assert bodies == [b"a" * MAX_BODY_BYTES, b"b" * MAX_BODY_BYTES, b"", b"", b""]
    protocol.receive(b"")
    assert protocol.next_request() is None
    assert protocol.peer_closed


async def test_a_tls_client_is_answered_before_a_line_ends(address: str) -> None:
    """A handshake without a line feed, as most have it."""
    answer = await say(address, b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03")
    assert b"this is a TLS handshake; connect without TLS" in answer


async def test_a_page_that_fails_stops_nothing(address: str) -> None:
    with capture_logs() as lines:
        reply = await fetch(address, "/broken", 5)
    assert reply is not None
    assert reply.status == 500
    assert json.loads(reply.body) == {"error": "Internal server error", "code": "internal_error"}
    assert [line["path"] for line in lines] == ["/broken"]
    assert await fetch(address, "/health", 5) == ClientResponse(200, b"OK")


@pytest.mark.parametrize("text", ["", "a", "[:1", "127.0.0.1:70000", "127.0.0.1:-1", "unix:\0"])
async def test_text_that_is_no_address_is_no_answer(text: str) -> None:
    """Addresses of other processes come from Redis."""
    assert await fetch(text, "/health", 5) is None


async def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    assert await fetch(f"unix:{tmp_path}/none.sock", "/health", 5) is None
    with listen("127.0.0.1:0") as silent:
        assert await fetch(address_of(silent), "/health", 0.1) is None


def test_ports_end() -> None:
    with pytest.raises(OSError, match="ports end at 65535"):
        listen("127.0.0.1:70000")


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("unix:/run/a.sock", True),
        ("127.0.0.1:9100", True),
        ("[::1]:9100", socket.has_ipv6),
        ("192.0.2.1:80", False),  # RFC 5737: nobody's
        ("169.254.169.254:80", False),
        ("[2001:db8::1]:80", False),
        ("metadata.example:80", False),
        ("", False),
    ],
)
def test_addresses_of_this_machine_are_told_from_others(address: str, here: bool) -> None:
    assert is_here(address) == here
