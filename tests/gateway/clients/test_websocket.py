"""What a WebSocket client may send, and how connections end."""

import asyncio
import json
import struct

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.protocol import Protocol

from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings
from tests.gateway.client_helpers import (
    Raw,
    certificates,
    freed,
    masked,
    receive,
    serials,
    upgrade_request,
    websocket,
)
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Sec-WebSocket-Version: 13", 400),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
        (b"Connection: Upgrade", 426),
    ],
)
async def test_a_wrong_handshake_is_refused(start: Start, header: bytes, status: int) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(upgrade_request().replace(header + b"\r\n", b""))
        got, _, body = await client.answer()
    assert got == status
    assert json.loads(body)["code"] in ("invalid_handshake", "upgrade_required")
    assert "WebSocket" in json.loads(body)["error"]


async def test_a_ping_is_answered_at_once(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        await client.upgrade()
        client.send(masked(PING, b"are you there"))
        assert await client.frame() == (PONG, b"are you there")


async def test_what_comes_with_the_handshake_is_not_lost(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        client.send(upgrade_request() + masked(PING, b"early"))
        assert (await client.head())[0] == 101
        assert await client.frame() == (PONG, b"early")


async def test_a_character_may_be_in_two_fragments(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        await client.upgrade()
        client.send(b"\x01\x81" + bytes(4) + b"\xc3" + masked(PING, b"between"))
        client.send(masked(0, b"\xbc") + masked(PING, b"after"))
        answers: list[bytes] = []
        while len(answers) < 2:
            opcode, payload = await client.frame()
            if opcode == PONG:
                answers.append(payload)
        assert answers == [b"between", b"after"]


async def test_messages_of_clients_mean_nothing(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with websocket(gateway.ws + "/") as client:
        await client.send("subscribe")
        await client.send(b"\x00")
        await client.send(b'{"type":"\x80"}')
        await client.send('{"a":' + "[" * 5000)
        await press.print(1)
        assert serials(await certificates(client, 1)) == [0]


async def test_a_closing_handshake_is_answered(start: Start) -> None:
    async with await Raw.open((await start()).port) as client:
        await client.upgrade()
        client.send(masked(CLOSE, struct.pack("!H", 1000) + b"bye"))
        assert await client.frame() == (CLOSE, struct.pack("!H", 1000) + b"bye")
        assert await client.closed()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\xf1\x80\x00\x00\x00\x00", 1002),  # reserved bits
        (masked(0, b"continued"), 1002),
        (b"\x83\x80" + bytes(4), 1002),  # a reserved opcode
        (b"\x09\x80" + bytes(4), 1002),  # a fragmented ping
        (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),  # a ping of 126 bytes
        (masked(TEXT, b"a") * 2 + masked(CLOSE, b"\x03"), 1002),
        (masked(CLOSE, struct.pack("!H", 1005)), 1002),  # a code that is never sent
        (masked(TEXT, b"\xed\xa0\x80"), 1007),  # a surrogate (RFC 6455 section 8.1)
        (b"\x01\x81" + bytes(4) + b"\xc3" + masked(0, b"x"), 1007),  # in two fragments
        (masked(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (b"\x81\xff" + ((1 << 20) + 1).to_bytes(8, "big") + bytes(4), 1009),
        (b"\x81\xff\x7f" + b"\xff" * 7 + bytes(4), 1009),
    ],
)
async def test_violations_end_the_connection_with_their_code(
    start: Start, frame: bytes, code: int
) -> None:
    async with await Raw.open((await start()).port) as client:
        await client.upgrade()
        client.send(frame)
        opcode, payload = await client.frame()
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (CLOSE, code)
        assert await client.closed()


@pytest.mark.parametrize("frame", [masked(PING), masked(TEXT, b"x" * 100)])
async def test_a_flood_is_cut_off(start: Start, frame: bytes) -> None:
    async with await Raw.open((await start(Settings(close_timeout=0.5))).port) as client:
        await client.upgrade()
        client.send(frame * 20_000)
        answered = 0
        opcode, payload = await client.frame()
        while opcode == PONG:
            answered += 1
            opcode, payload = await client.frame()
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (CLOSE, 1008)
        assert answered < 2000


async def test_half_a_frame_is_not_waited_for(start: Start) -> None:
    """Whatever comes of it a byte at a time: a pong counts when it is whole."""
    gateway = await start(Settings(heartbeat=0.2, close_timeout=0.5))
    async with (
        await Raw.open(gateway.port) as slow,
        await Raw.open(gateway.port) as halting,
        await Raw.open(gateway.port) as answering,
    ):
        for client in (slow, halting, answering):
            await client.upgrade()
        half = masked(TEXT, b"x" * 4000)
        halting.send(half[:100])
        ends = [asyncio.create_task(client.ends()) for client in (slow, halting)]
        for position in range(len(half) - 1):
            slow.send(half[position : position + 1])
            opcode, _ = await answering.frame()
            if opcode == PING:
                answering.send(masked(PONG))
            if all(task.done() for task in ends):
                break
        assert [await task for task in ends] == [True, True]
        answering.send(masked(PING, b"still there"))
        opcode, _ = await answering.frame()
        while opcode != PONG:
            opcode, _ = await answering.frame()


@pytest.mark.parametrize("method", ["_send", "tick"])
async def test_an_unexpected_error_ends_one_client_alone(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What goes wrong in one client's protocol is counted, and reaches no other client."""
    gateway = await (await start(Settings(heartbeat=1.0, close_timeout=0.5))).following()
    async with (
        await Raw.open(gateway.port) as faulty,
        await Raw.open(gateway.port) as other,
    ):
        await faulty.upgrade()
        await other.upgrade("/full-stream")
        original = getattr(WebSocketClient, method)

        def fail(client: WebSocketClient, *arguments: int) -> None:
            if client.channel.ring.stream == "lite":
                raise ZeroDivisionError
            original(client, *arguments)

        monkeypatch.setattr(WebSocketClient, method, fail)
        faulty.send(masked(PING))
        assert await faulty.ends()
        opcode, payload = await other.frame()
        assert (opcode, b"heartbeat" in payload) == (TEXT, True)
        await press.print(1)
        assert (await other.text())["data"]["leaf_cert"]["serial_number"] == "0"


async def test_a_client_that_vanishes_is_forgotten(start: Start, press: Press) -> None:
    gateway = await (await start()).following()
    async with await Raw.open(gateway.port) as client:
        await client.upgrade()
    async with websocket(gateway.ws + "/") as client:
        await press.print(3)
        assert serials(await certificates(client, 3)) == [0, 1, 2]


@pytest.mark.parametrize(
    "last",
    [
        b"",
        masked(TEXT, b"x" * 200_000)[:-1],
        masked(TEXT, b"x" * 200_000, fin=False),
        masked(CLOSE, struct.pack("!H", 1000)),
        masked(3),
        b"\x81\xff" + ((1 << 20) + 1).to_bytes(8, "big") + bytes(4),
    ],
    ids=["nothing", "part of a frame", "fragment", "close", "violation", "too big"],
)
async def test_ended_clients_leave_no_garbage(start: Start, last: bytes) -> None:
    """What they have sent is free at once: cycles would keep it until a garbage collection."""
    gateway = await (await start()).following()
    async with freed(WebSocketClient, Protocol) as clients:
        for resets in (True, False):
            async with await Raw.open(gateway.port) as client:
                await client.upgrade()
                await until(clients, "the client is known")
                client.send(last)
                if not resets:
                    client.writer.write_eof()
                    assert await client.ends()


async def test_stopping_sends_clients_elsewhere(start: Start, press: Press) -> None:
    first = await (await start()).following()
    second = await (await start()).following()
    async with websocket(first.ws + "/") as client, await Raw.open(first.port) as events:
        events.send(b"GET /sse HTTP/1.1\r\nHost: t\r\n\r\n")
        await events.head()
        entry = await press.print(2)
        await receive(client, 2)
        await events.event()
        stopped = asyncio.create_task(first.stopped())
        with pytest.raises(ConnectionClosed) as ending:
            await client.recv()
        assert ending.value.rcvd is not None
        assert ending.value.rcvd.code == 1012
        assert ending.value.rcvd.reason.endswith(f"?cursor={entry}"), "all of the batch"
        assert await events.ends()
        await stopped
    await press.print(2)
    async with websocket(f"{second.ws}/?cursor={entry}") as client:
        assert serials(await certificates(client, 2)) == [2, 3]
