"""Connections of the HTTP/1.1 server: order, time-outs, flow control, aborted bodies."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from certhttp.protocol import Request
from certhttp.server import AbortResponse, Handler, Response, Timeouts, serve, text_response
from tests.waiting import until

GET = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def echo(request: Request) -> Response:
    return text_response(f"{request.connection} {request.path}")


async def never(_: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def connected(
    handler: Handler, timeouts: Timeouts | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    async with serve(listening, handler, timeouts):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        async with asyncio.timeout(30):
            yield reader, writer
        writer.close()


def error_of(response: bytes) -> tuple[bytes, str]:
    head, _, body = response.partition(b"\r\n\r\n")
    return head.split(b" ")[1], json.loads(body)["code"]


async def test_requests_of_one_connection_are_answered_in_order() -> None:
    async with connected(echo) as (reader, writer):
        writer.write(b"".join(GET % b"%d" % n for n in range(20)) + LAST % b"end")
        answer = await reader.read()
    bodies = [part.partition(b"HTTP/1.1")[0] for part in answer.split(b"\r\n\r\n")[1:]]
    assert bodies == [*(b"1 /%d" % n for n in range(20)), b"1 /end"]


@pytest.mark.parametrize("sent", [b"G", GET[:-4] % b"", GET[:-2] % b""])
async def test_an_incomplete_request_times_out(sent: bytes) -> None:
    async with connected(echo, Timeouts(request=0.2)) as (reader, writer):
        writer.write(sent)
        assert error_of(await reader.read()) == (b"408", "request_timeout")


async def test_an_idle_connection_is_closed() -> None:
    async with connected(echo, Timeouts(idle=0.2)) as (reader, writer):
        writer.write(GET % b"")
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n1 /")


async def test_a_handler_that_does_not_return_times_out() -> None:
    async with connected(never, Timeouts(response=0.2)) as (reader, writer):
        writer.write(LAST % b"")
        assert error_of(await reader.read()) == (b"503", "response_timeout")


async def test_pieces_are_made_as_the_client_reads_and_a_stalled_client_is_closed() -> None:
    made = 0
    total = 10_000
    ended = asyncio.Event()

    def pieces() -> Iterator[bytes]:
        nonlocal made
        try:
            for made in range(1, total + 1):  # noqa: B007
                yield b"x" * 65_536
        finally:
            ended.set()

    async def endless(_: Request) -> Response:
        return Response(200, "text/plain", pieces())

    async with connected(endless, Timeouts(write=0.5)) as (reader, writer):
        writer.write(GET % b"")
        await until(lambda: made > 0, "the body has begun")
        await ended.wait()
        assert made < total / 10, "the server made pieces that the client did not read"
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(total * 65_536)


async def test_an_aborted_body_resets_the_connection() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"beginning"
        raise AbortResponse

    async def broken(_: Request) -> Response:
        return Response(200, "text/plain", pieces())

    async with connected(broken) as (reader, writer):
        writer.write(GET % b"")
        with pytest.raises(ConnectionResetError):
            await reader.read()
