"""One URL -> one bounded body, whatever the server does."""

import gzip
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import version

import msgspec
import pytest

from certconf import Config
from certconf.settings import CTLog
from ingestor.backoff import Backoff
from ingestor.client.errors import (
    ConnectionFailed,
    InvalidResponse,
    LogError,
    ResponseTooLarge,
    UnexpectedStatus,
)
from ingestor.client.http import Fetcher, http_client, retry_after, user_agent
from ingestor.client.log_availability import MAX_PAUSE_SECS
from tests.ingestor.client.available import available, policy
from tests.ingestor.hostile import NOWHERE, Answer, HostileServer, hostile_server, redirect

LIMIT = 100_000


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with hostile_server() as hostile:
        yield hostile


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with http_client("certstream-server/1 (+ops@example.com)") as http:
        yield Fetcher(http, "Test log", timeout=5, availability=available())


async def test_plain_and_gzip_bodies(server: HostileServer, fetcher: Fetcher) -> None:
    body = b"entries" * 10_000
    server.answers["/plain"] = [Answer(body)]
    server.answers["/gzip"] = [
        Answer(gzip.compress(body, mtime=0), headers={"content-encoding": "gzip"})
    ]
    assert await fetcher.get_log(f"{server.url}/plain", LIMIT) == body
    assert await fetcher.get_log(f"{server.url}/gzip", LIMIT) == body
    headers = server.requests[0].headers
    assert headers["user-agent"].startswith("certstream-server/")
    assert headers["user-agent"].endswith("(+ops@example.com)")
    assert headers["accept-encoding"] == "gzip"


def test_the_user_agent() -> None:
    product = f"certstream-server/{version('certstream-server')}"
    assert user_agent(Config()) == product
    contact = Config(contact="https://example.com/monitor")
    assert user_agent(contact) == f"{product} (+https://example.com/monitor)"
    own = msgspec.structs.replace(contact, ct_log=CTLog(user_agent="monitor/2 (me@example.com)"))
    assert user_agent(own) == "monitor/2 (me@example.com)"


