"""Requests of which another HTTP parser may see another end (RFC 9112 section 11.2).

Behind a proxy that reads such a request otherwise, a client could hide a second request in the
first one. Each form is therefore refused, with its connection closed, or read in the only way that
RFC 9112 permits. Every form is followed by, or contains, a request for `/page?hidden`.
"""

import struct
from collections.abc import AsyncIterator

import pytest

from certhttp.protocol import Request, RequestError, ServerProtocol
from gateway.http.messages import Outcome, Response
from tests.gateway.client_helpers import Raw, upgrade_request
from tests.gateway.server.test_connection import serving

HIDDEN = b"GET /page?hidden HTTP/1.1\r\nHost: t\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d" % len(HIDDEN)
LAST_CHUNK = b"0\r\n\r\n"
IN_A_CHUNK = b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + LAST_CHUNK


def first(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    """Return a request for `/page?first` with these header lines besides Host."""
    head = [b"GET /page?first HTTP/%b" % version, b"Host: t", *lines, b"", b""]
    return b"\r\n".join(head) + body


def chunks(body: bytes) -> bytes:
    """Return a request with this chunked body."""
    return first(CHUNKED, body=body)


def of_length(value: bytes) -> bytes:
    """Return a request whose Content-Length has this value."""
    return first(b"Content-Length: " + value)


def encoded(value: bytes) -> bytes:
    """Return a request whose Transfer-Encoding has this value."""
    return first(b"Transfer-Encoding:" + value, body=LAST_CHUNK)


REFUSED = {
    # Transfer-Encoding (RFC 9112 section 6.1): 501 for a coding that the server does not know.
    "unknown coding": (501, encoded(b" xchunked")),
    "chunked in quotes": (501, encoded(b' "chunked"')),
    "identity": (501, encoded(b" identity")),
    "chunked is not the last coding": (501, encoded(b" chunked, identity")),
    "another coding before chunked": (501, encoded(b" identity, chunked")),
    "chunked twice in a line": (501, encoded(b" chunked, chunked")),
    "chunked with a parameter": (501, encoded(b" chunked;a=b")),
    "Transfer-Encoding twice": (501, first(CHUNKED, CHUNKED, body=LAST_CHUNK)),
    "chunked and identity": (501, first(CHUNKED, b"Transfer-Encoding: identity", body=LAST_CHUNK)),
    "empty Transfer-Encoding": (501, encoded(b"")),
    "coding continued in a folded line": (501, encoded(b" chunked\r\n , identity")),
    "vertical tab before the coding": (400, encoded(b"\x0bchunked")),
    "form feed after the coding": (400, encoded(b" chunked\x0c")),
    "NUL after the coding": (400, encoded(b" chunked\x00")),
    "carriage return before the coding": (400, encoded(b" \rchunked")),
    "control character before the coding": (501, encoded(b" \x01chunked")),
    "no-break space before the coding": (501, encoded(b" \xa0chunked")),
    "Transfer-Encoding in HTTP/1.0": (
        400, first(b"Connection: keep-alive", CHUNKED, body=LAST_CHUNK, version=b"1.0"),
    ),
    # Content-Length (section 6.2, and RFC 9110 section 8.6)
    "length with plus": (400, of_length(b"+5")),
    "length with minus": (400, of_length(b"-5")),
    "length in hexadecimal": (400, of_length(b"0x5")),
    "length with an underscore": (400, of_length(b"1_0")),
    "length with an inner space": (400, of_length(b"1 0")),
    "length with a fraction": (400, of_length(b"5.0")),
    "length with an exponent": (400, of_length(b"1e1")),
    "length with a digit that is not ASCII": (400, of_length(b"5\xb2")),
    "length with NUL": (400, of_length(b"5\x00")),
    "length with a vertical tab": (400, of_length(b"\x0b5")),
    "empty length": (400, of_length(b"")),
    "length with an empty element": (400, of_length(b"5,")),
    "length of 21 digits": (400, of_length(b"1" * 21)),
    "two lengths in a line": (400, of_length(b"5, 6")),
    "two lengths": (400, first(b"Content-Length: 0", LENGTH)),
    "equal numbers written differently": (400, first(b"Content-Length: 5", b"Content-Length: 05")),
    "length, then chunked": (400, first(b"Content-Length: 5", CHUNKED, body=LAST_CHUNK)),
    "chunked, then length": (400, first(CHUNKED, b"Content-Length: 5", body=LAST_CHUNK)),
    "length 0 and chunked": (400, first(b"Content-Length: 0", CHUNKED, body=LAST_CHUNK)),
    # Header lines (section 5)
    "space before the colon": (400, first(b"Transfer-Encoding : chunked", body=LAST_CHUNK)),
    "tab before the colon": (400, first(b"Content-Length\t: 5")),
    "NUL in a name": (400, first(b"Content-Length\x00: 5")),
    "empty name": (400, first(b": 5")),
    "line without a colon": (400, first(b"Content-Length")),
    "carriage return in a value": (400, first(b"X: a\rContent-Length: 5")),
    "carriage return as the end of a line": (400, first(b"X: a\r" + CHUNKED)),
    "two carriage returns": (400, first(b"X: a\r", b"Y: b")),
    "NUL in a value": (400, first(b"X: a\x00b")),
    "control character in a value": (400, first(b"X: a\x1fb")),
    "space before the first header line": (400, b"GET /page?first HTTP/1.1\r\n Host: t\r\n\r\n"),
    # Request line and Host (sections 2.2, 3 and 3.2)
    # RFC 9112 section 2.2 lets a server ignore empty lines before a request; this one does not.
    "empty line before the request": (400, b"\r\n" + first()),
    "no Host": (400, b"GET /page?first HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, first(b"Host: u")),
    "Host twice": (400, first(b"Host: t")),
    "Host with a space": (400, first().replace(b"Host: t", b"Host: t u")),
    "Host with a path": (400, first().replace(b"Host: t", b"Host: t/u")),
    "Host with a user": (400, first().replace(b"Host: t", b"Host: u@t")),
    "Host with two names": (400, first().replace(b"Host: t", b"Host: t, u")),
    "Host with a port that is none": (400, first().replace(b"Host: t", b"Host: t:x")),
    "Host continued in a folded line": (400, first(b" " + CHUNKED, body=LAST_CHUNK)),
    "two spaces in the request line": (400, b"GET  /page?first HTTP/1.1\r\nHost: t\r\n\r\n"),
    "tab in the request line": (400, b"GET\t/page?first HTTP/1.1\r\nHost: t\r\n\r\n"),
    "space in the target": (400, b"GET /page? first HTTP/1.1\r\nHost: t\r\n\r\n"),
    "carriage return in the target": (400, b"GET /page?\rfirst HTTP/1.1\r\nHost: t\r\n\r\n"),
    "carriage return after the version": (400, b"GET /page?first HTTP/1.1\r\r\nHost: t\r\n\r\n"),
    "request without a version": (400, b"GET /page?first\r\nHost: t\r\n\r\n"),
    "version in lower case": (400, b"GET /page?first http/1.1\r\nHost: t\r\n\r\n"),
    "version with two digits": (400, b"GET /page?first HTTP/1.10\r\nHost: t\r\n\r\n"),
    "colon in the method": (400, b"Host: /page?first HTTP/1.1\r\nHost: t\r\n\r\n"),
    # Chunks (section 7.1)
    "chunk size with 0x": (400, chunks(b"0x1\r\na\r\n" + LAST_CHUNK)),
    "chunk size with plus": (400, chunks(b"+1\r\na\r\n" + LAST_CHUNK)),
    "chunk size with minus": (400, chunks(b"-1\r\na\r\n" + LAST_CHUNK)),
    "chunk size with an underscore": (400, chunks(b"1_0\r\n" + b"a" * 16 + b"\r\n" + LAST_CHUNK)),
    "chunk size after a space": (400, chunks(b" 1\r\na\r\n" + LAST_CHUNK)),
    "chunk size that is no number": (400, chunks(b"g\r\na\r\n" + LAST_CHUNK)),
    "no chunk size": (400, chunks(b"\r\n" + LAST_CHUNK)),
    "no end of the line after a chunk size": (400, chunks(b"1")),
    "chunk size of 21 digits": (400, chunks(b"0" * 20 + b"1\r\na\r\n" + LAST_CHUNK)),
    "chunk size that ends with LF": (400, chunks(b"1\na\r\n" + LAST_CHUNK)),
    "chunk size that ends with CR": (400, chunks(b"1\ra\r\n" + LAST_CHUNK)),
    "LF in a chunk extension": (400, chunks(b"1;a\nb\r\n" + LAST_CHUNK)),
    "chunk that ends with LF": (400, chunks(b"1\r\na\n" + LAST_CHUNK)),
    "chunk longer than its size": (400, chunks(b"1\r\nab\r\n" + LAST_CHUNK)),
    "chunk without its end": (400, chunks(b"1\r\na" + LAST_CHUNK)),
    "request in place of a trailer": (400, chunks(b"0\r\n")),
    "trailer without a colon": (400, chunks(b"0\r\nX\r\n\r\n")),
    "trailer with a space before its colon": (400, chunks(b"0\r\nX : a\r\n\r\n")),
    "folded line as the first trailer": (400, chunks(b"0\r\n X: a\r\n\r\n")),
    # RFC 9110 section 10.1.1
    "body that waits for 100 Continue": (417, first(b"Expect: 100-continue", LENGTH)),
}  # fmt: skip
"""Name -> status of the response, and the request."""

INCOMPLETE = {
    "length of 2^64": of_length(b"%d" % 2**64),
    "length of 2^64 and the request": of_length(b"%d" % (2**64 + len(HIDDEN))),
    "chunk size of 2^64": chunks(b"1" + b"0" * 16 + b"\r\n"),
    "chunk size of 2^64 and the request": chunks(b"%x\r\n" % (2**64 + len(HIDDEN))),
    "length in a folded line": first(b"Content-Length:", b" 99"),
}
"""Requests whose end has not come with the hidden one. A number must not wrap around."""

READ = {
    "equal lengths": first(LENGTH, LENGTH, body=HIDDEN),
    "equal lengths in a line": of_length(b"%d, %d" % (len(HIDDEN), len(HIDDEN))) + HIDDEN,
    "length with zeros": of_length(b"%08d" % len(HIDDEN)) + HIDDEN,
    "length in a folded line": first(b"Content-Length:", b"\t %d" % len(HIDDEN), body=HIDDEN),
    "folded value": first(b"X: a", b" " + CHUNKED, LENGTH, body=HIDDEN),
    "underscore in a name": first(b"Content_Length: 5", LENGTH, body=HIDDEN),
    "chunked": chunks(IN_A_CHUNK),
    "chunked in upper case": first(b"TRANSFER-ENCODING:CHUNKED\t", body=IN_A_CHUNK),
    "chunked in a folded line": first(b"Transfer-Encoding:", b" chunked", body=IN_A_CHUNK),
    "chunk size with zeros": chunks(b"000" + IN_A_CHUNK),
    "chunk extension": chunks(IN_A_CHUNK.replace(b"\r\n", b';a="b"\r\n', 1)),
    "space after the chunk size": chunks(IN_A_CHUNK.replace(b"\r\n", b" \r\n", 1)),
    "trailers": chunks(IN_A_CHUNK[:-2] + b"X: a\r\n" + LENGTH + b"\r\n" + CHUNKED + b"\r\n\r\n"),
    "bare LF": first(LENGTH).replace(b"\r\n", b"\n") + HIDDEN,
    "bare LF in some lines": first(b"X: a\nY: b", LENGTH, body=HIDDEN),
    "absolute target with another Host": first(LENGTH).replace(b"/page", b"http://u/page") + HIDDEN,
    "Host of IPv6 with a port": first(LENGTH).replace(b": t", b": [2001:db8::1]:80") + HIDDEN,
    "empty Host": first(LENGTH).replace(b": t", b":") + HIDDEN,
}  # fmt: skip
"""Requests whose body, which is the hidden request, has one end."""


def in_bytes(data: bytes) -> tuple[list[str], int | None]:
    """Give the protocol one byte at a time.

    Returns:
        The queries of the requests that it reads, and the status of the error that ends them.
    """
    protocol = ServerProtocol(keep_bodies=False)
    queries: list[str] = []
    for position in range(len(data)):
        protocol.receive(data[position : position + 1])
        try:
            request = protocol.next_request()
        except RequestError as error:
            return queries, error.status
        if request is not None:
            queries += request.query
            protocol.encode(200, (), b"")
            assert protocol.next_cycle()
    return queries, None


@pytest.fixture
async def served() -> AsyncIterator[tuple[int, list[str]]]:
    """A port of the gateway's own connections, and the queries of the requests that it handles."""
    queries: list[str] = []

    def handle(request: Request) -> Outcome:
        queries.extend(request.query)
        return Response(200, (), b"")

    async with serving(handle) as server:
        yield server.port, queries


Served = tuple[int, list[str]]


@pytest.mark.parametrize("name", REFUSED)
async def test_a_request_with_a_disputed_end_is_refused_and_ends_its_connection(
    served: Served, name: str
) -> None:
    port, queries = served
    status, request = REFUSED[name]
    async with await Raw.open(port) as client:
        client.send(request + HIDDEN)
        got, headers, _ = await client.answer()
        assert (got, headers["connection"]) == (status, "close")
        assert await client.closed(), "nothing after it is answered"
    assert queries == []
    assert in_bytes(request + HIDDEN) == ([], status)


@pytest.mark.parametrize("name", INCOMPLETE)
async def test_a_request_without_its_end_is_not_answered(served: Served, name: str) -> None:
    port, queries = served
    async with await Raw.open(port) as client:
        client.send(INCOMPLETE[name] + HIDDEN)
        client.writer.write_eof()
        assert await client.closed()
    assert queries == []
    assert in_bytes(INCOMPLETE[name] + HIDDEN) == ([], None)


@pytest.mark.parametrize("name", READ)
async def test_a_body_is_no_request(served: Served, name: str) -> None:
    port, queries = served
    following = HIDDEN.replace(b"hidden", b"next")
    async with await Raw.open(port) as client:
        client.send(READ[name] + following)
        assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
    assert queries == ["first", "next"]
    assert in_bytes(READ[name] + following) == (["first", "next"], None)


@pytest.mark.parametrize("status", [101, 400])
async def test_a_request_after_an_upgrade_is_no_request(served: Served, status: int) -> None:
    """The bytes after an accepted handshake are frames; `G` has the reserved bit RSV1."""
    port, queries = served
    handshake = upgrade_request("/domains-only")
    if status == 400:  # the connection remains one of HTTP
        handshake = handshake.replace(b"Version: 13", b"Version: 12")
    async with await Raw.open(port) as client:
        client.send(handshake + HIDDEN)
        got, _, _ = await client.answer()
        assert got == status
        if status == 101:
            opcode, payload = await client.frame()
            assert (opcode, payload[:2]) == (8, struct.pack("!H", 1002))
            assert await client.closed()
        else:
            assert (await client.answer())[0] == 200
    assert queries == (["hidden"] if status == 400 else [])
