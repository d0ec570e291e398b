"""Compressed WebSocket messages: whole, made once for all clients, only for those that offer it."""

import json
import random
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from certbus.cluster import snapshot
from gateway.config import Settings
from gateway.delivery.compression import DEFLATED, deflated_frames
from gateway.delivery.encoding import Encoding
from gateway.delivery.ring_buffer import Slot
from tests.gateway.client_helpers import (
    Raw,
    certificates,
    masked,
    receive,
    serials,
    upgrade_request,
    websocket,
)
from tests.gateway.conftest import Start
from tests.gateway.publishing import Press
from tests.waiting import until

CLOSE = 8
CLIENT = "client_no_context_takeover"
BOTH = f"server_no_context_takeover; {CLIENT}"
WITHOUT_CONTEXT = ClientPerMessageDeflateFactory(server_no_context_takeover=True)
COMPRESSING = Settings(websocket_compression=True, stop_timeout=1)
PLAIN = Settings(websocket_compression=False, stop_timeout=1)


@asynccontextmanager
async def compressed(
    url: str, offer: ClientPerMessageDeflateFactory | None = None
) -> AsyncIterator[ClientConnection]:
    """A client that offers permessage-deflate."""
    extensions = [offer or ClientPerMessageDeflateFactory(client_max_window_bits=True)]
    async with connect(
        url, ping_interval=None, compression=None, max_size=None, extensions=extensions
    ) as client:
        yield client


def negotiated(client: ClientConnection) -> str | None:
    assert client.response is not None
    return client.response.headers.get("Sec-WebSocket-Extensions")


async def test_every_message_of_all_streams_arrives_whole(start: Start, press: Press) -> None:
    gateway = await (await start(COMPRESSING)).following()
    async with AsyncExitStack() as stack:
        for path in ("/", "/full-stream", "/domains-only"):
            count = 36 if path == "/domains-only" else 40
            url = f"{gateway.ws}{path}?cursor=0"
            plain = await stack.enter_async_context(websocket(url))
            packed = await stack.enter_async_context(compressed(url))
            assert negotiated(plain) is None
            assert negotiated(packed) == "permessage-deflate; client_no_context_takeover"
            if path == "/":
                await press.print(20, padding=3000)
                await press.print(20)
            assert await receive(packed, count) == await receive(plain, count)


async def test_without_the_setting_an_offer_is_not_accepted(start: Start, press: Press) -> None:
    gateway = await (await start(PLAIN)).following()
    async with compressed(gateway.ws + "/") as client:
        assert negotiated(client) is None
        await press.print(2)
        assert serials(await certificates(client, 2)) == [0, 1]


async def test_a_batch_is_compressed_once_for_all(
    start: Start, press: Press, compressed_slots: list[tuple[str, int]]
) -> None:
    gateway = await (await start(COMPRESSING)).following()
    async with websocket(gateway.ws + "/") as client:  # one that does not compress
        await press.print(4)
        await receive(client, 4)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(compressed(gateway.ws + "/")) for _ in range(30)]
        entries = [await press.print(4) for _ in range(3)]
        for client in clients:
            assert serials(await certificates(client, 12)) == list(range(4, 16))
    assert [entry for entry, _ in compressed_slots] == entries


async def test_a_batch_is_compressed_once_for_all_without_context(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[Encoding, str]] = []
    encode = Slot.encode

    def counting(slot: Slot, form: Encoding, skip: int = 0) -> bytes:
        encoded.append((form, slot.entry))
        return encode(slot, form, skip)

    monkeypatch.setattr(Slot, "encode", counting)
    gateway = await (await start(COMPRESSING)).following()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(compressed(gateway.ws + "/", WITHOUT_CONTEXT))
            for _ in range(30)
        ]
        entries = [await press.print(4) for _ in range(3)]
        for client in clients:
            assert serials(await certificates(client, 12)) == list(range(12))
    assert encoded == [(DEFLATED, entry) for entry in entries]


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("", CLIENT),
        ("; client_no_context_takeover", CLIENT),
        ("; client_max_window_bits", CLIENT),
        ("; client_max_window_bits=10", f"{CLIENT}; client_max_window_bits=10"),
        ("; server_max_window_bits=15", f"{CLIENT}; server_max_window_bits=15"),
        ("; server_no_context_takeover", BOTH),
        ("; server_no_context_takeover, permessage-deflate", BOTH),  # the first acceptable one
        (
            "; server_max_window_bits=15; server_no_context_takeover",
            f"{BOTH}; server_max_window_bits=15",
        ),
        ("; server_max_window_bits=14", f"{BOTH}; server_max_window_bits=14"),
        ("; server_max_window_bits=12", f"{BOTH}; server_max_window_bits=12"),
        ("; server_max_window_bits=11", None),  # smaller than what all others get
        ("; server_max_window_bits=8", None),
        ("; server_max_window_bits=16", None),
        ("; window=1", None),
        ("; server_max_window_bits=9, permessage-deflate", CLIENT),
        ("; server_no_context_takeover; window=1, permessage-deflate", CLIENT),
    ],
)
async def test_what_offers_are_answered(start: Start, offer: str, answer: str | None) -> None:
    async with await Raw.open((await start(COMPRESSING)).port) as client:
        client.send(offering(f"permessage-deflate{offer}"))
        status, headers = await client.head()
        assert status == 101
        given = headers.get("sec-websocket-extensions")
        assert given == (None if answer is None else f"permessage-deflate; {answer}")


