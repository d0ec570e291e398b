"""What a filtered channel sends is the filter applied to what the unfiltered one sends."""

import json
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from certbus.ids import Cursor, message_id, parse_cursor
from certbus.streams.events import StreamBatch
from ctfilter import Certificate, Filter, Index, Match, parse_filter
from gateway.config import Settings
from gateway.delivery import filter_index, filtering
from gateway.delivery.channel import MAX_WRITE_BYTES
from gateway.delivery.encoding import SSE
from gateway.delivery.ring_buffer import BehindRing, Ring
from gateway.delivery.v2_stream import v2_messages
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.client_helpers import Raw, certificates, receive, serials, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.publishing import Press
from tests.gateway.real_messages import real_messages
from tests.waiting import until

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

LINES = ("contains:acme", "domain:example.net", "-domain:acme.com contains:acme", "type:precert")
NAMES = ("acme.com", "acme-login.net", "www.example.net", "acme.example.net", "other.org")
UNITS = st.tuples(st.lists(st.sampled_from(NAMES), max_size=3), st.booleans())


def passes(lines: list[str], names: list[str], *, is_precertificate: bool) -> bool:
    """What the lines above mean."""
    meanings = {
        LINES[0]: any("acme" in name for name in names),
        LINES[1]: any(name.endswith("example.net") for name in names),
        LINES[2]: any("acme" in name and name != "acme.com" for name in names),
        LINES[3]: is_precertificate,
    }
    return any(meanings[line] for line in lines)


def lite_message(names: list[str], *, is_precertificate: bool, padding: int = 0) -> bytes:
    kind = "PrecertLogEntry" if is_precertificate else "X509LogEntry"
    leaf = {"padding": "x" * padding, "all_domains": names}
    return json.dumps({"data": {"update_type": kind, "leaf_cert": leaf}}).encode()


def domains_message(names: list[str]) -> bytes:
    text = json.dumps(names, separators=(",", ":"))
    return f'{{"message_type":"dns_entries","data":{text}}}'.encode()


def look_up_all(hub: Hub) -> None:
    while hub.filters.look_up_next():
        pass


def events_after(ring: Ring, cursor: Cursor, encoding: Any) -> list[tuple[str, Any]]:
    """Return id and message of what a ring has after a cursor."""
    data, position, _ = ring.read_from_cursor(cursor, encoding)
    while position.number < ring.head.number:
        more, position = ring.read(position, encoding, MAX_WRITE_BYTES)
        data += more
    events = [event.split(b"\n") for event in data.split(b"\n\n")[:-1]]
    return [(event[0][4:].decode(), json.loads(event[1][6:])) for event in events]


