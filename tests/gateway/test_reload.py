"""A configuration that changes while clients are connected to a gateway."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, cast

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from certconf import load
from ctfilter import index, parse_filter
from gateway import reload as gateway_reload
from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings
from gateway.delivery import filtering
from gateway.delivery.encoding import WEBSOCKET
from gateway.endpoints.filter_change import FilterChanges
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.reload import Reload
from tests.gateway.admission.gateways import ask, handshake, request
from tests.gateway.client_helpers import Raw, certificates, receive, serials, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.inflater import Inflater
from tests.gateway.publishing import Press
from tests.gateway.real_messages import real_messages
from tests.gateway.test_delivery_model import Transport
from tests.waiting import until

CloseOne = Callable[
    [Hub, Settings, Iterable[WebSocketClient]],
    Awaitable[tuple[asyncio.Task[None], WebSocketClient]],
]


def reload(gateway: Running, **changed: Any) -> None:
    """Change sections of the configuration: `auth={"tokens": ["a"]}`."""
    flat = {f"{section}.{key}": v for section, of in changed.items() for key, v in of.items()}
    new = load(None, {}, flat)
    sections = {section: getattr(new, section) for section in changed}
    gateway.present.replace(msgspec.structs.replace(gateway.present.config, **sections))


async def closed(client: ClientConnection) -> tuple[int | None, str | None]:
    """With which code and reason a client is closed."""
    async with asyncio.timeout(30):
        with suppress(ConnectionClosed):
            async for _ in client:
                pass
    return client.close_code, client.close_reason


async def test_a_revoked_token_ends_its_clients_and_no_others(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    reload(gateway, auth={"enabled": True, "tokens": ["old", "good"]})

    async def needs_a_token() -> bool:
        return (await handshake(gateway.port))[0] == 401

    await until(needs_a_token)

    def as_holder(token: str) -> connect:
        return connect(gateway.ws, additional_headers={"Authorization": f"Bearer {token}"})

    async with (
        as_holder("old") as old,
        as_holder("good") as good,
        await Raw.open(gateway.port) as events,
    ):
        events.send(request("/sse", Authorization="old"))
        assert (await events.head())[0] == 200
        await press.print(5)
        assert serials(await certificates(good, 5)) == list(range(5))
        reload(gateway, auth={"enabled": True, "tokens": ["good"]})
        assert await closed(old) == (1008, "token revoked")
        assert (await events.reader.read()).endswith(b": 1008 token revoked\n\n")
        await press.print(5)
        assert serials(await certificates(good, 5)) == list(range(5, 10))
    assert (await handshake(gateway.port, Authorization="old"))[0] == 401


async def test_an_expired_token_ends_its_clients_and_no_others(start: Start, press: Press) -> None:
    """It expires while a client is connected, and permits only one stream."""
    gateway = await (await start()).following()
    short = {"name": "a", "sha256": sha256(b"short").hexdigest(), "streams": ["lite"]}
    long = {"name": "b", "token": "long"}
    reload(gateway, auth={"enabled": True, "holders": [short, long]})

    async def needs_a_token() -> bool:
        return (await handshake(gateway.port))[0] == 401

    await until(needs_a_token)
    async with (
        connect(gateway.ws, additional_headers={"Authorization": "Bearer short"}) as client,
        connect(gateway.ws, additional_headers={"Authorization": "Bearer long"}) as other,
    ):
        for path in ("/sse?stream=full", "/sse?stream=domains"):
            status, _, body = await ask(gateway.port, path, Authorization="short")
            assert (status, json.loads(body)["code"]) == (403, "forbidden")
        assert (await handshake(gateway.port, "/full-stream", Authorization="short"))[0] == 403
        expires = datetime.fromtimestamp(time.time() + 1, UTC)
        reload(gateway, auth={"enabled": True, "holders": [{**short, "expires": expires}, long]})
        assert await closed(client) == (1008, "token expired")
        assert time.time() >= expires.timestamp()
        await press.print(5)
        assert serials(await certificates(other, 5)) == list(range(5))
    status, _, body = await ask(gateway.port, "/sse", Authorization="short")
    assert (status, json.loads(body)["error"]) == (401, "Token expired")


async def test_streams_are_switched_off_and_on(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with (
        websocket(f"{gateway.ws}/full-stream") as full,
        websocket(f"{gateway.ws}/domains-only") as domains,
    ):
        await press.print(5)
        (first,) = await certificates(full, 1)
        reload(gateway, streams={"full": False})
        code, reason = await closed(full)
        assert (code, (reason or "").partition(";")[0]) == (
            1001,
            "stream full disabled",
        )
        status, _, body = await ask(gateway.port, "/sse?stream=full")
        assert (status, "streams.full" in json.loads(body)["error"]) == (404, True)
        await press.print(5)
        reload(gateway, streams={"full": True})

        async def offered() -> bool:
            return (await handshake(gateway.port, "/full-stream"))[0] == 101

        await until(offered)
        async with websocket(f"{gateway.ws}/full-stream?cursor={first['id']}") as again:
            await press.print(5)
            assert serials(await certificates(again, 14)) == list(range(1, 15))
        assert len(await certificates(domains, 14)) == 14, "and it missed nothing"


async def test_no_stream_at_all_and_back(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    reload(gateway, streams={"full": False, "lite": False, "domains_only": False})

    async def nothing_is_offered() -> bool:
        return (await handshake(gateway.port))[0] == 404

    await until(nothing_is_offered)
    assert (await ask(gateway.port, "/health"))[0] == 200
    reload(gateway, streams={})

    async def offered() -> bool:
        return (await handshake(gateway.port))[0] == 101

    await until(offered)
    async with websocket(f"{gateway.ws}/?cursor=0") as client:
        await press.print(5)
        assert serials(await certificates(client, 5)) == list(range(5))


async def test_protocols_are_switched_off_and_on(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws) as client, await Raw.open(gateway.port) as events:
        events.send(request("/sse"))
        assert (await events.head())[0] == 200
        reload(gateway, protocols={"websocket": False, "metrics": False})
        assert (await closed(client))[0] == 1001
        assert (await handshake(gateway.port))[0] == 404
        assert (await ask(gateway.port, "/metrics"))[0] == 404
        await press.print(1)
        assert (await events.event_data())["id"]
        reload(gateway, protocols={"sse": False})
        assert b"SSE disabled" in await events.reader.read()
        assert (await handshake(gateway.port))[0] == 101
        assert (await ask(gateway.port, "/sse"))[0] == 404


async def test_limits_apply_to_new_clients_and_connected_clients_stay(start: Start) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws), websocket(gateway.ws):
        reload(
            gateway,
            connection_limit={"enabled": True, "per_ip_limit": 2},
            rate_limit={"enabled": True, "max_tokens": 3, "burst": 1, "refill_rate": 0.001},
        )

        async def refused() -> bool:
            return (await handshake(gateway.port))[0] == 429

        await until(refused)
        assert (await ask(gateway.port, "/health"))[0] == 200

        async def too_often() -> bool:
            return (await ask(gateway.port, "/example.json"))[0] == 429

        await until(too_often)
        reload(gateway, connection_limit={}, rate_limit={})

        async def admitted() -> bool:
            return (await handshake(gateway.port))[0] == 101

        await until(admitted)


async def test_a_named_filter_changes_for_its_clients(start: Start, press: Press) -> None:
    """Also with further terms, and over SSE. Clients of a removed filter are closed."""
    gateway = await (await start()).following()
    reload(
        gateway,
        filters={"brand": ["domain:1.example", "domain:2.example"], "other": ["type:final"]},
    )

    async def is_known() -> bool:
        return (await handshake(gateway.port, "/?filter=brand&filter=other"))[0] == 101

    await until(is_known)
    async with (
        websocket(f"{gateway.ws}/?filter=brand") as wide,
        websocket(
            f"{gateway.ws}/?filter=brand&match=domain:2.example&match=domain:7.example"
        ) as narrow,
        websocket(f"{gateway.ws}/?filter=other") as others,
        await Raw.open(gateway.port) as events,
    ):
        events.send(request("/sse?filter=brand"))
        assert (await events.head())[0] == 200
        entry = await press.print(5)
        assert serials(await receive(wide, 2)) == [1, 2]
        assert serials(await receive(narrow, 1)) == [2]
        assert serials(await receive(others, 5)) == list(range(5))
        reload(
            gateway,
            filters={"brand": ["domain:6.example", "domain:7.example"], "other": ["type:final"]},
        )
        subscribed = {"id": entry, "message_type": "subscribed", "filters": ["brand"]}
        assert await receive(wide, 1) == [subscribed]
        assert await receive(narrow, 1) == [subscribed]
        newest = await press.print(5)
        assert serials(await receive(wide, 2)) == [6, 7]
        assert serials(await receive(narrow, 1)) == [7]
        assert serials(await receive(others, 5)) == list(range(5, 10)), "it did not change"
        reload(gateway, filters={"other": ["type:final"]})
        code, reason = await closed(wide)
        reason_given = f"?cursor={newest} elsewhere; there is no filter 'brand'"
        assert (code, reason) == (1008, reason_given)
        text = (await events.reader.read()).decode()
        lines = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        assert [line["message_type"] for line in lines] == [
            *["certificate_update"] * 2,
            "subscribed",
            *["certificate_update"] * 2,
        ]
        assert "elsewhere; there is no filter 'brand'" in text
        assert (await handshake(gateway.port, "/?filter=brand"))[0] == 400
        await press.print(1)
        assert serials(await receive(others, 1)) == [10]


async def test_named_filters_have_a_place_when_others_have_none(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a reload close their clients, except those with further terms."""
    brand = parse_filter(match=["regex:^1.e"])
    assert brand is not None
    gateway = await (await start(Settings(filters={"brand": brand}))).following()
    async with websocket(f"{gateway.ws}/?filter=brand&domain=example") as narrow:
        monkeypatch.setattr(filtering, "MAX_FILTER_BYTES", 0)
        monkeypatch.setattr(index, "MAX_SCANS", 0)
        monkeypatch.setattr(index, "MAX_INSTRUCTIONS", 0)
        status, _ = await handshake(gateway.port, "/?filter=brand&domain=test")
        assert status == 503
        async with websocket(f"{gateway.ws}/?filter=brand") as client:
            reload(gateway, filters={"brand": ["regex:^2.e"]})
            (answer,) = await receive(client, 1)
            assert answer["message_type"] == "subscribed"
            code, reason = await closed(narrow)
            assert code == 1013
            assert reason is not None
            assert reason.startswith("the same cursor elsewhere; Server is at its limit of filters")
            await press.print(4)
            assert serials(await receive(client, 1)) == [2]