@pytest.mark.parametrize("bits", [12, 15])
async def test_a_client_with_its_own_windows_reads_everything(
    start: Start, press: Press, bits: int
) -> None:
    gateway = await (await start(COMPRESSING)).following()
    offer = ClientPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=9, client_no_context_takeover=True
    )
    async with compressed(gateway.ws + "/", offer) as client:
        await client.send("compressed, too " * 100)
        await press.print(5, padding=40_000)
        assert serials(await certificates(client, 5)) == list(range(5))


def test_no_message_needs_a_larger_window_than_the_smallest_accepted() -> None:
    noise = random.Random(0).randbytes(5000).hex().encode()
    frame = deflated_frames("17-3", 4, [b'{"pad":"%b%b"}' % (noise, noise)])
    assert frame[:2] == b"\xc1\x7e"  # a length of 16 bits follows
    packed = frame[4:] + b"\x00\x00\xff\xff"
    inflate = zlib.decompressobj(wbits=-12)
    text = b""
    while packed:  # in small pieces, so that only the window remembers
        text += inflate.decompress(packed, 256)
        packed = inflate.unconsumed_tail
    assert text == b'{"id":"17-3-4","pad":"%b%b"}' % (noise, noise)


async def test_compressed_clients_are_counted_as_websocket_clients(
    start: Start, press: Press
) -> None:
    gateway = await (await start(COMPRESSING)).following()

    async def counted() -> bool:
        (seen,) = (await snapshot(press.redis, press.keys)).gateways
        return [int(seen.fields[name]) for name in ("clients", "websocket", "sse")] == [2, 2, 0]

    async with compressed(gateway.ws + "/"), websocket(gateway.ws + "/"):
        await until(counted)


@pytest.mark.parametrize("ring_bytes", [COMPRESSING.ring_bytes, 1])
async def test_resuming_from_memory_and_from_redis(
    start: Start, press: Press, ring_bytes: int
) -> None:
    settings = Settings(websocket_compression=True, ring_bytes=ring_bytes, stop_timeout=1)
    gateway = await (await start(settings)).following()
    for _ in range(10):
        await press.print(4)
    async with compressed(gateway.ws + "/?cursor=0") as client:
        messages = await receive(client, 40)
        assert serials(messages) == list(range(40))
        async with AsyncExitStack() as stack:
            resumed = {
                seen: await stack.enter_async_context(
                    compressed(f"{gateway.ws}/?cursor={messages[seen]['id']}")
                )
                for seen in (0, 2, 17)
            }
            for _ in range(80):  # beyond the next restart
                await press.print(4)
            messages += await receive(client, 320)
            for seen, other in resumed.items():
                assert await receive(other, 359 - seen) == messages[seen + 1 :]


async def test_a_gap_is_reported_between_messages(start: Start, press: Press) -> None:
    gateway = await (await start(COMPRESSING)).following()
    async with compressed(gateway.ws + "/?cursor=9999999999999-0-0") as client:
        (gap,) = await receive(client, 1)
        assert gap["message_type"] == "gap"
        await press.print(1)
        assert serials(await certificates(client, 1)) == [0]


async def test_heartbeats_and_pongs_come_between_compressed_messages(
    start: Start, press: Press
) -> None:
    settings = Settings(websocket_compression=True, heartbeat=1.0, stop_timeout=1)
    gateway = await (await start(settings)).following()
    async with compressed(gateway.ws + "/") as client:
        await press.print(1)
        assert serials(await certificates(client, 1)) == [0]
        beat = json.loads(await client.recv())
        assert beat["message_type"] == "heartbeat"
        await (await client.ping())
        await press.print(1)
        assert serials(await certificates(client, 1)) == [1]


@pytest.mark.parametrize(
    "size",
    [(1 << 20) + 1, 60_000_000],  # the larger one is 58 KB on the wire
)
async def test_a_bomb_is_refused(start: Start, size: int) -> None:
    async with await Raw.open((await start(COMPRESSING)).port) as client:
        client.send(offering("permessage-deflate"))
        assert (await client.head())[0] == 101
        client.send(compressed_frame(b"a" * size))
        opcode, answer = await client.frame()
        assert (opcode, struct.unpack("!H", answer[:2])[0]) == (CLOSE, 1009)
        assert await client.closed()


async def test_a_compressed_message_is_refused_where_none_was_negotiated(start: Start) -> None:
    async with await Raw.open((await start(COMPRESSING)).port) as client:
        await client.upgrade()
        client.send(compressed_frame(b"hello"))
        opcode, answer = await client.frame()
        assert (opcode, struct.unpack("!H", answer[:2])[0]) == (CLOSE, 1002)


def offering(extensions: str) -> bytes:
    """An opening handshake with an offer."""
    header = f"\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
    return upgrade_request().removesuffix(b"\r\n\r\n") + header.encode()


def compressed_frame(payload: bytes) -> bytes:
    """A compressed text message as a client sends it (RFC 7692 section 7.2.1)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return b"\xc1" + masked(1, data[:-4])[1:]
