"""The page for browsers, and everything below a path prefix."""

import base64
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from urllib.parse import urljoin

import httpx
import pytest

from gateway.config import Settings
from tests.certbus.servers import RedisServer
from tests.gateway.admission.gateways import GatewayProcess, ask, gateway, handshake
from tests.gateway.client_helpers import Raw, certificates, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.publishing import Press

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
async def below(start: Start) -> Running:
    return await (await start(Settings(stop_timeout=1.0, api=True, base_path="/a/ct"))).following()


@pytest.fixture
async def client(below: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=below.url, headers=BROWSER, trust_env=False) as client:
        yield client


async def test_browsers_get_a_page_and_others_text(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    text = await client.get("/", headers={"Accept": "*/*"})
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    for answer in (page, text):
        assert answer.headers["vary"] == "Accept"
        for path in ("/full-stream", "/sse", "/api/cert/{hash}", "/metrics"):
            assert path in answer.text


async def test_the_page_runs_what_its_policy_allows_and_loads_nothing(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    for element in ("style", "script"):
        (inline,) = re.findall(f"<{element}>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(sha256(inline.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert re.findall(r'(?:src|href)="(?:https?:|//|/)', page.text) == []
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_every_link_is_answered_below_any_prefix(client: httpx.AsyncClient) -> None:
    for path in ("/", "/a/ct/"):
        page = await client.get(path)
        links = [link for link in re.findall(r'href="([^"]*)"', page.text) if link != "data:,"]
        assert {"example.json", "api/stats", "health"} <= set(links)
        for link in links:
            assert (await client.head(urljoin(path, link))).status_code in (200, 503), link


async def test_it_shows_what_is_offered(start: Start) -> None:
    gateway = await start(Settings(websocket=False, metrics=False, streams=("lite",)))
    async with httpx.AsyncClient(base_url=gateway.url, headers=BROWSER, trust_env=False) as client:
        page = (await client.get("/")).text
    for absent in ("certstream.listen", "/full-stream<", "/metrics", "/api/"):
        assert absent not in page
    assert "EventSource" in page


async def test_everything_is_answered_below_the_base_path(
    below: Running, client: httpx.AsyncClient, press: Press
) -> None:
    for path in ("/a/ct/health", "/health", "/a/ct/api/stats"):
        assert (await client.get(path)).status_code == 200, path
    for path in ("/a", "/a/ctx/health", "/b/health", "/a/ct/a/ct/health"):
        assert (await client.get(path)).status_code == 404, path
    async with (
        websocket(below.ws + "/a/ct/") as lite,
        websocket(below.ws + "/a/ct") as slashless,
        websocket(below.ws + "/a/ct/domains-only") as domains,
        await Raw.open(below.port) as events,
    ):
        events.send(b"GET /a/ct/sse HTTP/1.1\r\nHost: t\r\n\r\n")
        assert (await events.head())[0] == 200
        await press.print(1)
        (message,) = await certificates(lite, 1)
        assert await certificates(slashless, 1) == [message]
        assert (await certificates(domains, 1))[0]["data"] == ["0.example"]
        assert await events.event_data() == message


async def test_the_base_path_itself_leads_below_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/a/ct")
    assert (answer.status_code, answer.headers["location"]) == (308, "/a/ct/")
    assert (await client.get("/a/ct", follow_redirects=True)).status_code == 200


async def test_a_base_path_opens_no_door(shared_redis: RedisServer, prefix: str) -> None:
    closed = {"auth": {"enabled": True, "tokens": ["t"]}, "protocols": {"api": True}}
    async with gateway(shared_redis.url, prefix, base_path="/ct/", **closed) as port:
        for path in ("/ct", "/ct/", "/ct/api/stats", "/ct/metrics", "/ct/ct/health", "/ct/sse"):
            assert (await ask(port, path))[0] == 401, path
        assert (await handshake(port, "/ct/full-stream"))[0] == 401
        assert (await ask(port, "/ct/health"))[0] == 200
    allow = {"api": ["203.0.113.0/24"]}
    async with gateway(shared_redis.url, prefix, base_path="/ct", allow=allow, **closed) as port:
        for path in ("/latest.json", "/api/stats", "/ct/latest.json", "/ct/api/logs"):
            assert (await ask(port, path, Authorization="t"))[0] == 403, path


async def test_it_listens_on_ipv6_and_ipv4(shared_redis: RedisServer, prefix: str) -> None:
    process = await GatewayProcess.start(shared_redis.url, prefix, host="::")
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            for host in ("127.0.0.1", "[::1]"):
                assert (await client.get(f"http://{host}:{process.port}/health")).text == "OK"
    finally:
        await process.kill()
