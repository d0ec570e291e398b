from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from certbus.streams.codec import MAX_MESSAGES, MAX_UNPACKED, Codec, Name, UndecodableBatch

LINES = st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), min_size=1)


@given(LINES, st.sampled_from(["none", "zstd"]))
def test_a_packed_batch_is_unpacked(messages: list[bytes], name: Name) -> None:
    assert Codec().unpack(name, Codec(name).pack(messages)) == messages


@given(LINES, st.sampled_from(["none", "zstd"]))
def test_each_message_is_picked_by_its_position(messages: list[bytes], name: Name) -> None:
    blob = Codec(name).pack(messages)
    assert [Codec().pick(name, blob, number) for number in range(len(messages))] == messages
    assert Codec().pick(name, blob, len(messages)) is None


def test_a_bomb_is_rejected_before_it_is_decompressed() -> None:
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (MAX_UNPACKED + 1))
    assert len(bomb) < 10_000
    with pytest.raises(UndecodableBatch, match=f"unpacks to {MAX_UNPACKED + 1} bytes"):
        Codec().unpack("zstd", bomb)


def test_a_frame_that_does_not_state_its_size_is_refused() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(UndecodableBatch, match="an unstated number of bytes"):
        Codec().unpack("zstd", compressor.compress(b"message"))


def test_a_frame_of_another_size_than_stated_is_rejected() -> None:
    frame = bytearray(Codec("zstd").pack([b"x" * 200]))
    size_at = 5 if frame[4] & 0x20 else 6  # RFC 8878 section 3.1.1.1: after the descriptor
    assert frame[size_at] == 200
    frame[size_at] = 100
    with pytest.raises(UndecodableBatch, match="damaged"):
        Codec().unpack("zstd", bytes(frame))


@given(st.binary(max_size=200))
def test_anything_else_is_an_error_or_lines(blob: bytes) -> None:
    for name in ("zstd", "none", "lz4"):
        try:
            lines = Codec().unpack(name, blob)
        except UndecodableBatch:
            continue
        assert all(b"\n" not in line for line in lines)


@given(st.data())
def test_a_changed_byte_never_crashes(data: st.DataObject) -> None:
    blob = bytearray(Codec("zstd").pack([b'{"all_domains":["a.example"]}'] * 20))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] = data.draw(st.integers(0, 255))
    with suppress(UndecodableBatch):
        assert Codec().unpack("zstd", bytes(blob))


@pytest.mark.parametrize("name", ["none", "zstd"])
def test_a_batch_of_newlines_is_refused_before_it_is_split(name: Name) -> None:
    codec = Codec(name)
    newlines = codec.pack([b""] * (MAX_MESSAGES + 1))
    with pytest.raises(UndecodableBatch, match=f"more than {MAX_MESSAGES} messages"):
        codec.unpack(name, newlines)
    assert len(codec.unpack(name, codec.pack([b""] * MAX_MESSAGES))) == MAX_MESSAGES


def test_a_batch_that_is_not_packed_is_bounded_as_well() -> None:
    with pytest.raises(UndecodableBatch, match=f"more than {MAX_UNPACKED}"):
        Codec("none").unpack("none", b"x" * (MAX_UNPACKED + 1))