@settings(max_examples=60)
@given(
    batches=st.lists(st.lists(UNITS, min_size=1, max_size=5), min_size=1, max_size=8),
    lines=st.lists(st.sampled_from(LINES), min_size=1, unique=True),
    padding=st.sampled_from((0, 40_000)),
    joins=st.integers(0, 8),
    stream=st.sampled_from(("lite", "domains")),
    window=st.sampled_from((1, 64)),
)
def test_any_cursor_with_any_filter(
    batches: list[list[tuple[list[str], bool]]],
    lines: list[str],
    padding: int,
    joins: int,
    stream: str,
    window: int,
) -> None:
    """After every id; the filter joins before any of the batches, or after them.

    Args:
        batches: of certificates: their names, and whether they are precertificates.
        lines: of the filter.
        padding: bytes in each message of lite, to cut batches into slots.
        joins: number of batches before the filter joins.
        stream: of the client.
        window: messages after which a filter may leave the index.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_index, "WINDOW_MESSAGES", window)
        any_cursor(batches, lines, padding, joins, stream)


def any_cursor(
    batches: list[list[tuple[list[str], bool]]],
    lines: list[str],
    padding: int,
    joins: int,
    stream: str,
) -> None:
    hub = Hub(Settings(), lambda client, cursor: None, Metrics())
    wanted = parse_filter(match=lines)
    assert wanted is not None
    source = hub.rings["lite" if LINES[3] in lines else stream]
    published: dict[str, tuple[list[str], bool]] = {}
    channel = None
    for number, batch in enumerate(batches):
        if number == joins:
            channel = hub.filters.channel(hub.channels[stream, SSE], wanted, source)
        messages = {
            "lite": [lite_message(n, is_precertificate=p, padding=padding) for n, p in batch],
            "domains": [domains_message(names) for names, _ in batch],
        }
        for name, texts in messages.items():
            hub.rings[name].append(f"{number + 1}-0", f"{number}-0", texts)
            look_up_all(hub)
        published |= {message_id(f"{number + 1}-0", at): unit for at, unit in enumerate(batch)}
    channel = channel or hub.filters.channel(hub.channels[stream, SSE], wanted, source)
    ids = list(published)
    for at, cursor in enumerate(["0", *ids]):
        expected = [
            item
            for item in ids[at:]
            if passes(lines, published[item][0], is_precertificate=published[item][1])
            and (stream == "lite" or published[item][0])
        ]
        found = events_after(source, parse_cursor(cursor), channel.encoding)
        assert [found_id for found_id, _ in found] == expected
        assert channel.selection.take() == len(expected)
        for found_id, message in found:
            unfiltered = dict(message)
            del unfiltered["id"]
            matched = unfiltered.pop("matched")
            names, is_precertificate = published[found_id]
            plain = (
                json.loads(domains_message(names))
                if stream == "domains"
                else json.loads(
                    lite_message(names, is_precertificate=is_precertificate, padding=padding)
                )
            )
            assert unfiltered == plain
            assert matched
            assert all(match["match"] in lines for match in matched)
            assert all(match["name"] in (None, *names) for match in matched)
    with pytest.raises(BehindRing):
        source.read_from_cursor(parse_cursor("0-1-0"), channel.encoding)


def test_one_look_up_serves_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a filter that joins later, and not if another certificate has the same id."""
    looked_up: list[Certificate] = []
    lookup = Index.lookup

    def counted(self: Index, certificate: Certificate) -> dict[Filter, list[Match]]:
        looked_up.append(certificate)
        return lookup(self, certificate)

    monkeypatch.setattr(Index, "lookup", counted)
    hub = Hub(Settings(v2=True), lambda client, cursor: None, Metrics())
    published = real_messages()
    batch = StreamBatch("lite", "1-0", "0-0", "", 0, 0, [m.lite for m in published])
    texts = {
        "domains": [m.domains for m in published],
        "full": [m.full for m in published],
        "lite": batch.messages,
        "v2": v2_messages(batch),
    }
    selected = {}
    for line in ("type:precert", "contains:com", "issuer:encrypt regex:^www"):
        wanted = parse_filter(match=[line])
        assert wanted is not None
        for stream in texts:
            source = hub.rings[hub.source_of(stream, wanted)]
            channel = hub.filters.channel(hub.channels[stream, SSE], wanted, source)
            selected[line, stream] = source, channel.encoding
    for stream, messages in texts.items():
        hub.rings[stream].append("1-0", "0-0", messages)
    look_up_all(hub)
    assert len(looked_up) == len(published)
    for line in ("type:precert", "contains:com", "issuer:encrypt regex:^www"):
        ids = [
            [found for found, _ in events_after(source, parse_cursor("0"), encoding)]
            for source, encoding in (selected[line, stream] for stream in texts)
        ]
        assert ids[0]
        assert ids == [ids[0]] * len(texts)
    hub.rings["lite"].append("2-0", "1-0", texts["lite"])
    hub.rings["domains"].append("2-0", "1-0", texts["domains"][1:])
    look_up_all(hub)
    assert len(looked_up) == 3 * len(published) - 1


