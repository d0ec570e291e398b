"""The stream v2: made of lite or full, with their ids, while a client reads it."""

import asyncio
import base64
import json
from typing import Any

import httpx
import jsonschema
import pytest

from certbus.ids import parse_entry_id
from certbus.streams.events import StreamBatch
from ctparse.v2_message import Verification
from gateway.config import Settings
from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.ring_buffer import Ring
from gateway.delivery.v2_stream import V2Ring, rings_of, v2_messages
from tests.gateway.client_helpers import certificates, receive, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.endpoints.test_openapi import closed
from tests.gateway.publishing import LOG, Press
from tests.gateway.real_messages import real_messages
from tests.gateway.test_reload import reload

REAL = real_messages()
LITE = [json.loads(message.lite)["data"] for message in REAL]
CHECKED = Verification("verified", "failed")


async def started(start: Start, **settings: Any) -> Running:
    return await (await start(Settings(stop_timeout=1.0, v2=True, **settings))).following()


def certs(messages: list[Any]) -> list[Any]:
    return [message["data"]["cert"] for message in messages]


async def test_live_and_resumed_messages_agree_with_lite(start: Start, press: Press) -> None:
    gateways = [await started(start, websocket_compression=True) for _ in range(2)]
    url = gateways[0].url.replace("http", "ws")
    async with websocket(f"{url}/v2") as v2, websocket(f"{url}/") as lite:
        entry = await press.publish(REAL[:12], CHECKED)
        await press.publish(REAL[12:])
        live, others = await certificates(v2, len(REAL)), await certificates(lite, len(REAL))
    assert [message["id"] for message in live] == [message["id"] for message in others]
    assert certs(live) == [data["leaf_cert"] for data in LITE]
    async with httpx.AsyncClient(trust_env=False) as client:
        schema = (await client.get(f"{gateways[0].url}/schemas/v2.json")).json()
    validator = jsonschema.Draft202012Validator(closed(schema))
    for number, message in enumerate(live):
        validator.validate(message)
        assert list(message)[:3] == ["id", "message_type", "version"]
        checked = ("verified", "failed") if number < 12 else ("unverified", "unverified")
        assert tuple(message["data"]["verification"].values()) == checked
        log_id = base64.b64encode(bytes.fromhex(LOG)).decode()
        assert message["data"]["source"]["log_id"] == log_id
    # Out of Redis by another gateway, out of the ring by this one.
    for gateway in (gateways[1], gateways[0]):
        base = gateway.url.replace("http", "ws")
        async with websocket(f"{base}/v2?cursor=0") as again:
            assert await certificates(again, len(REAL)) == live
        async with websocket(f"{base}/v2?cursor={entry}-7") as again:
            assert await certificates(again, len(REAL) - 8) == live[8:]
        wanted = [m for m in live if m["data"]["entry"]["type"] == "precert"]
        async with websocket(f"{base}/v2?cursor=0&match=type:precert") as narrowed:
            found = await certificates(narrowed, len(wanted))
        assert all(message.pop("matched") for message in found)
        assert found == wanted


async def test_it_is_made_of_full_without_lite(start: Start, press: Press) -> None:
    gateway = await started(start, streams=("full", "domains"))
    async with websocket(f"{gateway.url.replace('http', 'ws')}/v2") as client:
        await press.publish(REAL)
        assert certs(await certificates(client, len(REAL))) == [d["leaf_cert"] for d in LITE]


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        (Settings(stop_timeout=1.0), "streams.v2"),
        (Settings(stop_timeout=1.0, v2=True, streams=("domains",)), "streams.lite"),
    ],
)
async def test_404_without_it_or_its_source(start: Start, settings: Settings, setting: str) -> None:
    gateway = await start(settings)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{gateway.url}/sse?stream=v2")
    assert answer.status_code == 404
    assert setting in answer.json()["error"]


def test_nothing_is_made_without_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = {1}
    lite, v2 = Ring("lite", 1 << 20), V2Ring(1 << 20, "lite", lambda: bool(clients))
    rings = {"lite": lite, "v2": v2}
    lite.append("5-0", "4-0", [b"{}"])
    assert rings_of("lite", rings) == [lite]
    v2.start(lite)
    assert str(v2.head) == str(lite.head).rpartition("-")[0]
    assert rings_of("lite", rings) == [lite, v2]
    assert rings_of("domains", {**rings, "domains": lite}) == [lite]
    v2.append("6-0", "5-0", [b"{}"])
    clients.clear()
    monkeypatch.setattr("gateway.delivery.v2_stream._CHECK_SECS", -1.0)
    assert rings_of("lite", rings) == [lite]
    assert (v2.is_empty, v2.size, v2.has_begun) == (True, 0, False)
    assert v2.head.cursor.entry == parse_entry_id("6-0")


def test_a_message_that_cannot_be_decoded_keeps_its_position() -> None:
    texts = [REAL[0].lite, b"{}", REAL[1].lite]
    made = v2_messages(StreamBatch("lite", "5-0", "4-0", "url-a", 0, 2, texts))
    assert made[1] == NO_NAMES
    assert [json.loads(made[n])["data"]["source"]["log_id"] for n in (0, 2)] == [None, None]


@pytest.mark.parametrize("lite", [True, False])
async def test_a_reload_that_changes_its_source_loses_and_repeats_nothing(
    start: Start, press: Press, lite: bool
) -> None:
    streams = ("full", "domains") if lite else ("full", "lite", "domains")
    gateway = await started(start, streams=streams)
    async with websocket(f"{gateway.ws}/v2") as v2:
        entries = [await press.publish(REAL[:1])]
        found = await receive(v2, 1)
        reload(gateway, streams={"full": True, "lite": lite, "v2": True})
        for number in range(1, 8):
            entries.append(await press.publish(REAL[number : number + 1]))
            await asyncio.sleep(0)
        while len(found) < len(entries):
            found += await receive(v2, 1)
    assert [message.get("id") for message in found] == [f"{entry}-0" for entry in entries]