async def test_the_filter_of_a_token_holds_for_all_that_it_receives(
    start: Start, press: Press
) -> None:
    gateway = await (await start()).following()
    inside, outside = real_messages()[:2]
    name = json.loads(inside.domains)["data"][0].removeprefix("*.")
    assert name not in json.loads(outside.domains)["data"]
    brand = [f"domain:{name}", "domain:2.example", "domain:3.example"]
    filters = {"brand": brand, "all": ["type:final"]}

    def bind(bound: str) -> None:
        holders = [{"name": "a", "token": "bound", "filter": bound}, {"name": "b", "token": "free"}]
        auth = {"enabled": True, "holders": holders}
        reload(gateway, auth=auth, filters=filters, protocols={"api": True})

    async def is_bound() -> bool:
        return (await ask(gateway.port, "/latest.json", Authorization="bound"))[0] == 200

    async def status(path: str, token: str) -> int:
        return (await ask(gateway.port, path, Authorization=token))[0]

    bind("brand")
    await until(is_bound)
    headers = {"Authorization": "Bearer bound"}
    async with (
        connect(gateway.ws, additional_headers=headers) as wide,
        connect(f"{gateway.ws}?match=domain:3.example", additional_headers=headers) as narrow,
    ):
        await press.print(5)
        assert serials(await receive(wide, 2)) == [2, 3]
        assert serials(await receive(narrow, 1)) == [3]
        await narrow.send('{"type":"subscribe","match":null}')
        (answer,) = await receive(narrow, 1)
        assert (answer["match"], answer["filters"]) == (None, ["brand"])
        await press.publish([outside, inside])
        for client in (wide, narrow):
            (message,) = await certificates(client, 1)
            assert name in str(message["matched"])
        _, _, body = await ask(gateway.port, "/latest.json", Authorization="bound")
        assert len(json.loads(body)["messages"]) == 3
        _, _, sample = await ask(gateway.port, "/domains-only/example.json", Authorization="bound")
        _, _, recent = await ask(gateway.port, "/domains-only/example.json", Authorization="free")
        assert sample != recent
        assert [
            await status(f"/api/cert/{message.sha256.hex()}", token)
            for message in (inside, outside)
            for token in ("bound", "free")
        ] == [200, 200, 404, 200]
        assert await status("/api/cert/" + inside.sha256.hex() + "?filter=none", "free") == 400
        bind("all")
        assert await closed(wide) == (1008, "the token has another filter")


