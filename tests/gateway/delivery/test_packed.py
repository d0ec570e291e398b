"""Batches are unpacked when they are first read, and mean the same before and after."""

import json
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbus.ids import Cursor, parse_cursor
from certbus.streams.codec import Codec, PackedMessages, UndecodableBatch
from gateway.config import Settings
from gateway.delivery.encoding import WEBSOCKET
from gateway.delivery.ring_buffer import PACKED_SLOT_BYTES, SLOT_BYTES, Ring
from tests.gateway.client_helpers import receive, serials, websocket
from tests.gateway.conftest import Start
from tests.gateway.inflater import Inflater
from tests.gateway.publishing import Press
from tests.waiting import until

CODEC = Codec()


def packed(messages: list[bytes]) -> PackedMessages:
    return PackedMessages(CODEC, "zstd", CODEC.pack(messages), len(messages))


def texts_after(ring: Ring, cursor: Cursor) -> list[bytes]:
    data, position, _ = ring.read_from_cursor(cursor, WEBSOCKET)
    while position is not ring.head:
        piece, position = ring.read(position, WEBSOCKET, 1)
        data += piece
    return Inflater().feed(data)


@given(
    sizes=st.lists(
        st.lists(st.sampled_from((1, 10, SLOT_BYTES, PACKED_SLOT_BYTES)), min_size=1, max_size=9),
        min_size=1,
        max_size=5,
    ),
    data=st.data(),
)
def test_a_packed_ring_reads_as_an_unpacked_one(
    sizes: list[list[int]], data: st.DataObject
) -> None:
    rings = Ring("lite", 1 << 30), Ring("lite", 1 << 30)
    for number, batch in enumerate(sizes, 1):
        messages = [b'{"n":%d,"pad":"%b"}' % (n, b"x" * size) for n, size in enumerate(batch)]
        entry, prev = f"{number}-0", f"{number - 1}-0"
        rings[0].append(entry, prev, messages)
        rings[1].append(entry, prev, packed(messages))
    assert rings[0].head.cursor == rings[1].head.cursor
    assert rings[0].head.total == rings[1].head.total
    assert abs(rings[0].size - rings[1].size) <= sum(map(len, sizes)) + 9 * len(sizes)
    number = data.draw(st.integers(1, len(sizes)))
    position = data.draw(st.integers(0, len(sizes[number - 1]) - 1))
    cursor = parse_cursor(f"{number}-0-{position}")
    assert texts_after(rings[0], cursor) == texts_after(rings[1], cursor)
    assert rings[0].latest(4) == rings[1].latest(4)


@pytest.mark.parametrize(
    ("size", "slots"), [(3 * PACKED_SLOT_BYTES, 4), (PACKED_SLOT_BYTES // 2 - 9, 2), (9, 1)]
)
def test_packed_messages_are_cut_by_their_mean_size(size: int, slots: int) -> None:
    ring = Ring("lite", 1 << 30)
    ring.append("1-0", "0-0", packed([b"m" * size] * 4))
    parts = list(ring.slots_from(0))
    assert [len(part.messages) for part in parts] == [4 // slots] * slots
    for part in parts:
        assert 0 <= part.text_bytes - 4 // slots * size <= 4  # and what separates messages


def test_a_client_that_resumes_unpacks_what_it_reads_alone() -> None:
    batches = [packed([b'{"n":1}'] * 3) for _ in range(9)]
    ring = Ring("lite", 1 << 30)
    for number, batch in enumerate(batches, 1):
        ring.append(f"{number}-0", f"{number - 1}-0", batch)
    assert not any(batch.is_unpacked for batch in batches)
    texts_after(ring, parse_cursor("6-0-1"))
    assert [batch.is_unpacked for batch in batches] == [False] * 5 + [True] * 4
    ring.latest(1)
    assert not batches[4].is_unpacked


@pytest.mark.parametrize("count", [2, 4])
def test_a_batch_with_another_number_of_messages_is_a_gap(count: int) -> None:
    counted: list[int] = []
    ring = Ring("lite", 1 << 30, on_unreadable=lambda: counted.append(1))
    ring.append("1-0", "0-0", [b'{"n":0}'])
    blob = CODEC.pack([b'{"n":1}'] * 3)
    ring.append("2-0", "1-0", PackedMessages(CODEC, "zstd", blob, count))
    ring.append("3-0", "2-0", [b'{"n":2}'])
    first, gap, last = map(json.loads, texts_after(ring, parse_cursor("0")))
    assert (first["n"], last["n"]) == (0, 2)
    assert gap["message_type"] == "gap"
    assert gap["data"]["requested"] == "1-0"
    assert gap["data"]["oldest"] == "2-0"
    assert f"has 3 messages instead of {count}" in gap["data"]["reason"]
    assert counted == [1]
    assert [number for number, _ in ring.latest(9)] == ["3-0-0", "1-0-0"]


def test_a_damaged_batch_is_a_gap() -> None:
    ring = Ring("lite", 1 << 30)
    blob = CODEC.pack([b'{"n":1}'] * 300)
    ring.append("1-0", "0-0", PackedMessages(CODEC, "zstd", blob[:-3], 300))
    (gap,) = map(json.loads, texts_after(ring, parse_cursor("0")))
    assert "damaged zstd frame" in gap["data"]["reason"]


@pytest.mark.parametrize(("name", "blob"), [("zstd", b"no frame"), ("lz9", b""), ("zstd", b"")])
def test_what_the_first_bytes_show_is_found_at_once(name: str, blob: bytes) -> None:
    with pytest.raises(UndecodableBatch):
        PackedMessages(CODEC, name, blob, 1)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_an_impossible_number_of_messages_is_found_at_once(count: int) -> None:
    with pytest.raises(UndecodableBatch, match=f"has {count} messages"):
        PackedMessages(CODEC, "zstd", CODEC.pack([b"{}"]), count)


async def test_a_gateway_unpacks_the_streams_that_have_clients(
    start: Start, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[int] = []
    unpack = Codec.unpack

    def counting(codec: Codec, name: str, blob: bytes) -> list[bytes]:
        unpacked.append(len(blob))
        return unpack(codec, name, blob)

    appended: list[str] = []
    append = Ring.append

    def noting(ring: Ring, entry: str, prev: str, messages: Sequence[bytes]) -> None:
        append(ring, entry, prev, messages)
        appended.append(entry)

    monkeypatch.setattr(Codec, "unpack", counting)
    monkeypatch.setattr(Ring, "append", noting)
    gateway = await (await start(Settings(api=True, stop_timeout=1))).following()
    for _ in range(20):
        await press.print(4)
    await until(lambda: len(appended) == 60)
    assert not unpacked
    async with httpx.AsyncClient() as http:
        latest = await http.get(f"{gateway.ws.replace('ws', 'http', 1)}/latest.json")
        assert serials(latest.json()["messages"]) == list(range(79, 54, -1))
    assert len(unpacked) == 7
    async with websocket(f"{gateway.ws}/domains-only") as client:
        await press.print(4)
        await receive(client, 1)
    assert len(unpacked) == 8
