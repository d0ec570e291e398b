"""The live page at `/`: what a person sees and can do, and that text from certificates is text."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import msgspec
import pytest

from ctfilter import parse_filter
from ctparse.wire_messages import Message
from gateway.config import Settings
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import gateway
from tests.gateway.conftest import Start
from tests.gateway.endpoints.homepage.chromium import EXECUTABLE, Tab, chromium
from tests.gateway.publishing import Press
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="there is no Chromium"),
]

HOSTILE = "<img src=x onerror=alert(1)>.example"
ROWS = "document.querySelectorAll('#rows li').length"
STATE = "document.getElementById('state').textContent"
NAMES = "[...document.querySelectorAll('#rows .names')].map((each) => each.textContent)"


class Relay:
    """Relays connections to a gateway, and ends them on request.

    Attributes:
        port: where it listens.
        sent: bytes to the gateway.
        received: bytes from the gateway.
    """

    def __init__(self) -> None:
        self.port = 0
        self.sent, self.received = bytearray(), bytearray()
        self._clients: list[asyncio.StreamWriter] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> "AsyncIterator[Relay]":
        """Listen until the context ends.

        Args:
            port: of the gateway.
        """
        relay = cls()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream, requests = await asyncio.open_connection("127.0.0.1", port)
            relay._clients.append(writer)
            await asyncio.gather(
                copy(reader, requests, relay.sent), copy(upstream, writer, relay.received)
            )

        async def copy(
            source: asyncio.StreamReader, to: asyncio.StreamWriter, copied: bytearray
        ) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    to.write(data)
                    await to.drain()
                    copied += data
            to.close()

        server = await asyncio.start_server(serve, "127.0.0.1")
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            relay.cut()

    def cut(self) -> None:
        """End all connections, after what was received."""
        for writer in self._clients:
            writer.close()
        self._clients.clear()


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    async with chromium() as tab:
        yield tab
        assert tab.problems == []


def certificate(name: str) -> Message:
    digest = hashlib.sha256(name.encode()).digest()
    leaf = {"issuer": {"O": "Authority <b>", "CN": "E7"}, "all_domains": [name, "www." + name]}
    message = {"message_type": "certificate_update", "data": {"leaf_cert": leaf}}
    names = {"message_type": "dns_entries", "data": leaf["all_domains"]}
    encoded = msgspec.json.encode(message)
    return Message(digest, digest[:20], encoded, encoded, msgspec.json.encode(names), ())


async def publish(press: Press, *names: str) -> None:
    await press.publish([certificate(name) for name in names])


async def streaming(tab: Tab) -> None:
    await tab.until(f"{STATE}.endsWith('certificates a second')")


async def test_it_shows_the_newest_certificates_as_text(
    tab: Tab, start: Start, press: Press
) -> None:
    server = await (await start(Settings(api=True))).following()
    await tab.open(server.url)
    await streaming(tab)
    await publish(press, HOSTILE)
    await tab.until(f"{ROWS} === 1")
    assert await tab.evaluate(NAMES) == [f"{HOSTILE}, www.{HOSTILE}"]
    assert await tab.evaluate("document.querySelectorAll('#rows img, #rows b').length") == 0
    await publish(press, *(f"{number}.example" for number in range(60)))
    await tab.until(f"{ROWS} === 50 && {NAMES}[0].startsWith('59.')")

    # A row opens its message, by keyboard too, and stays where it is.
    await tab.evaluate("document.querySelector('#rows summary').focus()")
    await tab.enter()
    await tab.until("document.querySelector('#rows details[open] pre') !== null")
    opened = await tab.evaluate("document.querySelector('#rows pre').textContent")
    assert msgspec.json.decode(opened)["data"]["leaf_cert"]["all_domains"][0] == "59.example"
    await publish(press, "later.example")
    assert await tab.evaluate("document.getElementById('pause').textContent") == "Continue"
    await tab.evaluate("document.getElementById('pause').click()")
    await tab.until(f"{NAMES}[0].startsWith('later.')")

    # It requests nothing from other hosts.
    hosts = {urlsplit(url).netloc for url in tab.requests if url.startswith(("http", "ws"))}
    assert hosts == {urlsplit(server.url).netloc}


async def test_a_filter_is_typed_marked_and_kept_in_the_address(
    tab: Tab, start: Start, press: Press
) -> None:
    server = await (await start(Settings(api=True))).following()
    await tab.open(server.url)
    await streaming(tab)
    await tab.evaluate("document.getElementById('filter').focus()")
    await tab.type("contains:shop -domain:shop.example")
    await tab.until("location.hash === '#match=contains%3Ashop%20-domain%3Ashop.example'")
    snippets = "[...document.querySelectorAll('figure code')].map((each) => each.textContent)"
    for snippet in await tab.evaluate(snippets):
        assert "match=contains%3Ashop%20-domain%3Ashop.example" in snippet
    await tab.until(f"{STATE}.endsWith('certificates a second')")
    await publish(press, "shop.example", "other.example", "shop-login.example")
    await tab.until(f"{ROWS} > 0")
    marked = await tab.evaluate(
        "[...document.querySelectorAll('#rows mark')].map((each) => each.textContent)"
    )
    assert marked == ["shop-login.example", "www.shop-login.example"]
    assert await tab.evaluate(ROWS) == 1

    # A mistake is shown in place, and the list continues once it is corrected.
    await tab.type(" contans:x")
    await tab.until("document.querySelector('#problem mark')?.textContent.startsWith('contans')")
    assert "contains" in await tab.evaluate("document.getElementById('problem').textContent")
    assert await tab.evaluate("document.getElementById('filter').ariaInvalid") == "true"

    # The address alone brings the filter back.
    await tab.open("about:blank")
    await tab.open(f"{server.url}/#match=domain%3Aonly.example&match=idn%3Ayes")
    filtered = "document.getElementById('filter').value"
    assert await tab.evaluate(filtered) == "domain:only.example\nidn:yes"
    await streaming(tab)
    await publish(press, "a.example", "only.example")
    await tab.until(f"{ROWS} === 1 && {NAMES}[0].startsWith('only.')")


async def test_a_named_filter_is_typed_and_kept_in_the_address(
    tab: Tab, start: Start, press: Press
) -> None:
    shop = parse_filter(match=["contains:shop"])
    assert shop is not None
    server = await (await start(Settings(filters={"shop": shop}))).following()
    await tab.open(server.url)
    await streaming(tab)
    assert "shop" not in await tab.evaluate("document.documentElement.outerHTML")
    await tab.evaluate("document.getElementById('named').focus()")
    await tab.type("shops")
    await tab.until("document.getElementById('problem').textContent.includes('shops')")
    await tab.until("document.getElementById('named').ariaInvalid === 'true'")
    assert await tab.evaluate("document.getElementById('filter').ariaInvalid") == "false"
    await tab.open("about:blank")
    await tab.open(f"{server.url}/#filter=shop&match=contains%3Alogin")
    assert await tab.evaluate("document.getElementById('named').value") == "shop"
    await streaming(tab)
    await publish(press, "shop.example", "login.example", "shop-login.example")
    await tab.until(f"{ROWS} === 1 && {NAMES}[0].startsWith('shop-login.')")


async def test_event_source_reconnects_after_its_last_comment(
    tab: Tab, start: Start, press: Press
) -> None:
    """No event fires for a comment with an id, and Last-Event-ID moves."""
    server = await (await start(Settings(comment=0.2, stop_timeout=1.0))).following()
    async with Relay.open(server.port) as relay:
        await tab.open(f"http://127.0.0.1:{relay.port}/health")  # reads no stream itself
        await tab.evaluate(
            "window.fired = []; window.source = new EventSource('sse?match=domain:7.example');"
            "source.onmessage = (event) => fired.push(event.lastEventId)"
        )
        await tab.until("source.readyState === 1")
        entry = await press.print(7)
        await until(lambda: f"\nid: {entry}\n\n".encode() in relay.received)
        relay.cut()
        expected = f"last-event-id: {entry}\r\n".encode()
        await until(lambda: expected in relay.sent.lower(), seconds=60)
        assert await tab.evaluate("fired") == []
        entry = await press.print(2)
        await tab.until("fired.length === 1")
        assert await tab.evaluate("fired") == [f"{entry}-0"]


async def test_event_source_gets_each_compressed_message_when_it_arrives(
    tab: Tab, start: Start, press: Press
) -> None:
    server = await (await start()).following()
    await tab.open(f"{server.url}/health")
    coding = "fetch('sse').then((answer) => answer.headers.get('content-encoding'))"
    assert await tab.evaluate(coding) == "gzip"
    await tab.evaluate(
        "window.fired = []; window.source = new EventSource('sse');"
        "source.onmessage = (event) => fired.push(event.lastEventId)"
    )
    await tab.until("source.readyState === 1")
    for count in (1, 2, 3):
        entry = await press.print(1)
        await tab.until(f"fired.length === {count}")
        assert await tab.evaluate("fired[fired.length - 1]") == f"{entry}-0"


async def test_a_token_is_requested_and_stays_in_memory(
    tab: Tab, shared_redis: RedisServer, prefix: str, press: Press
) -> None:
    tokens = {"enabled": True, "tokens": ["open sesame"]}
    async with gateway(shared_redis.url, prefix, auth=tokens) as port:
        await tab.open(f"http://127.0.0.1:{port}/")
        await tab.until("!document.getElementById('access').hidden")
        await tab.evaluate("document.getElementById('token').focus()")
        await tab.type("open sesame")
        await tab.enter()
        await streaming(tab)
        await publish(press, "secret.example")
        await tab.until(f"{ROWS} === 1")
        assert not [url for url in tab.requests if "sesame" in url]
        kept = (
            "JSON.stringify([location.href, {...localStorage}, {...sessionStorage},"
            " document.cookie])"
        )
        assert "sesame" not in await tab.evaluate(kept)


async def test_it_reads_nothing_while_the_tab_is_hidden(
    tab: Tab, start: Start, press: Press
) -> None:
    server = await (await start(Settings(api=True))).following()
    await tab.open(server.url)
    await streaming(tab)

    async def clients(count: int) -> None:
        await until(lambda: server.has_clients(count), f"{count} clients")

    await clients(1)
    hidden = (
        "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    await tab.evaluate(hidden % "true")
    await clients(0)
    await tab.evaluate(hidden % "false")
    await clients(1)
    await publish(press, "again.example")
    await tab.until(f"{ROWS} === 1")


async def test_it_fits_a_phone(tab: Tab, start: Start, press: Press) -> None:
    server = await (await start(Settings(api=True))).following()
    await tab.command(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=740,
        deviceScaleFactor=2,
        mobile=True,
    )
    await tab.open(server.url)
    await streaming(tab)
    await publish(press, "a-very-long-label-that-does-not-fit-" + "x" * 27 + ".example")
    await tab.until(f"{ROWS} === 1")
    assert await tab.evaluate("document.documentElement.scrollWidth") == 360