def test_a_stream_that_is_disabled_takes_its_filters_with_it() -> None:
    """A filter of domains that reads lite, too; both streams begin again later."""
    hub = Hub(Settings(), lambda client, cursor: None, Metrics())
    wanted = parse_filter(match=["type:final contains:acme"])
    assert wanted is not None
    base = hub.channels["domains", SSE]
    channel = hub.filters.channel(base, wanted, hub.rings["lite"])
    for number in range(1, 4):
        ring = hub.rings["lite"]
        ring.append(f"{number}-0", f"{number - 1}-0", [lite_message([], is_precertificate=True)])
        look_up_all(hub)
    assert channel in hub.apply_settings(Settings(streams=("full", "domains")))
    assert (hub.filters.count, hub.filters.size) == (0, 0)
    hub.apply_settings(Settings())
    ring = hub.rings["lite"]
    again = hub.filters.channel(base, wanted, ring)
    hub.filters.remove(channel)
    assert (again is channel, hub.filters.count) == (False, 1)
    ring.append("9-0", "8-0", [lite_message(["acme.com"], is_precertificate=False)])
    look_up_all(hub)
    assert list(hub.filters.due) == [again]


@pytest.fixture
async def gateway(start: Start) -> Running:
    """One whose ring holds a few messages only."""
    return await (await start(Settings(ring_bytes=20_000, access_log=True))).following()


async def sse(gateway: Running, target: str) -> Raw:
    client = await Raw.open(gateway.port, limit=1 << 24)
    client.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert (await client.head())[0] == 200
    return client


async def test_live_messages_and_what_matched(gateway: Running, press: Press) -> None:
    """Over WebSocket and SSE, on each stream, with terms of names and of the certificate.

    The batch of full messages is larger than the ring, so its clients read a part from Redis.
    """
    published = real_messages()
    name = next(name for m in published for name in json.loads(m.domains)["data"])
    host = name.removeprefix("*.")
    kinds = ("X509LogEntry", "PrecertLogEntry")
    update_type = next(
        json.loads(m.lite)["data"]["update_type"] for m in published if name.encode() in m.lite
    )
    query = f"match=domain:{host}%20type:{('final', 'precert')[kinds.index(update_type)]}"
    async with AsyncExitStack() as stack:
        triples: list[tuple[ClientConnection, ClientConnection, Raw]] = []
        for path, stream in (("/", "lite"), ("/full-stream", "full"), ("/domains-only", "domains")):
            url = f"{gateway.ws}{path}"
            more = "&utm_source=x&match=contains:nothing-has-this"
            everything = await stack.enter_async_context(websocket(url))
            filtered = await stack.enter_async_context(websocket(f"{url}?{query}{more}"))
            events = await sse(gateway, f"/sse?stream={stream}&{query}&domain=nothing.test,{host}")
            triples.append((everything, filtered, await stack.enter_async_context(events)))
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
            text = (await http.get("/metrics")).text
            assert re.search(r"^certstream_gateway_filters\S* 2\.0$", text, re.MULTILINE)
        await press.publish(published)
        for everything, filtered, events in triples:
            messages = {m["id"]: m for m in await certificates(everything, len(published))}
            (found,) = await certificates(filtered, 1)
            text = query[6:].replace("%20", " ")
            matched = found.pop("matched")
            assert {"name": name, "match": text} in matched
            assert found == messages[found["id"]]
            event = await events.event_data()
            assert event["id"] == found["id"]
            assert len(event["matched"]) == 2 * len(matched)


async def test_a_message_shows_ten_matches(gateway: Running, press: Press) -> None:
    words = [".example"[:n] for n in range(3, 9)] + ["0.example"[:n] for n in range(3, 9)]
    lines = "&".join(f"match=contains:{word}" for word in words)
    with structlog.testing.capture_logs() as logged:
        async with websocket(f"{gateway.ws}/?{lines}") as client:
            await press.print(10)
            message = (await certificates(client, 9))[0]
        await until(lambda: [e for e in logged if e["event"] == "request ended"])
    (ended,) = (event for event in logged if event["event"] == "request ended")
    assert ended["messages"] == 9, "the tenth certificate has no name"
    assert len(message["matched"]) == 10
    assert message["matched_total"] == len(words)


