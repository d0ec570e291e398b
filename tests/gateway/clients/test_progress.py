"""Heartbeats and comments show the id after which a client can resume, with a filter too."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from certbus.ids import parse_cursor
from gateway.clients.base import Client
from gateway.clients.sse import SSEClient
from gateway.config import Settings
from gateway.delivery.encoding import SSE
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.client_helpers import certificates, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.gateway.test_delivery_model import Transport

FREQUENT = Settings(heartbeat=0.2, comment=0.2, stop_timeout=1.0)


async def test_a_filtered_client_resumes_after_its_last_heartbeat(
    start: Start, press: Press
) -> None:
    """Nothing passed its filter; another gateway sends what was published since."""
    gateway, other = [await (await start(FREQUENT)).following() for _ in range(2)]
    async with websocket(f"{gateway.ws}/?match=contains:nothing") as client:
        entry = await press.print(5)
        async with asyncio.timeout(60):
            while True:
                message = json.loads(await client.recv())
                assert message["message_type"] == "heartbeat"
                if message.get("id") == entry:
                    break
    await press.print(3)
    async with websocket(f"{other.ws}/?cursor={message['id']}") as client:
        assert serials(await certificates(client, 3)) == [5, 6, 7]


async def test_the_last_event_id_of_httpx_sse_moves_without_messages(
    start: Start, press: Press
) -> None:
    """What it yields for a comment has no data; its id is what it reconnects with."""
    httpx_sse: Any = pytest.importorskip("httpx_sse")
    gateway = await (await start(FREQUENT)).following()
    url = f"{gateway.url}/sse?match=domain:7.example"
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(60):
        async with httpx_sse.aconnect_sse(client, "GET", url) as source:
            entry = await press.print(5)
            async for event in source.aiter_sse():
                assert event.data == ""
                if event.id == entry:
                    break
        entry = await press.print(5)
        headers = {"Last-Event-ID": event.id}
        async with httpx_sse.aconnect_sse(client, "GET", url, headers=headers) as source:
            events = source.aiter_sse()
            first = await anext(e async for e in events if e.data)
            assert (first.id, json.loads(first.data)["matched"][0]["name"]) == (
                f"{entry}-2",
                "7.example",
            )


def test_a_replay_that_has_read_nothing_shows_no_id() -> None:
    hub = Hub(Settings(), lambda client, cursor: None, Metrics())
    asyncio.run(_read_nothing_then_something(hub))


async def _read_nothing_then_something(hub: Hub) -> None:
    def connect() -> tuple[Client, Transport]:
        transport = Transport()
        return SSEClient(hub.clients, hub.channels["lite", SSE], transport), transport

    hub.rings["lite"].begin_after("5-0")
    client, transport = connect()
    client.attach(parse_cursor("3-0-1"))
    client.tick(0)
    assert transport.written.endswith(b"\r\n\r\n:\n\n")
    assert client.resume_hint == "the same cursor"
    client.read_up_to(parse_cursor("3-0-4"))
    client.tick(0)
    assert transport.written.endswith(b":\nid: 3-0-4\n\n")
    assert client.resume_hint == "?cursor=3-0-4"
    client, transport = connect()
    client.attach(None)
    client.tick(0)
    assert transport.written.endswith(b":\nid: 5-0\n\n")
