"""Clients receive what is published, over real sockets."""

import asyncio
import json

import pytest

from certbus.streams.events import FORGOTTEN
from gateway.config import Settings
from tests.gateway.client_helpers import Raw, certificates, masked, receive, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until


@pytest.mark.parametrize("path", ["/", "/full-stream"])
async def test_certificates_arrive_in_order_with_their_ids(
    start: Start, press: Press, path: str
) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws + path) as client:
        entries = [await press.print(3), await press.print(2)]
        messages = await receive(client, 5)
    assert serials(messages) == [0, 1, 2, 3, 4]
    assert [message["id"] for message in messages] == [
        f"{entry}-{n}" for entry, count in zip(entries, (3, 2), strict=True) for n in range(count)
    ]
    assert all(("chain" in message["data"]) == (path != "/") for message in messages)
    assert next(iter(messages[0])) == "id"


async def test_domains_leave_out_what_has_no_names(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws + "/domains-only") as client:
        entry = await press.print(12)
        messages = await receive(client, 11)
    assert [message["data"] for message in messages] == [
        [f"{n}.example"] for n in range(12) if n != 9
    ]
    assert messages[-1]["id"] == f"{entry}-11"


@pytest.mark.parametrize("stream", ["lite", "full", "domains", None])
async def test_sse_sends_the_same_messages(start: Start, press: Press, stream: str | None) -> None:
    gateway = await (await start()).following()
    async with await Raw.open(gateway.port) as client:
        query = f"?stream={stream}" if stream else ""
        client.send(f"GET /sse{query} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["access-control-allow-origin"] == "*"
        entry = await press.print(2)
        events = await client.data_events(2)
    assert [event["id"] for event in events] == [f"{entry}-0", f"{entry}-1"]
    messages = [json.loads(event["data"]) for event in events]
    assert [message["id"] for message in messages] == [f"{entry}-0", f"{entry}-1"]
    if stream == "domains":
        assert [message["data"] for message in messages] == [["0.example"], ["1.example"]]
    else:
        assert serials(messages) == [0, 1]
        assert all(("chain" in message["data"]) == (stream == "full") for message in messages)


async def test_a_batch_of_many_large_messages_arrives_whole(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws + "/") as client:
        await press.print(40, padding=70_000)
        assert serials(await certificates(client, 40)) == list(range(40))


async def test_many_clients_of_each_kind_receive_everything(start: Start, press: Press) -> None:
    gateway = await (await start()).following()

    async def follow(connected: asyncio.Semaphore) -> list[int]:
        async with websocket(gateway.ws + "/") as client:
            connected.release()
            return serials(await certificates(client, 100))

    connected = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(follow(connected)) for _ in range(50)]
    for _ in tasks:
        await connected.acquire()
    for _ in range(20):
        await press.print(5)
    assert await asyncio.gather(*tasks) == [list(range(100))] * 50


async def test_heartbeats(start: Start) -> None:
    gateway = await start(Settings(heartbeat=0.2, comment=0.2))
    async with await Raw.open(gateway.port) as client:
        await client.upgrade()
        opcode, payload = await client.frame()
        message = json.loads(payload)
        assert opcode == 1
        assert message["message_type"] == "heartbeat"
        assert isinstance(message["timestamp"], int)
        assert await client.frame() == (9, b"")
        client.send(masked(0xA))
    async with await Raw.open(gateway.port) as client:
        client.send(b"GET /sse HTTP/1.1\r\nHost: test\r\n\r\n")
        await client.head()
        assert await client.event() == {"": ""}


async def test_a_client_that_answers_no_pings_is_cut_off(start: Start) -> None:
    gateway = await start(Settings(heartbeat=0.1))
    async with await Raw.open(gateway.port) as silent, await Raw.open(gateway.port) as answering:
        await silent.upgrade()
        await answering.upgrade()
        beats = 0
        while beats < 5:
            opcode, _ = await answering.frame()
            if opcode == 9:
                beats += 1
                answering.send(masked(0xA))
        assert await silent.ends()


async def test_examples_are_samples_first_and_recent_messages_then(
    start: Start, press: Press
) -> None:
    gateway = await (await start()).following()
    kinds = {
        "/example.json": "certificate_update",
        "/full-stream/example.json": "certificate_update",
        "/domains-only/example.json": "dns_entries",
    }

    async def example(path: str) -> dict[str, object]:
        async with await Raw.open(gateway.port) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            status, headers, body = await client.answer()
        assert status == 200
        assert headers["content-type"] == "application/json"
        assert headers["access-control-allow-origin"] == "*"
        found = json.loads(body)
        assert isinstance(found, dict)
        return found

    for path, kind in kinds.items():
        assert (await example(path))["message_type"] == kind
    async with websocket(gateway.ws + "/full-stream") as client:
        entry = await press.print(1)
        (message,) = await receive(client, 1)
        assert await example("/example.json") == message

        async def domains_came() -> bool:
            return (await example("/domains-only/example.json"))["id"] == f"{entry}-0"

        await until(domains_came)


async def test_lost_marks_are_reported_and_no_message_is_left_out(
    start: Start, press: Press
) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws + "/") as client:
        first = await press.print(1)
        for key in [key async for key in press.redis.scan_iter(f"{press.keys.marks}*")]:
            await press.redis.delete(key)
        again = await press.print(2)
        await press.print(1)
        before, gap, *after = await receive(client, 5)
    assert serials([before]) == [0]
    assert gap["message_type"] == "gap"
    assert gap["data"] == {"requested": first, "oldest": again, "reason": FORGOTTEN}
    assert serials(after) == [1, 2, 3]
