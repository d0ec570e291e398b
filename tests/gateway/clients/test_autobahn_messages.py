"""RFC 6455 and RFC 7692 by cases 9, 10, 12 and 13 of the Autobahn test suite.

Smaller than in the suite: messages have up to 4 MiB instead of 16, and fewer are sent, because the
suite measures time with them. The compressed messages of the client are made, and those of the
server read, with zlib alone; what the gateway sends to its own clients is compressed otherwise
(`tests/gateway/delivery/test_compression.py`). The limits on what a client may send, which the echo
server does not have, are tests of `test_websocket.py`.

13.3 and 13.5 offer a window of 512 bytes for the server, with which the gateway declines to
compress: they are tested as declined, and messages without compression are returned.
"""

import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product

import pytest

from tests.gateway.client_helpers import Raw, any_frame, masked, upgrade_request
from tests.gateway.clients.echo_server import Echo
from tests.gateway.clients.test_autobahn import (
    BINARY,
    CONT,
    GREEK,
    HELLO,
    PING,
    TEXT,
    check_answers,
    closed,
    fragments,
    returned,
)
from tests.paths import FIXTURES

KIB = 1024
COMPRESSED = 4  # RSV1
NO_CONTEXT = "client_no_context_takeover"


def split(payload: bytes, size: int) -> list[bytes]:
    return [payload[start : start + size] for start in range(0, len(payload), size)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_large_messages(echo: Echo, opcode: int) -> None:
    """9.1.1 to 9.2.6, and 9.5.1 to 9.6.6 for the reads of 64 bytes to 2 KiB."""
    payload = (b"BAsd7&jh23" * 420_000)[: 4096 * KIB]
    for size in (64, 256, 1024, 4096):
        part = payload[: size * KIB]
        await check_answers(echo, masked(opcode, part), [returned(opcode, part)], ())
    part = payload[: 64 * KIB]
    for read in (64, 128, 256, 512, 1024, 2048):
        assert await echo.in_reads(masked(opcode, part), read) == [returned(opcode, part)]


@pytest.mark.parametrize(("size", "fragment"), [(64, 64), (256, 256), (1024, 1024), (4096, 65_536)])
async def test_large_messages_in_fragments(echo: Echo, size: int, fragment: int) -> None:
    """9.3.1 to 9.4.9."""
    payload = b"*" * (size * KIB)
    for opcode in (TEXT, BINARY):
        sent = fragments(opcode, split(payload, fragment))
        await check_answers(echo, sent, [returned(opcode, payload)], ())


async def test_many_messages(echo: Echo) -> None:
    """9.7.1 to 9.8.6: each is sent when the one before was returned."""
    async with await Raw.open(echo.port) as client:
        await client.upgrade()
        for opcode, size in product((TEXT, BINARY), (0, 16, 64, 256, 1024, 4096, 16_384)):
            for number in range(10):
                payload = bytes([0x41 + number]) * size
                client.send(masked(opcode, payload))
                assert await any_frame(client.reader) == returned(opcode, payload)


async def test_a_message_in_many_fragments(echo: Echo) -> None:
    """10.1.1."""
    payload = b"*" * 65_536
    sent = fragments(TEXT, split(payload, 1300))
    await check_answers(echo, sent, [returned(TEXT, payload)], (1300, 65_536))


def deflated(message: bytes, bits: int = 15) -> bytes:
    """Compress one message alone (RFC 7692 section 7.2.1).

    Args:
        message: to compress.
        bits: of the window. zlib has none of 8 bits, but can do without a window.
    """
    strategy = zlib.Z_HUFFMAN_ONLY if bits == 8 else zlib.Z_DEFAULT_STRATEGY
    deflate = zlib.compressobj(6, zlib.DEFLATED, -max(bits, 9), 8, strategy)
    return (deflate.compress(message) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes, bits: int = 15) -> bytes:
    """Decompress one message alone; zlib refuses what exceeds the window."""
    return zlib.decompressobj(-bits).decompress(payload + b"\x00\x00\xff\xff")


def compressed(opcode: int, parts: list[bytes]) -> bytes:
    """Encode a compressed message in frames, the first of which has RSV1 (section 6.1)."""
    head = masked(opcode, parts[0], fin=len(parts) == 1, rsv=COMPRESSED)
    return head + (fragments(CONT, parts[1:]) if len(parts) > 1 else b"")


@asynccontextmanager
async def offering(echo: Echo, *offers: str) -> AsyncIterator[tuple[Raw, str | None]]:
    """Open a WebSocket with these offers; yield the answer to them, too."""
    async with await Raw.open(echo.port) as client:
        header = f"Sec-WebSocket-Extensions: {', '.join(offers)}\r\n\r\n"
        client.send(upgrade_request()[:-2] + header.encode())
        status, headers = await client.head()
        assert status == 101
        yield client, headers.get("sec-websocket-extensions")


async def check_compressed(client: Raw, opcode: int, sent: bytes, message: bytes) -> None:
    """Check that a message that was sent is returned compressed."""
    client.send(sent)
    first, payload = await any_frame(client.reader)
    assert first == 0x80 | COMPRESSED << 4 | opcode
    assert inflated(payload) == message


async def check_plain(client: Raw) -> None:
    """Check that nothing was negotiated."""
    client.send(masked(TEXT, HELLO))
    assert await any_frame(client.reader) == returned(TEXT, HELLO)
    client.send(compressed(TEXT, [deflated(HELLO)]))
    assert (await client.frame())[1][:2] == closed(1002)[1]


MESSAGES = {
    "json": (TEXT, (FIXTURES / "ct_entries.json").read_bytes()),
    "text": (TEXT, GREEK * 12_000),
    "zeros": (BINARY, bytes(131_072)),
    "random": (BINARY, random.Random(7692).randbytes(131_072)),
}


@pytest.mark.parametrize("name", MESSAGES)
async def test_compressed_messages(echo: Echo, name: str) -> None:
    """12.1.1 to 12.5.18."""
    opcode, data = MESSAGES[name]
    async with offering(echo, "permessage-deflate") as (client, answer):
        assert answer == f"permessage-deflate; {NO_CONTEXT}"
        for size in (0, 16, 64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072):
            message = data[: size - size % len(GREEK)] if name == "text" else data[:size]
            payload = deflated(message)
            for fragment in (1 << 20, 256, 4096):
                sent = compressed(opcode, split(payload, fragment))
                await check_compressed(client, opcode, sent, message)


SERVER_BITS = (None, *range(8, 16))
CLIENT_BITS = (None, "", 8, 9, 15)


@pytest.mark.parametrize("server_bits", SERVER_BITS)
async def test_offers(echo: Echo, server_bits: int | None) -> None:
    """13.1.1 to 13.6.18, with each combination of the parameters (RFC 7692 section 7.1)."""
    message = b"".join(b"%d," % number for number in range(1000))  # more than the small windows
    for server_alone, client_alone, client_bits in product((0, 1), (0, 1), CLIENT_BITS):
        offer = "permessage-deflate" + "; server_no_context_takeover" * server_alone
        offer += f"; {NO_CONTEXT}" * client_alone
        if server_bits is not None:
            offer += f"; server_max_window_bits={server_bits}"
        if client_bits is not None:
            offer += "; client_max_window_bits" + (f"={client_bits}" if client_bits else "")
        async with offering(echo, offer) as (client, answer):
            if server_bits is not None and server_bits < 12:
                assert answer is None, offer
                await check_plain(client)
                continue
            accepted = "permessage-deflate"
            if server_alone or server_bits in (12, 13, 14):
                accepted += "; server_no_context_takeover"
            accepted += f"; {NO_CONTEXT}"
            if server_bits is not None:
                accepted += f"; server_max_window_bits={server_bits}"
            if client_bits:
                accepted += f"; client_max_window_bits={client_bits}"
            assert answer == accepted, offer
            for _ in range(2):
                payload = deflated(message, int(client_bits or 15))
                client.send(compressed(TEXT, [payload]))
                first, payload = await any_frame(client.reader)
                assert (first, inflated(payload, server_bits or 15)) == (0xC1, message), offer


async def test_the_first_acceptable_offer_is_accepted(echo: Echo) -> None:
    """13.7.1 to 13.7.18."""
    offers = ("server_no_context_takeover; server_max_window_bits=9", "server_no_context_takeover")
    first, second = (f"permessage-deflate; {parameters}" for parameters in offers)
    async with offering(echo, first, second, "permessage-deflate") as (client, answer):
        assert answer == f"{second}; {NO_CONTEXT}"
        sent = compressed(TEXT, [deflated(HELLO)])
        await check_compressed(client, TEXT, sent, HELLO)


@pytest.mark.parametrize(
    "parameters",
    [
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=015",
        "server_max_window_bits=x",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=-9",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits=15; server_max_window_bits=15",
        "window=15",
    ],
)
async def test_an_invalid_offer_is_declined(echo: Echo, parameters: str) -> None:
    """RFC 7692 section 7.1: of parameters that are unknown, repeated, or have a wrong value."""
    async with offering(echo, f"permessage-deflate; {parameters}") as (client, answer):
        assert answer is None
        await check_plain(client)
    async with offering(echo, "x-webkit-deflate-frame", "bbf-usp-protocol") as (client, answer):
        assert answer is None


@pytest.mark.parametrize(
    "payload",
    [
        "f248cdc9c90700",  # one block (section 7.2.3.1)
        "000500faff48656c6c6f00",  # without compression (7.2.3.3)
        "f348cdc9c9070000",  # BFINAL (7.2.3.4)
        "f248050000 00ffffcac9c90700",  # two blocks (7.2.3.5)
    ],
)
async def test_blocks_of_a_compressed_message(echo: Echo, payload: str) -> None:
    """The examples of RFC 7692, whole, in every two fragments with a ping between, and repeated."""
    data = bytes.fromhex(payload)
    async with offering(echo, "permessage-deflate") as (client, _):
        for _ in range(2):
            await check_compressed(client, TEXT, compressed(TEXT, [data]), b"Hello")
        client.send(masked(TEXT, HELLO))  # a message that is not compressed
        assert inflated((await client.frame())[1]) == HELLO
        for position in range(len(data) + 1):
            client.send(masked(TEXT, data[:position], fin=False, rsv=COMPRESSED) + masked(PING))
            assert await client.frame() == (10, b"")
            sent = masked(CONT, data[position:])
            await check_compressed(client, TEXT, sent, b"Hello")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (masked(PING, rsv=COMPRESSED), 1002),
        (masked(8, rsv=COMPRESSED), 1002),
        (masked(TEXT, b"a", fin=False) + masked(CONT, b"b", rsv=COMPRESSED), 1002),
        (masked(TEXT, b"\xf2", fin=False, rsv=4) + masked(CONT, b"\x48", rsv=4), 1002),
        (compressed(TEXT, [b"\xff\xff\xff"]), 1002),  # block type 3
        (compressed(TEXT, [deflated(HELLO) + deflated(HELLO * 99)[:9]]), 1002),
        (compressed(TEXT, [deflated(b"\xed\xa0\x80")]), 1007),
        (masked(TEXT, HELLO, rsv=6), 1002),
    ],
)
async def test_violations_of_compression(echo: Echo, sent: bytes, code: int) -> None:
    """RFC 7692 sections 6 and 7.2.2."""
    async with offering(echo, "permessage-deflate") as (client, _):
        client.send(sent)
        assert (await client.frame())[1][:2] == closed(code)[1]
        assert await client.closed()
