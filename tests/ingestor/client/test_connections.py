"""Connections to logs: one for each request in flight, reused while they are fresh, and bounded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import h11
import pytest

from ingestor.client import connections
from ingestor.client.addresses import HttpClients
from ingestor.client.errors import ConnectionFailed, LogError, ResponseTooLarge
from ingestor.client.http import Fetcher, http_client
from tests.ingestor.hostile import Answer, HostileServer, hostile_server
from tests.waiting import until

LIMIT = 1000


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with hostile_server() as hostile:
        hostile.answers["*"] = [Answer(b"a body")]
        yield hostile


@pytest.fixture
async def http() -> AsyncIterator[HttpClients]:
    async with http_client() as clients:
        yield clients


def fetcher(http: HttpClients) -> Fetcher:
    return Fetcher(http, "Test log", timeout=20)


async def get(http: HttpClients, server: HostileServer, count: int) -> None:
    """Send `count` requests at the same time."""
    requests = [fetcher(http).get_log(f"{server.url}/x", LIMIT) for _ in range(count)]
    assert set(await asyncio.gather(*requests)) == {b"a body"}


async def closed(server: HostileServer, remaining: int = 0) -> None:
    """Wait until only `remaining` connections are open."""

    async def are_closed() -> bool:
        return server.open == remaining

    await until(are_closed, f"{remaining} connections")


async def test_requests_at_the_same_time_have_a_connection_each(
    http: HttpClients, server: HostileServer
) -> None:
    await get(http, server, 5)
    assert server.accepted == 5
    for _ in range(10):
        await get(http, server, 1)
        await get(http, server, 4)
    assert (server.accepted, server.open) == (5, 5)


async def test_servers_share_no_connection(http: HttpClients, server: HostileServer) -> None:
    async with hostile_server() as other:
        other.answers["*"] = [Answer(b"a body")]
        for _ in range(3):
            await get(http, server, 2)
            await get(http, other, 2)
        assert (server.accepted, other.accepted) == (2, 2)


async def test_a_connection_that_is_idle_is_closed(
    http: HttpClients, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if no other request follows, and the ones that are used stay open."""
    monkeypatch.setattr(connections, "MAX_IDLE_SECS", 0.5)
    await get(http, server, 4)
    assert http.trusted.idle == 4

    async def surplus_is_closed() -> bool:
        await get(http, server, 1)
        return server.open == 1

    await until(surplus_is_closed, "one of four connections is used and stays open")
    assert server.accepted == 4
    await closed(server)
    assert http.trusted.idle == 0


