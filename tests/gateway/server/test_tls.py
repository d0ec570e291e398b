"""TLS on a gateway's port."""

import asyncio
import errno
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from ssl import TLSVersion

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from certhttp.tls import UnusableCertificate, load_certificate
from gateway.config import Settings
from gateway.http.messages import Response
from gateway.server import connection
from gateway.server.connection import MAX_CLOSE_NOTIFY_BYTES
from gateway.server.listener import Limits
from gateway.server.tls import TLSContextReloader, server_options
from tests.gateway.admission.gateways import request
from tests.gateway.certificates import Pair, pair
from tests.gateway.client_helpers import (
    Raw,
    certificates,
    connect_blocking,
    serials,
    upgrade_request,
)
from tests.gateway.conftest import Running, Start
from tests.gateway.publishing import Press
from tests.gateway.server.test_listener import MANY, listener
from tests.waiting import until


class Files:
    """Where a gateway has its certificate."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.pair = pair("first")
        self.put(self.pair)

    def put(self, given: Pair) -> None:
        given.write(self.certificate, self.key)

    @property
    def settings(self) -> dict[str, str]:
        return {"tls_cert": str(self.certificate), "tls_key": str(self.key)}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def wss(gateway: Running, trusting: ssl.SSLContext) -> connect:
    url = gateway.url.replace("https", "wss")
    return connect(url, ssl=trusting, ping_interval=None, compression=None, max_size=None)


async def test_both_kinds_of_clients(start: Start, press: Press, files: Files) -> None:
    gateway = await (await start(**files.settings)).following()
    assert gateway.url.startswith("https://")
    trusting = files.pair.trusting()
    async with (
        wss(gateway, trusting) as client,
        await Raw.open(gateway.port, tls=trusting) as events,
    ):
        events.send(request("/sse"))
        assert (await events.head())[0] == 200
        for _ in range(4):
            await press.print(30, padding=20_000)
        assert serials(await certificates(client, 120)) == list(range(120))
        received = [await events.event_data() for _ in range(120)]
        assert serials(received) == list(range(120))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_and_other_protocols_are_refused(start: Start, files: Files) -> None:
    gateway = await start(**files.settings)
    context, _ = load_certificate(files.certificate, files.key)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    old = files.pair.trusting()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Raw.open(gateway.port, tls=old)
    oldest = files.pair.trusting()
    oldest.maximum_version = ssl.TLSVersion.TLSv1_2
    async with await Raw.open(gateway.port, tls=oldest) as client:
        client.send(request("/health"))
        assert (await client.answer())[0] == 200
    async with await Raw.open(gateway.port) as plain:
        plain.send(request("/health"))
        assert await plain.ends()
    offering = files.pair.trusting()
    offering.set_alpn_protocols(["h2", "http/1.1"])
    async with await Raw.open(gateway.port, tls=offering) as client:
        connection = client.writer.get_extra_info("ssl_object")
        assert connection.selected_alpn_protocol() == "http/1.1"


async def test_an_unfinished_handshake_is_cut_off(start: Start, files: Files) -> None:
    gateway = await start(Settings(request_timeout=0.3), **files.settings)
    async with await Raw.open(gateway.port) as silent, await Raw.open(gateway.port) as half:
        half.send(b"\x16\x03\x01\x02\x00\x01\x00")  # the beginning of a ClientHello
        assert await silent.closed()
        assert await half.closed()


async def test_the_last_response_may_be_read_as_slowly_as_any(files: Files) -> None:
    """The time for closing handshakes does not apply to it."""
    settings, body = Settings(close_timeout=0.1), bytes(12_000_000)  # more than kernels hold
    tls = server_options(TLSContextReloader(files.certificate, files.key), settings)
    async with (
        listener(Limits(MANY), tls=tls, given=settings, answer=Response(200, (), body)) as place,
        await Raw.open(place.port, tls=files.pair.trusting()) as client,
    ):
        client.send(b"GET /page HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        _, headers = await client.head()
        assert headers["connection"] == "close"
        await asyncio.sleep(0.3)
        async with asyncio.timeout(60):
            assert await client.reader.readexactly(int(headers["content-length"])) == body


@pytest.mark.parametrize("vanished", [False, True])
async def test_a_client_that_leaves_the_closing_handshake_unanswered_is_cut_off(
    files: Files, vanished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that has vanished, the kernel does not acknowledge the close_notify either."""
    if vanished:
        monkeypatch.setattr(connection, "unacknowledged_bytes", lambda _: MAX_CLOSE_NOTIFY_BYTES)
    settings = Settings(close_timeout=0.2, client_timeout=3600)
    tls = server_options(TLSContextReloader(files.certificate, files.key), settings)

    def fetch(port: int) -> socket.socket:
        client = connect_blocking(port, files.pair.trusting())
        client.sendall(b"GET /page HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert client.recv(4096).endswith(b"here")
        return client

    async with listener(Limits(MANY), tls=tls, given=settings) as place:
        with await asyncio.to_thread(fetch, place.port):
            await until(lambda: not place.service.pending_connections)


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [(TLSVersion.TLSv1_3, "ALL"), (TLSVersion.TLSv1_2, "AESGCM"), (TLSVersion.TLSv1_2, "SHA384")],
)
def test_the_longest_close_notify(files: Files, version: TLSVersion, ciphers: str) -> None:
    client_context = files.pair.trusting()
    client_context.maximum_version = version
    client_context.set_ciphers(ciphers)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = TLSContextReloader(files.certificate, files.key).context
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for side in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert server.version() == version.name.replace("_", ".")
    to_client.read()  # session tickets
    with suppress(ssl.SSLWantReadError):
        server.unwrap()
    assert 0 < to_client.pending <= MAX_CLOSE_NOTIFY_BYTES


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_a_slow_reader_slows_no_one_and_loses_nothing(
    start: Start, press: Press, files: Files, kind: str
) -> None:
    gateway = await (await start(Settings(ring_bytes=2_000_000), **files.settings)).following()
    trusting = files.pair.trusting()
    async with (
        await Raw.open(gateway.port, limit=1 << 20, tls=trusting) as slow,
        wss(gateway, trusting) as quick,
    ):
        if kind == "websocket":
            slow.send(upgrade_request())
        else:
            slow.send(request("/sse"))
        await slow.head()
        slow.read_nothing()
        for turn in range(20):
            await press.print(20, padding=30_000)
            got = serials(await certificates(quick, 20))
            assert got == list(range(20 * turn, 20 * turn + 20))
        slow.read_again()
        one = slow.text if kind == "websocket" else slow.event_data
        assert serials([await one() for _ in range(400)]) == list(range(400))


