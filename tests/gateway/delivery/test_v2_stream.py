"""The stream v2: made of lite or full, with their ids, while a client reads it."""

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from certbus.ids import parse_cursor
from certbus.streams.events import StreamBatch
from ctparse.v2_message import Verification, v2_message
from gateway.config import Settings
from gateway.delivery import v2_stream
from gateway.delivery.encoding import NO_NAMES, SSE
from gateway.delivery.ring_buffer import Ring
from gateway.delivery.v2_stream import V2Ring, v2_messages
from tests.gateway.client_helpers import certificates, receive, websocket
from tests.gateway.conftest import Running, Start
from tests.gateway.delivery.test_compression import WITHOUT_CONTEXT, compressed, negotiated
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


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indexes of the entries of which a gateway makes messages of version 2."""
    indexes: list[int] = []

    def counting(text: bytes, log_id: bytes | None, verification: Verification) -> bytes:
        indexes.append(json.loads(text)["data"]["cert_index"])
        return v2_message(text, log_id, verification)

    monkeypatch.setattr(v2_stream, "v2_message", counting)
    return indexes


@pytest.mark.parametrize("query", ["", "&match=type:precert&match=type:final"])
async def test_nothing_is_made_without_clients_and_nothing_is_lost_after_that(
    start: Start, press: Press, made: list[int], query: str
) -> None:
    gateway = await started(start)
    expected = [data["cert_index"] for data in LITE]
    found: list[Any] = []
    async with websocket(f"{gateway.ws}/") as lite:
        for number in range(0, len(REAL), 4):  # v2 has a client for two batches of four
            cursor = found[-1]["id"] if found else "0"
            async with websocket(f"{gateway.ws}/v2?cursor={cursor}{query}") as v2:
                for end in (number + 1, number + 2):
                    await press.publish(REAL[end - 1 : end])
                    found += await certificates(v2, end - len(found))
            before = len(made)
            for other in (number + 2, number + 3):
                await press.publish(REAL[other : other + 1])
            await certificates(lite, 4)
            assert len(made) == before, "without a client, nothing is made"
        async with websocket(f"{gateway.ws}/v2?cursor={found[-1]['id']}{query}") as v2:
            found += await certificates(v2, len(REAL) - len(found))
    assert [message["data"]["entry"]["index"] for message in found] == expected


async def test_it_is_compressed_once_for_all_clients(
    start: Start, press: Press, compressed_slots: list[tuple[str, int]], made: list[int]
) -> None:
    gateway = await started(start, websocket_compression=True)
    async with AsyncExitStack() as stack:
        shared = [await stack.enter_async_context(compressed(f"{gateway.ws}/v2")) for _ in "123"]
        alone = await stack.enter_async_context(compressed(f"{gateway.ws}/v2", WITHOUT_CONTEXT))
        plain = await stack.enter_async_context(websocket(f"{gateway.ws}/v2"))
        assert {negotiated(client) for client in shared} == {negotiated(shared[0])}
        assert negotiated(alone) != negotiated(shared[0]) is not None
        for number in range(0, len(REAL), 5):
            await press.publish(REAL[number : number + 5])
        expected = await certificates(plain, len(REAL))
        for client in (*shared, alone):
            assert await certificates(client, len(REAL)) == expected
        late = await stack.enter_async_context(compressed(f"{gateway.ws}/v2?cursor=0"))
        assert await certificates(late, len(REAL)) == expected
        sent = [size for _, size in compressed_slots]
        assert len(sent) == len(REAL) // 5, "once, of v2 alone"
        assert sum(sent) < len(json.dumps(expected)) / 2
        assert len(made) == len(REAL)
        await press.publish(  # the same texts, which the window of the compressor has
            [
                msgspec.structs.replace(
                    message, sha256=sha256(message.sha256).digest(), sha1=message.sha256[:20]
                )
                for message in REAL
            ]
        )
        again = await certificates(plain, len(REAL))
        for client in (*shared, alone, late):
            assert await certificates(client, len(REAL)) == again
        assert certs(again) == certs(expected)


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


def test_it_begins_with_the_notices_after_the_newest_batch() -> None:
    """A client that has the batch, which Redis may have lost, gets them; others do not."""
    source, v2 = Ring("lite", 1 << 20), V2Ring(1 << 20, "lite", lambda: True)
    source.append("1-0", "0-0", [b'{"n":1}'])
    source.append_notice(b'{"of":"another batch"}')
    source.append("2-0", "1-0", [b'{"n":2}'])
    for number in range(2):
        source.append_notice(b'{"notice":%d}' % number)
    v2.start(source)
    source.append_notice(b'{"notice":2}')
    v2.start(source)
    _, at, _ = v2.read_from_cursor(parse_cursor("2-0"), SSE)
    data, at = v2.read(at, SSE, 1 << 20)
    assert data == b'data: {"notice":0}\n\ndata: {"notice":1}\n\n'
    assert at is v2.head
    unreadable = V2Ring(1 << 20, "lite", lambda: True)
    source.append_notice(b'{"notice":3}', replaces="3-0")
    unreadable.start(source)
    assert unreadable.is_empty
    assert unreadable.head.cursor == parse_cursor("3-0")
