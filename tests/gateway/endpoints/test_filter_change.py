"""WebSocket clients change their filter while they are connected."""

import asyncio
import json
import threading
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from ctfilter import parse_filter
from ctfilter.grammar import MAX_LINES
from gateway.clients import websocket as websocket_client
from gateway.clients.base import MAX_WAITING_ANSWERS
from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings
from gateway.delivery.encoding import WEBSOCKET
from gateway.endpoints import filter_change
from gateway.endpoints.filter_change import FilterChanges
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.client_helpers import Raw, receive, serials, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.delivery.test_filtering import lite_message, look_up_all
from tests.gateway.inflater import Inflater
from tests.gateway.publishing import Press
from tests.gateway.test_delivery_model import Transport
from tests.waiting import until


@pytest.fixture
async def gateway(start: Start, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(filter_change, "MIN_INTERVAL_SECS", 0.0)
    return await (await start(Settings(stop_timeout=1.0, ring_bytes=20_000))).following()


async def subscribe(client: ClientConnection, match: Any) -> dict[str, Any]:
    await client.send(json.dumps({"type": "subscribe", "match": match}))
    (answer,) = await receive(client, 1)
    return answer


async def test_the_answer_is_between_the_old_and_the_new_filter(
    gateway: Running, press: Press
) -> None:
    async with websocket(f"{gateway.ws}/?match=domain:1.example") as client:
        entry = await press.print(3)
        assert serials(await receive(client, 1)) == [1]
        answer = await subscribe(client, ["type:final", ":x", "domain:4.example"])
        assert answer["message_type"] == "error"
        answer = await subscribe(client, ["domain:4.Example", "domain:5.example"])
        lines = ["domain:4.example", "domain:5.example"]
        assert answer == {"message_type": "subscribed", "id": entry, "match": lines}
        await press.print(4)
        assert serials(await receive(client, 2)) == [4, 5]
        answer = await subscribe(client, None)
        assert (answer["message_type"], answer["match"]) == ("subscribed", None)
        await press.print(2)
        assert serials(await receive(client, 2)) == [7, 8]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ([], {"code": "invalid_filter"}),
        ("domain:a.example", {"code": "invalid_filter"}),
        (
            ["contains:abc", "lik:paypal"],
            {"code": "invalid_filter", "term": "lik:paypal", "position": 0, "line": "lik:paypal"},
        ),
        (["contains:abc"] * (MAX_LINES + 1), {"code": "invalid_filter"}),
        (["-contains:abc"] * 60, {"code": "invalid_filter", "line": "-contains:abc"}),
        (
            [f"regex:abc{n} regex:xyz" for n in range(51)],
            {"code": "invalid_filter", "line": "regex:abc50 regex:xyz"},
        ),
    ],
    ids=["no line", "no list", "invalid", "too many", "invalid, parsed in a thread", "regexes"],
)
async def test_an_error_leaves_the_old_filter(
    gateway: Running, press: Press, match: Any, expected: dict[str, Any]
) -> None:
    async with websocket(f"{gateway.ws}/?match=domain:1.example") as client:
        answer = await subscribe(client, match)
        assert answer["message_type"] == "error"
        assert expected.items() <= answer.items()
        await client.send("not a request")
        await client.send('{"type":"other"}')
        await press.print(3)
        assert serials(await receive(client, 1)) == [1]


async def test_ten_thousand_lines(gateway: Running, press: Press) -> None:
    """They join while another client receives, and a resumption from Redis continues with them."""
    lines = [f"domain:{number}.example" for number in range(0, 2 * MAX_LINES, 2)]
    for _ in range(20):
        await press.print(5, padding=2000)
    async with websocket(f"{gateway.ws}/?cursor=0") as client:
        got: list[Any] = []
        await client.send(json.dumps({"type": "subscribe", "match": lines}))
        while not got or got[-1]["message_type"] != "subscribed":
            got += await receive(client, 1)
        *before, answer = got
        assert len(answer["match"]) == MAX_LINES
        assert serials(before) == list(range(len(before)))
        last = before[-1]["id"] if before else None
        assert answer["id"] in (last, last and last.rpartition("-")[0])
        rest = [number for number in range(len(before), 100) if number % 2 == 0]
        assert serials(await receive(client, len(rest))) == rest