async def test_a_client_that_reads_nothing_is_closed(
    start: Start, press: Press, files: Files
) -> None:
    settings = Settings(client_timeout=2.5, close_timeout=0.5)
    gateway = await (await start(settings, **files.settings)).following()
    trusting = files.pair.trusting()
    async with await Raw.open(gateway.port, tls=trusting) as stuck, wss(gateway, trusting) as quick:
        stuck.send(upgrade_request())
        await stuck.head()
        stuck.read_nothing()
        for turn in range(30):
            await press.print(20, padding=30_000)
            assert len(await certificates(quick, 20)) == 20, turn
        await until(lambda: gateway.has_clients(1), "the stuck one is closed")
        stuck.read_again()
        assert await stuck.ends()


async def test_a_new_certificate_is_for_new_connections_and_a_broken_one_for_none(
    start: Start, press: Press, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.server.tls._CHECK_INTERVAL_SECS", 0.05)
    gateway = await (await start(**files.settings)).following()
    first, second = files.pair, pair("second")

    async def trusted(given: Pair) -> bool:
        try:
            async with await Raw.open(gateway.port, tls=given.trusting()) as client:
                client.send(request("/health"))
                return (await client.answer())[0] == 200
        except ssl.SSLError:
            return False

    async with wss(gateway, first.trusting()) as client:
        assert await trusted(first)
        with capture_logs() as logs:
            files.key.write_bytes(second.key)
            await until(lambda: any(line["log_level"] == "error" for line in logs))
        (refused,) = [line for line in logs if line["log_level"] == "error"]
        assert refused["event"] == "certificate rejected"
        assert refused["reason"] == (
            f"tls_key {files.key} is not the key of the first certificate in {files.certificate}"
        )
        assert await trusted(first)
        files.put(second)
        await until(lambda: trusted(second), "the second certificate")
        assert not await trusted(first)
        await press.print(5)
        assert serials(await certificates(client, 5)) == list(range(5))


async def test_a_certificate_that_could_not_be_read_is_read_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is renewed while no descriptor is free, or with the wrong mode."""
    monkeypatch.setattr("gateway.server.tls._CHECK_INTERVAL_SECS", 0.01)
    reads = 0

    def read(file: Path) -> bytes:
        nonlocal reads
        reads += 1
        if broken:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read_bytes(file)

    broken, read_bytes = False, Path.read_bytes
    reloader = TLSContextReloader(files.certificate, files.key)
    monkeypatch.setattr(Path, "read_bytes", read)
    task = asyncio.create_task(reloader.run())
    try:
        with capture_logs() as logs:
            broken = True
            files.put(pair("second"))
            await until(lambda: reads > 3, "it is tried again")
            broken = False
            await until(lambda: logs[-1]["event"] == "certificate loaded")
    finally:
        task.cancel()
    assert [line["event"] for line in logs] == ["certificate rejected", "certificate loaded"]
    assert logs[0]["reason"] == f"tls_cert {files.certificate} cannot be read: Too many open files"


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        (None, b"", "tls_cert {c} cannot be read: No such file or directory"),
        (b"hello", b"", "tls_cert {c} is not a PEM certificate"),
        (pair("x").certificate, None, "tls_key {k} cannot be read: No such file or directory"),
        (pair("x").certificate, b"hello", "tls_key {k} is not a PEM private key"),
        (
            pair("x").certificate,
            pair("y").key,
            "tls_key {k} is not the key of the first certificate in {c}",
        ),
    ],
)
def test_an_unusable_certificate_is_reported_with_file_and_reason(
    tmp_path: Path, certificate: bytes | None, key: bytes | None, why: str
) -> None:
    paths = tmp_path / "c.pem", tmp_path / "k.pem"
    for path, content in zip(paths, (certificate, key), strict=True):
        if content is not None:
            path.write_bytes(content)
    with pytest.raises(UnusableCertificate) as caught:
        TLSContextReloader(*paths)
    assert str(caught.value) == why.format(c=paths[0], k=paths[1])