async def test_resumption_with_any_cursor_from_any_gateway(
    gateway: Running, start: Start, press: Press
) -> None:
    """From Redis and from the ring, after messages that pass and others, with another filter."""
    other = await (await start()).following()
    query = r"match=regex:[02468]\.example"
    async with websocket(gateway.ws) as everything:
        for _ in range(30):
            await press.print(7, padding=700)
        messages = await certificates(everything, 210)
    expected = [m["id"] for m in messages if serials([m])[0] % 2 == 0]
    for at in (*range(-1, 210, 23), 203, 205, 207):
        cursor = messages[at]["id"] if at >= 0 else "0"
        owed = [m["id"] for m in messages[at + 1 :] if m["id"] in set(expected)]
        if not owed:
            continue
        for server in (gateway, other):
            async with websocket(f"{server.ws}/?{query}&cursor={cursor}") as client:
                found = await receive(client, len(owed))
            assert [message["id"] for message in found] == owed
            assert all(message["matched"] for message in found)


@pytest.mark.parametrize(
    ("query", "code", "expected"),
    [
        ("match=contains:ab", "invalid_filter", ("contains:ab", 0, None)),
        ("match=contains:abc%20lik:paypal", "invalid_filter", ("lik:paypal", 13, "like:paypal")),
        ("domain=a.example,b_%24", "invalid_filter", ("b_$", 10, None)),
        ("domain=a.example&domain=b.example", "invalid_filter", ("b.example", 0, None)),
        ("match=", "invalid_filter", ("", 0, "contains:…")),
        ("match=-domain:a.example", "invalid_filter", ("-domain:a.example", 0, None)),
        ("filter=brand", "invalid_filter", ("brand", 0, None)),
        ("filter=", "invalid_filter", ("", 0, None)),
        ("match=regex:(a", "invalid_filter", ("regex:(a", 0, None)),
        ("domains=a.example", "unknown_parameter", "did you mean domain?"),
        ("mach=contains:abc", "unknown_parameter", "did you mean match?"),
        ("contains=abc", "unknown_parameter", "filters are domain, issuer, match, filter"),
        ("Domain=a.example", "unknown_parameter", "did you mean domain?"),
        ("match[]=contains:abc", "unknown_parameter", "did you mean match?"),
        ("q=abc", "unknown_parameter", "filters are"),
        ("keywords=abc&hosts=abc", "unknown_parameter", "'hosts'; filters are"),
        ("curser=0", "unknown_parameter", "did you mean cursor?"),
    ],
)
async def test_a_request_that_meant_a_filter_is_refused(
    gateway: Running, query: str, code: str, expected: tuple[str, int, str | None] | str
) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        handshake["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        for path, headers in (("/", handshake), ("/domains-only", handshake), ("/sse", {})):
            answer = await client.get(f"{path}?{query}", headers=headers)
            body = answer.json()
            assert (answer.status_code, body["code"]) == (400, code)
            if isinstance(expected, str):
                assert expected in body["error"]
            else:
                assert (body["term"], body["position"], body.get("suggestion")) == expected


async def test_a_filter_of_the_certificate_needs_a_stream_with_certificates(start: Start) -> None:
    gateway = await (await start(Settings(streams=("domains",)))).following()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get("/sse?stream=domains-only&match=type:final")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_filter")
    assert "streams.lite" in answer.json()["error"]
    async with await sse(gateway, "/sse?stream=domains-only&match=contains:example"):
        pass


async def test_the_memory_of_filters_is_bounded(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that a client has already costs nothing."""
    target = "/sse?match=contains:example"
    async with await sse(gateway, target), httpx.AsyncClient(base_url=gateway.url) as client:
        monkeypatch.setattr(filtering, "MAX_FILTER_BYTES", 1000)
        async with await sse(gateway, target):
            pass
        answer = await client.get("/sse?match=contains:another")
        assert (answer.status_code, answer.json()["code"]) == (503, "filter_limit")
        assert int(answer.headers["retry-after"]) > 0