def connected(hub: Hub) -> dict[WebSocketClient, Transport]:
    """Two clients of the stream lite, which has one batch."""
    channel = hub.channels["lite", WEBSOCKET]
    transports = Transport(), Transport()
    clients = {WebSocketClient(hub.clients, channel, each): each for each in transports}
    hub.rings["lite"].append("1-0", "0-0", [b'{"data":1}'])
    for client in clients:
        client.attach(None)
    return clients


@pytest.fixture
def close_one(monkeypatch: pytest.MonkeyPatch) -> CloseOne:
    """Begin to close the clients that may not stay; return the task and a client that waits."""
    monkeypatch.setattr(gateway_reload, "_YIELD_AFTER_CLIENTS", 1)

    async def closing(
        hub: Hub, settings: Settings, clients: Iterable[WebSocketClient]
    ) -> tuple[asyncio.Task[None], WebSocketClient]:
        unused = cast("Any", None)
        reloading = Reload(hub, unused, unused, FilterChanges(hub))
        removed = hub.apply_settings(settings)
        task = asyncio.create_task(reloading._close_disallowed(removed))
        await asyncio.sleep(0)
        (waiting,) = (client for client in clients if not client.closed)
        return task, waiting

    return closing


async def test_a_reason_has_the_id_that_its_client_has_when_it_is_closed(
    close_one: CloseOne,
) -> None:
    """A client receives while others are closed."""
    hub = Hub(Settings(), lambda client, cursor: None, Metrics())
    clients = connected(hub)
    task, waiting = await close_one(hub, Settings(websocket=False), clients)
    hub.rings["lite"].append("2-0", "1-0", [b'{"data":2}'])
    await hub.channels["lite", WEBSOCKET].flush()
    await task
    written = clients[waiting].written
    assert b'"id":"2-0-0"' in written
    assert written.endswith(b"WebSocket disabled; ?cursor=2-0 elsewhere")


async def test_a_client_of_a_disabled_stream_cannot_change_its_filter(close_one: CloseOne) -> None:
    """It may request that before it is closed."""
    hub = Hub(Settings(), lambda client, cursor: None, Metrics())
    clients = connected(hub)
    task, waiting = await close_one(hub, Settings(streams=("full",)), clients)
    for match in (["type:final"], None):
        waiting.may_change_at = 0.0
        request = json.dumps({"type": "subscribe", "match": match}).encode()
        FilterChanges(hub).receive(waiting, request)
    await task
    written = clients[waiting].written
    _, *answers = map(json.loads, Inflater().feed(written))
    assert [answer.get("code") for answer in answers] == ["disabled", "disabled"]
    assert written.endswith(b"stream lite disabled; ?cursor=1-0 elsewhere")
