"""Bodies that arrive in many pieces, over TCP and TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from ingestor.client import connections
from ingestor.client.addresses import HttpClients
from ingestor.client.errors import ConnectionFailed
from ingestor.client.http import Fetcher, http_client
from tests.gateway.certificates import Pair, pair

BODY = b"".join(number.to_bytes(4) for number in range(500_000))
LIMIT = len(BODY)
LOGS = pair("logs")


@asynccontextmanager
async def serving(
    certificate: Pair | None, directory: Path, sent: int = LIMIT
) -> AsyncIterator[str]:
    """Answer each request with the first `sent` bytes of the body; then close, if these are few."""
    context = None
    if certificate is not None:
        certificate.write(directory / "logs.pem", directory / "logs.key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "logs.pem", directory / "logs.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LIMIT + BODY[:sent])
                await writer.drain()
                if sent < LIMIT:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{port}/x"
    finally:
        server.close()


def fetcher(http: HttpClients) -> Fetcher:
    return Fetcher(http, "Test log", timeout=120)


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_bytes(LOGS.certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("certificate", [None, LOGS], ids=["tcp", "tls"])
# With a small limit, reading is paused and resumed again and again.
@pytest.mark.parametrize("held", [1, connections._READ_BYTES])
async def test_a_large_body_arrives_whole(
    certificate: Pair | None, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_READ_BYTES", held)
    async with serving(certificate, tmp_path) as url, http_client() as http:
        for _ in range(2):
            assert await fetcher(http).get_log(url, LIMIT) == BODY
        assert http.trusted.idle == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("certificate", [None, LOGS], ids=["tcp", "tls"])
async def test_a_body_that_ends_early_is_an_error(certificate: Pair | None, tmp_path: Path) -> None:
    async with serving(certificate, tmp_path, LIMIT // 2) as url, http_client() as http:
        with pytest.raises(ConnectionFailed) as raised:
            await fetcher(http).get_log(url, LIMIT)
        assert isinstance(raised.value.__cause__, httpx.RemoteProtocolError | httpx.ReadError)
        assert http.trusted.idle == 0


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_that_is_not_trusted_is_an_error(tmp_path: Path) -> None:
    async with serving(pair("other"), tmp_path) as url, http_client() as http:
        with pytest.raises(ConnectionFailed, match="certificate") as raised:
            await fetcher(http).get_log(url, LIMIT)
        assert isinstance(raised.value.__cause__, httpx.ConnectError)


async def test_plain_http_in_place_of_tls_is_an_error(tmp_path: Path) -> None:
    async with serving(None, tmp_path) as url, http_client(connect_timeout=5) as http:
        with pytest.raises(ConnectionFailed) as raised:
            await fetcher(http).get_log(url.replace("http:", "https:"), LIMIT)
        assert isinstance(raised.value.__cause__, httpx.ConnectError | httpx.ConnectTimeout)


@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 11\r\n\r\n1\r\n\r\n2\r\n\r\n3",
        b"transfer-encoding: chunked\r\n\r\n5\r\n1\r\n\r\n\r\n6\r\n2\r\n\r\n3\r\n0\r\n\r\n",
        b"connection: close\r\n\r\n1\r\n\r\n2\r\n\r\n3",
    ],
    ids=["length", "chunks", "to the end"],
)
@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n"])
@pytest.mark.parametrize("in_pieces_of", [1, 1000])
async def test_a_head_ends_at_the_first_empty_line(
    rest: bytes, before: bytes, in_pieces_of: int
) -> None:
    answer = before + b"HTTP/1.1 200 OK\r\n" + rest

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                for at in range(0, len(answer), in_pieces_of):
                    writer.write(answer[at : at + in_pieces_of])
                    await writer.drain()
                    await asyncio.sleep(0)
                if b"close" in answer:
                    break
        writer.close()

    async with await asyncio.start_server(send, "127.0.0.1", 0) as server, http_client() as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        for _ in range(2):
            assert await fetcher(http).get_log(url, LIMIT) == b"1\r\n\r\n2\r\n\r\n3"
