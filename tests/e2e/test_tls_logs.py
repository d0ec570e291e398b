"""Logs behind TLS with a certificate of a private CA and a proxy, read by real ingestors."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from simlog.oracle.oracle import judge
from tests.e2e.processes import free_port
from tests.e2e.site import Site
from tests.gateway.certificates import pair
from tests.waiting import until

CERTIFICATES = 1_500


@asynccontextmanager
async def tls_in_front(port: int, target: str, directory: Path) -> AsyncIterator[set[str | None]]:
    """Serve TLS in front of an HTTP server; yields the application protocols that were chosen."""
    certificate, key = directory / "logs.pem", directory / "logs.key"
    pair("logs").write(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])  # what public logs offer
    chosen: set[str | None] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        chosen.add(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        inner = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
        with suppress(OSError):
            await asyncio.gather(copy(reader, inner[1]), copy(inner[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)
    try:
        yield chosen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def connect_proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """Run a proxy that serves CONNECT (RFC 9110 section 9.3.6); yields its URL and the targets."""
    targets: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        assert method == "CONNECT"
        targets.append(target)
        host, _, port = target.rpartition(":")
        inner = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            await asyncio.gather(copy(reader, inner[1]), copy(inner[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", targets
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.mark.slow
async def test_logs_over_tls_are_read_over_http_1_and_through_a_proxy(
    site: Site, tmp_path: Path
) -> None:
    port = free_port()
    await site.start_redis()
    await site.start_logs(
        rfc6962=1, static_ct=1, rate=200, total=CERTIFICATES, url=f"https://127.0.0.1:{port}"
    )
    async with (
        tls_in_front(port, site.logs_url, tmp_path) as protocols,
        connect_proxy() as (proxy, targets),
    ):
        await site.configure()
        site.start_ingestor()

        async def rejected() -> bool:
            return "certificate verify failed" in site.ingestors[0].log.read_text()

        await until(rejected, "the certificate of an unknown CA is rejected")
        assert not await site.everything_ingested()
        site.ingestors[0].kill()
        site.start_ingestor(
            environment={"SSL_CERT_FILE": str(tmp_path / "logs.pem"), "HTTPS_PROXY": proxy}
        )
        await until(site.everything_ingested, "everything is ingested", 90)
        assert protocols == {"http/1.1"}
        assert set(targets) == {f"127.0.0.1:{port}"}
    verdict = judge(await site.record(), await site.streams(), await site.tallies())
    assert verdict.flawless, f"\n{verdict}\n{site.report()}"
    assert {log.url.partition("/rfc1")[0] for log in await site.logs() if "/rfc1" in log.url} == {
        f"https://127.0.0.1:{port}"
    }