def members(body: bytes, count: int) -> bytes:
    """Compress to `count` gzip members."""
    size = -(-len(body) // count)
    return b"".join(
        gzip.compress(body[at : at + size], mtime=0) for at in range(0, len(body), size)
    )


@pytest.mark.parametrize("limit", [LIMIT, 100 * LIMIT])
@pytest.mark.parametrize("count", [2, 3, 1000])
async def test_a_gzip_body_of_several_members(
    server: HostileServer, fetcher: Fetcher, count: int, limit: int
) -> None:
    body = random.Random(count).randbytes(LIMIT // 2) * (limit // LIMIT)
    packed = members(body, count)
    server.answers["/gzip"] = [
        Answer(packed + tail, headers={"content-encoding": "gzip"}) for tail in (b"", bytes(9))
    ]
    for _ in range(2):
        assert await fetcher.get_log(f"{server.url}/gzip", limit) == body
    server.answers["/gzip"] = [Answer(packed[:-1], headers={"content-encoding": "gzip"})]
    with pytest.raises(InvalidResponse, match="ends early"):
        await fetcher.get_log(f"{server.url}/gzip", limit)


@pytest.mark.parametrize("limit", [LIMIT, 300 * LIMIT])
async def test_the_members_of_a_gzip_body_count_together(
    server: HostileServer, fetcher: Fetcher, limit: int
) -> None:
    bomb = gzip.compress(bytes(limit // 4 + 1), mtime=0) * 4
    server.answers["/bomb"] = [Answer(bomb, headers={"content-encoding": "gzip"})]
    with pytest.raises(ResponseTooLarge, match=f"decompresses to more than {limit:,}"):
        await fetcher.get_log(f"{server.url}/bomb", limit)


async def test_a_gzip_body_of_endless_members(server: HostileServer, fetcher: Fetcher) -> None:
    empty = gzip.compress(b"", mtime=0)
    body = empty * (10 * LIMIT // len(empty))
    server.answers["/gzip"] = [Answer(body, headers={"content-encoding": "gzip"})]
    with pytest.raises(InvalidResponse, match="more than 4,096 members"):
        await fetcher.get_log(f"{server.url}/gzip", 10 * LIMIT)


async def test_no_error_repeats_the_text_of_a_server(
    server: HostileServer, fetcher: Fetcher
) -> None:
    server.answers["/odd"] = [Answer(b"secret", status="418 secret", headers={"x": "secret"})]
    with pytest.raises(UnexpectedStatus, match="HTTP 418") as caught:
        await fetcher.get_log(f"{server.url}/odd", LIMIT)
    assert "secret" not in caught.value.summary


async def test_oversized_body_is_not_read_to_its_end(
    server: HostileServer, fetcher: Fetcher
) -> None:
    server.answers["/big"] = [Answer(b"x" * (LIMIT + 1))]
    with pytest.raises(
        ResponseTooLarge, match=r"Test log: http://.*/big: body larger than 100,000 bytes"
    ):
        await fetcher.get_log(f"{server.url}/big", LIMIT)
    assert server.count("/big") == 1


async def test_gzip_bomb_is_stopped_at_the_limit(server: HostileServer, fetcher: Fetcher) -> None:
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    assert len(bomb) < LIMIT
    server.answers["/bomb"] = [Answer(bomb, headers={"content-encoding": "gzip"})]
    with pytest.raises(ResponseTooLarge, match="decompresses to more than 100,000"):
        await fetcher.get_log(f"{server.url}/bomb", LIMIT)


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (b"not gzip at all", "gzip", "not gzip"),
        (gzip.compress(b"entries" * 1000, mtime=0)[:-20], "gzip", "ends early"),
        (zlib.compress(b"entries"), "br", "only gzip was offered"),
    ],
)
async def test_body_that_contradicts_its_encoding(
    server: HostileServer, fetcher: Fetcher, body: bytes, encoding: str, problem: str
) -> None:
    server.answers["/odd"] = [Answer(body, headers={"content-encoding": encoding})]
    with pytest.raises(InvalidResponse, match=problem):
        await fetcher.get_log(f"{server.url}/odd", LIMIT)


async def test_lost_connections_and_busy_servers_are_tried_again(
    server: HostileServer, fetcher: Fetcher
) -> None:
    server.answers["/flaky"] = [
        Answer(b"x" * 1000, cut=10),
        Answer(status="503 Service Unavailable"),
        Answer(b"at last"),
    ]
    assert await fetcher.get_log(f"{server.url}/flaky", LIMIT) == b"at last"


async def test_retries_end(server: HostileServer, fetcher: Fetcher) -> None:
    server.answers["/down"] = [Answer(status="500 Internal Server Error")]
    with pytest.raises(UnexpectedStatus, match="HTTP 500") as caught:
        await fetcher.get_log(f"{server.url}/down", LIMIT)
    assert caught.value.status == 500
    assert server.count("/down") == 3


async def test_what_will_not_change_is_not_tried_again(
    server: HostileServer, fetcher: Fetcher
) -> None:
    with pytest.raises(UnexpectedStatus, match="HTTP 404"):
        await fetcher.get_log(f"{server.url}/absent", LIMIT)
    assert server.count("/absent") == 1


async def test_silence_ends_with_the_time_out(server: HostileServer) -> None:
    server.answers["/silent"] = [Answer(silent=True)]
    async with http_client() as http:
        fetcher = Fetcher(http, "Test log", timeout=0.1)
        with pytest.raises(ConnectionFailed, match=r"no complete answer within 0.1 s"):
            await fetcher.get_log(f"{server.url}/silent", LIMIT)


async def test_no_server(fetcher: Fetcher) -> None:
    with pytest.raises(ConnectionFailed, match=r"Test log: http://127\.0\.0\.1:1/x: "):
        await fetcher.get_log("http://127.0.0.1:1/x", LIMIT)


async def test_redirects_are_bounded(server: HostileServer, fetcher: Fetcher) -> None:
    server.answers["/once"] = [Answer(status="302 Found", headers={"location": "/there"})]
    server.answers["/there"] = [Answer(b"here")]
    server.answers["/loop"] = [Answer(status="302 Found", headers={"location": "/loop"})]
    assert await fetcher.get_log(f"{server.url}/once", LIMIT) == b"here"
    with pytest.raises(InvalidResponse, match="more than 3 redirects"):
        await fetcher.get_log(f"{server.url}/loop", LIMIT)


@pytest.mark.parametrize("location", NOWHERE)
async def test_redirects_to_nowhere(server: HostileServer, fetcher: Fetcher, location: str) -> None:
    server.answers["/away"] = [redirect(location)]
    with pytest.raises(ConnectionFailed, match=r"/away: (OverflowError|InvalidCodepoint): "):
        await fetcher.get_log(f"{server.url}/away", LIMIT)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("99999999999999999999", MAX_PAUSE_SECS),
        ("soon", None),
        ("-5", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Thu, 01 Jan 1970 00:02:00 +99999999999999999", None),
        ("Thu, 01 Jan 1970 01:02:00 +0100", 20.0),
        ("Thursday, 01-Jan-70 00:02:00 GMT", 20.0),
        ("Thu Jan  1 00:02:00 1970", 20.0),
        # Local time of the server, whose time zone is unknown.
        ("Thu, 01 Jan 1970 00:02:00 CET", None),
        ("Thu, 01 Jan 1970 00:02:00 JST", None),
        ("Thu, 01 Jan 1970 00:02:00", None),
    ],
)
def test_retry_after(value: str | None, wait: float | None) -> None:
    assert retry_after(value, None, now=100.0) == wait


@pytest.mark.parametrize(
    ("sent", "wait"),
    [
        ("Thu, 01 Jan 1970 00:01:55 GMT", 5.0),
        ("Fri, 02 Jan 1970 00:01:55 GMT", 0.0),
        ("Thu, 01 Jan 1970 01:01:55 +0100", 5.0),
        ("now", 86_400.0 + 20.0),
        (None, 86_400.0 + 20.0),
    ],
)
def test_a_date_to_retry_after_is_of_the_clock_of_the_server(sent: str | None, wait: float) -> None:
    """The clock of this host is a day behind."""
    found = retry_after("Thu, 01 Jan 1970 00:02:00 GMT", sent, now=100.0 - 86_400.0)
    assert found == min(wait, MAX_PAUSE_SECS)


def test_backoff_grows_to_its_maximum_and_stays_within_its_jitter() -> None:
    for attempt, ceiling in [(0, 1.0), (1, 2.0), (4, 16.0), (5, 20.0), (1000, 20.0)]:
        delays = {Backoff(1.0, 20.0)(attempt) for _ in range(100)}
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(delays) > 1


async def test_each_request_is_measured_by_how_it_ended(server: HostileServer) -> None:
    server.answers["/ok"] = [Answer(b"x")]
    server.answers["/busy"] = [Answer(status="429 Too Many Requests")]
    server.answers["/down"] = [Answer(status="503 Service Unavailable"), Answer(b"x")]
    server.answers["/cut"] = [Answer(b"x" * 100, cut=10)]
    server.answers["/silent"] = [Answer(silent=True)]
    measured: list[tuple[str, float]] = []
    async with http_client() as http:
        twice = available(policy(attempts=2))
        fetcher = Fetcher(http, "Log", 0.2, lambda *request: measured.append(request), twice)
        for path in ("/ok", "/down", "/missing", "/cut", "/silent"):
            with suppress(LogError):
                await fetcher.get_log(f"{server.url}{path}", LIMIT)
        with suppress(LogError):
            await fetcher.attempt(f"{server.url}/busy", LIMIT)
    assert [outcome for outcome, _ in measured] == [
        *("ok", "server_error", "ok", "refused"),
        *("broken", "broken", "timeout", "timeout", "rate_limited"),
    ]
    assert all(spent > 0 for _, spent in measured)
