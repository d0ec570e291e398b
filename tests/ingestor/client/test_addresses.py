"""Which addresses a log may make an ingestor connect to."""

from collections.abc import AsyncIterator

import pytest

from ctparse.entry import Malformed
from ctparse.static_ct import parse_checkpoint
from ingestor.client import addresses
from ingestor.client.addresses import HttpClients, is_inside
from ingestor.client.errors import InvalidResponse
from ingestor.client.http import Fetcher, http_client
from tests.ingestor.hostile import Answer, HostileServer, hostile_server, redirect

LIMIT = 1000
SECRET = b"a secret of the inner network\n"
PUBLIC, INNER = "127.0.0.1", "127.0.0.2"


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("255.255.255.255", True),
        ("::1", True),
        ("::", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("64:ff9b::10.0.0.1", True),
        ("2002:0a00:0001::", True),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::8.8.8.8", False),
    ],
)
def test_addresses(address: str, inside: bool) -> None:
    assert is_inside(address) == inside


@pytest.fixture
async def inner() -> AsyncIterator[HostileServer]:
    async with hostile_server(INNER) as server:
        server.answers["*"] = [Answer(SECRET)]
        yield server


@pytest.fixture
async def log() -> AsyncIterator[HostileServer]:
    async with hostile_server(PUBLIC) as server:
        server.answers["*"] = [Answer(b"an answer")]
        yield server


@pytest.fixture
async def http(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpClients]:
    """Clients for which one address of this machine is a public one."""
    monkeypatch.setattr(addresses, "is_inside", lambda address: address != PUBLIC)
    async with http_client() as clients:
        yield clients


def fetcher(http: HttpClients, listed_at: str | None = None) -> Fetcher:
    return Fetcher(http, "Test log", timeout=5, listed_at=listed_at)


async def assert_refused(fetcher: Fetcher, url: str, inner: HostileServer) -> None:
    for _ in range(2):
        with pytest.raises(InvalidResponse, match="loopback, link-local or private") as caught:
            await fetcher.get_log(url, LIMIT)
        assert "secret" not in caught.value.summary
    assert inner.requests == []


async def test_a_public_log_cannot_redirect_inside(
    http: HttpClients, log: HostileServer, inner: HostileServer
) -> None:
    port = inner.url.rpartition(":")[2]
    for to in (f"{inner.url}/x", f"http://localhost.{INNER}.invalid@{INNER}:{port}/x"):
        log.answers["/checkpoint"] = [redirect("/hop"), redirect("/hop")]
        log.answers["/hop"] = [redirect(to)]
        await assert_refused(fetcher(http), f"{log.url}/checkpoint", inner)
        await assert_refused(fetcher(http, f"{log.url}/"), f"{log.url}/checkpoint", inner)


async def test_an_inner_log_redirects_where_it_wants(
    http: HttpClients, log: HostileServer, inner: HostileServer
) -> None:
    inner.answers["/away"] = [redirect(f"{log.url}/back")]
    inner.answers["/here"] = [redirect(f"{inner.url}/there")]
    assert await fetcher(http).get_log(f"{inner.url}/here", LIMIT) == SECRET
    assert await fetcher(http).get_log(f"{inner.url}/away", LIMIT) == b"an answer"
    # Back from a public server, the way inside is closed.
    log.answers["/back"] = [redirect(f"{inner.url}/there")]
    with pytest.raises(InvalidResponse, match="loopback, link-local or private"):
        await fetcher(http).get_log(f"{inner.url}/away", LIMIT)


@pytest.mark.parametrize("listed_at", ["https://127.0.0.1", "https://127.0.0.1:1"])
async def test_a_public_list_cannot_name_an_inner_log(
    http: HttpClients, inner: HostileServer, listed_at: str
) -> None:
    await assert_refused(fetcher(http, listed_at), f"{inner.url}/checkpoint", inner)


@pytest.mark.parametrize("listed_at", ["https://127.0.0.2", "http://[::1]:9000", "file", None])
async def test_an_inner_list_a_file_and_the_configuration_can(
    http: HttpClients, inner: HostileServer, listed_at: str | None
) -> None:
    both = fetcher(http, listed_at)
    for _ in range(2):
        assert await both.get_log(f"{inner.url}/checkpoint", LIMIT) == SECRET


async def test_what_counts_is_the_address_that_is_connected_to(
    http: HttpClients, inner: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to a public address when it is checked, and to another one then."""

    async def resolves_outside(_host: str) -> bool:
        return False

    monkeypatch.setattr(addresses, "leads_inside", resolves_outside)
    monkeypatch.setattr(addresses, "_is_address", lambda _host: False)
    await assert_refused(fetcher(http, "https://127.0.0.1"), f"{inner.url}/checkpoint", inner)


async def test_a_connection_of_a_trusted_log_serves_no_other(
    http: HttpClients, log: HostileServer, inner: HostileServer
) -> None:
    assert await fetcher(http).get_log(f"{inner.url}/checkpoint", LIMIT) == SECRET
    inner.requests.clear()
    log.answers["/checkpoint"] = [redirect(f"{inner.url}/checkpoint")]
    await assert_refused(fetcher(http), f"{log.url}/checkpoint", inner)


async def test_through_a_proxy_the_literal_host_counts(
    log: HostileServer, inner: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "is_inside", lambda address: address != PUBLIC)
    monkeypatch.setenv("http_proxy", inner.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    inner.answers["http://log.example/checkpoint"] = [Answer(b"by the proxy")]
    async with http_client() as http:
        listed = fetcher(http, "https://127.0.0.1")
        assert await listed.get_log("http://log.example/checkpoint", LIMIT) == b"by the proxy"
        inner.requests.clear()
        await assert_refused(listed, "http://10.0.0.1/checkpoint", inner)


@pytest.mark.parametrize(
    "body",
    [
        SECRET,
        b"\xff" + SECRET,
        b"log.example/\n7\n" + SECRET + b"\n\xe2\x80\x94 x y\n",
        b"log.example/\n7\nAAAA\n" + SECRET + b"\n\xe2\x80\x94 x AAAA\n",
        b"log.example/\n7\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 secret AAAA\n",
    ],
)
def test_no_error_quotes_a_checkpoint(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_checkpoint(body)
    assert "secret" not in str(caught.value)