async def test_each_request_of_a_paused_client_is_answered_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A filter, an error, the same filter, another: then what passes the newest."""
    monkeypatch.setattr(filter_change, "MIN_INTERVAL_SECS", 0.0)
    hub = Hub(Settings(streams=("lite",)), lambda client, cursor: None, Metrics())
    changes, transport, ring = FilterChanges(hub), Transport(), hub.rings["lite"]
    client = WebSocketClient(hub.clients, hub.channel("lite", WEBSOCKET, None), transport)
    client.attach(None)
    ring.append("1-0", "0-0", [lite_message(["1.example"], is_precertificate=False)])
    client.flush()
    client.pause_writing()
    requests = [["domain:1.example"], ["domain:"], ["domain:1.example"], ["domain:2.example"]]
    for match in requests:
        changes.receive(client, json.dumps({"type": "subscribe", "match": match}).encode())
    names = [f"{number}.example" for number in (1, 2, 1, 2)]
    texts = [lite_message([name], is_precertificate=False) for name in names]
    ring.append("2-0", "1-0", texts)
    look_up_all(hub)
    client.resume_writing()
    while hub.filters.due:
        await hub.filters.serve_next()
    first, *answers, second, third = map(json.loads, Inflater().feed(transport.written))
    assert (first["id"], second["id"], third["id"]) == ("1-0-0", "2-0-1", "2-0-3")
    assert [a.get("match", a.get("term")) for a in answers] == [
        ["domain:1.example"],
        "domain:",
        ["domain:1.example"],
        ["domain:2.example"],
    ]
    assert [a.get("id") for a in answers] == ["1-0", None, "1-0", "1-0"]
    assert hub.filters.count == 1
    client.pause_writing()
    for _ in range(MAX_WAITING_ANSWERS):
        changes.receive(client, b'{"type":"subscribe","match":[]}')
    closed = [client.closed]
    changes.receive(client, b'{"type":"subscribe","match":[]}')
    assert [*closed, client.closed] == [False, True]
    assert hub.filters.count == 0


async def test_a_request_during_the_parsing_of_another_is_answered_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parses = threading.Event()

    def parse(**given: Any) -> Any:
        assert parses.wait(60)
        return parse_filter(**given)

    monkeypatch.setattr(filter_change, "parse_filter", parse)
    hub = Hub(Settings(streams=("lite",)), lambda client, cursor: None, Metrics())
    changes, transport, inflater = FilterChanges(hub), Transport(), Inflater()
    client = WebSocketClient(hub.clients, hub.channel("lite", WEBSOCKET, None), transport)
    client.attach(None)
    for match in ([f"contains:first{number}" for number in range(60)], ["contains:second"]):
        changes.receive(client, json.dumps({"type": "subscribe", "match": match}).encode())
    assert not transport.written
    parses.set()
    await until(lambda: b"rate_limited" in transport.written)
    kinds = [json.loads(text)["message_type"] for text in inflater.feed(transport.written)]
    assert kinds == ["subscribed", "error"]


async def test_one_request_in_ten_seconds(start: Start) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws) as client:
        assert (await subscribe(client, ["contains:abc"]))["message_type"] == "subscribed"
        answer = await subscribe(client, ["contains:abc"])
        assert (answer["message_type"], answer["code"]) == ("error", "rate_limited")
        assert 0 < answer["retry_after"] <= 10


async def test_incomplete_messages_are_bounded(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_client, "MAX_UNFINISHED_BYTES", 10_000)
    head = b"\x81\xff" + (500_000).to_bytes(8, "big") + bytes(4)
    async with await Raw.open(gateway.port) as first, await Raw.open(gateway.port) as second:
        await first.upgrade()
        await second.upgrade()
        first.send(head + bytes(6000))
        second.send(head + bytes(3000))
        await asyncio.sleep(0)
        second.send(bytes(3000))
        closed = asyncio.create_task(first.frame()), asyncio.create_task(second.frame())
        done, waiting = await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()[1][:2] for task in done] == [(1013).to_bytes(2, "big")]
        for task in waiting:
            task.cancel()


async def test_long_lists_are_parsed_one_at_a_time(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are short ones with many regexes; what one takes of memory is bounded."""
    parsing, most = 0, 0
    lock, parse = threading.Lock(), parse_filter

    def counted(**given: Any) -> Any:
        nonlocal parsing, most
        with lock:
            parsing += 1
            most = max(most, parsing)
        assert threading.current_thread() is not threading.main_thread()
        made = parse(**given)
        with lock:
            parsing -= 1
        return made

    monkeypatch.setattr(filter_change, "parse_filter", counted)
    async with websocket(gateway.ws) as one, websocket(gateway.ws) as two:
        answers = await asyncio.gather(
            subscribe(one, [f"domain:{n}.example" for n in range(1000)]),
            subscribe(two, [f"regex:abc{n} regex:x{n}yz" for n in range(20)]),
        )
    assert [answer["message_type"] for answer in answers] == ["subscribed"] * 2
    assert most == 1


async def test_a_long_list_is_placed_before_the_next_one_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lists without a pause between them would delay look-ups without end."""
    hub = Hub(Settings(streams=("lite",)), lambda client, cursor: None, Metrics())
    changes, transports, were_placed = FilterChanges(hub), [Transport(), Transport()], []

    def parse(**given: Any) -> Any:
        were_placed.append(hub.filters.shared.index.is_placed)
        return parse_filter(**given)

    monkeypatch.setattr(filter_change, "parse_filter", parse)
    for number, transport in enumerate(transports):
        client = WebSocketClient(hub.clients, hub.channel("lite", WEBSOCKET, None), transport)
        client.attach(None)
        lines = [f"like:brand{number}name{n}" for n in range(100)]
        changes.receive(client, json.dumps({"type": "subscribe", "match": lines}).encode())
    await until(lambda: all(transport.written for transport in transports))
    assert were_placed == [True, True]