async def test_the_number_of_idle_connections_is_bounded(
    http: HttpClients, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_IDLE", 3)
    await get(http, server, 10)
    assert http.trusted.idle == 3
    await closed(server, remaining=3)


async def test_a_request_that_fails_closes_its_connection(
    http: HttpClients, server: HostileServer
) -> None:
    server.answers["/large"] = [Answer(bytes(LIMIT + 1))]
    server.answers["/silent"] = [Answer(silent=True)]
    with pytest.raises(ResponseTooLarge):
        await fetcher(http).get_log(f"{server.url}/large", LIMIT)
    request = asyncio.create_task(fetcher(http).get_log(f"{server.url}/silent", LIMIT))

    async def received() -> bool:
        return server.count("/silent") == 1

    await until(received)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert http.trusted.idle == 0
    await closed(server, remaining=1)  # the one that is silent reads nothing, and sees no end


async def test_a_connection_that_the_server_has_closed_is_not_used(
    http: HttpClients, server: HostileServer
) -> None:
    await get(http, server, 2)
    server.hang_up()
    await closed(server)
    await get(http, server, 2)
    assert server.accepted == 4


async def test_the_end_closes_all(server: HostileServer) -> None:
    async with http_client() as http:
        await get(http, server, 3)
        assert server.open == 3
    await closed(server)


@pytest.mark.parametrize(
    ("response", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na body", True),
        (b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na body", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\na body\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: x, Close\r\n\r\na body", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 6\r\n\r\na body", False),
        # What follows the body is no response to the next request.
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\na bodyHTTP/1.1 200 OK\r\n", False),
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_a_connection_is_kept_after_a_whole_response(
    http: HttpClients, response: bytes, is_kept: bool, split: bool
) -> None:
    accepted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                at = response.index(b"a body") if split else 0
                writer.write(response[:at])
                await asyncio.sleep(0)
                writer.write(response[at:])
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/x"
        for _ in range(2):
            assert await fetcher(http).get_log(url, LIMIT) == b"a body"
        assert accepted == (1 if is_kept else 2)
        await http.trusted.aclose()


async def test_a_server_that_closes_each_connection_ends_each_request(http: HttpClients) -> None:
    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = Fetcher(http, "Test log", timeout=20)
        for _ in range(100):  # before the request is written, or after
            with pytest.raises(LogError):
                await client.get_log(f"http://127.0.0.1:{port}/x", LIMIT)


@asynccontextmanager
async def sending(*pieces: bytes) -> AsyncIterator[str]:
    """A server whose only response is `pieces`, the last one without end; yields its URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"".join(pieces[:-1]))
            while pieces[-1] and not writer.is_closing():
                writer.write(pieces[-1])
                await writer.drain()
            await reader.read()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/x"


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"40\r\n" + b"x" * 64 + b"\r\n"


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([b"HTTP/1.1 100 \r\n\r\n" * 10_000], "more than 16 informational responses"),
        ([CHUNKED, b"1\r\nx\r\n" * 10_000], "66 chunks for 66 bytes of a body"),
        ([CHUNKED, b"1;" + b"x" * 10_000 + b"\r\nx\r\n"], "66 chunks for 66 bytes of a body"),
        ([b"HTTP/1.1 200 OK\r\n", b"a:\r\n" * 20_000], "Receive buffer too long"),
        ([CHUNKED, b"0\r\n", b"a:\r\n" * 20_000], "Receive buffer too long"),
    ],
)
async def test_a_response_without_end_and_almost_without_body_is_refused(
    http: HttpClients, pieces: list[bytes], problem: str
) -> None:
    async with sending(*pieces) as url:
        with pytest.raises(ConnectionFailed, match=problem):
            await fetcher(http).get_log(url, LIMIT)


async def test_informational_responses_and_small_chunks_are_read(http: HttpClients) -> None:
    head = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 16 + CHUNKED
    end = b"0\r\nx: y\r\n\r\n"
    async with sending(head, b"1\r\nx\r\n" * 64 + CHUNK * 10 + end, b"") as url:
        assert await fetcher(http).get_log(url, LIMIT) == b"x" * (64 + 640)


async def test_the_event_loop_serves_others_during_a_response_of_many_chunks(
    http: HttpClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of which arrive at once."""
    events = longest = 0
    next_event = h11.Connection.next_event

    def counted(state: h11.Connection) -> object:
        nonlocal events
        events += 1
        return next_event(state)

    async def watch() -> None:
        nonlocal events, longest
        while True:
            longest, events = max(longest, events), 0
            await asyncio.sleep(0)

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    async with sending(CHUNKED + CHUNK * 10_000 + b"0\r\n\r\n", b"") as url:
        watching = asyncio.create_task(watch())
        assert len(await fetcher(http).get_log(url, 1 << 20)) == 640_000
        watching.cancel()
    assert 0 < longest <= 2 * connections._MAX_EVENTS


async def test_little_of_a_body_of_small_chunks_is_held(
    http: HttpClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    received = connections._Reader.data_received

    def measured(reader: connections._Reader, data: bytes) -> None:
        nonlocal most
        received(reader, data)
        most = max(most, sum(map(len, reader.pieces)))

    monkeypatch.setattr(connections._Reader, "data_received", measured)
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    async with sending(CHUNKED + chunk * 8192 + b"0\r\n\r\n", b"") as url:
        assert len(await fetcher(http).get_log(url, 1 << 23)) == 1 << 23
    assert most < 2 * connections._READ_BYTES
