import msgspec
import pytest

from certbus.streams.codec import Codec, UndecodableBatch
from certbus.streams.events import Gap, StreamBatch, decode

FIELDS = {
    b"prev": b"5-0",
    b"log": b"ab",
    b"first": b"10",
    b"last": b"12",
    b"n": b"2",
    b"codec": b"none",
    b"m": b'{"a":1}\n{"b":2}',
}


def test_an_entry_becomes_a_batch() -> None:
    messages = [b'{"a":1}', b'{"b":2}']
    expected = StreamBatch("lite", "6-0", "5-0", "ab", 10, 12, messages)
    assert decode(Codec(), "lite", "6-0", FIELDS) == expected
    packed = {**FIELDS, b"codec": b"zstd", b"m": Codec("zstd").pack(messages)}
    assert decode(Codec(), "lite", "6-0", packed) == expected


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({b"n": b"3"}, "has 2 messages instead of 3"),
        ({b"first": b"ten"}, "invalid literal"),
        ({b"codec": b"brotli"}, "unknown codec 'brotli'"),
        ({b"codec": b"zstd"}, "damaged zstd frame"),
        ({b"prev": b"latest"}, "is not an entry id"),
        ({b"log": b"\xff"}, "can't decode"),
    ],
)
def test_a_strange_entry_is_undecodable(change: dict[bytes, bytes], complaint: str) -> None:
    with pytest.raises(UndecodableBatch, match=complaint):
        decode(Codec(), "lite", "6-0", {**FIELDS, **change})


@pytest.mark.parametrize("missing", FIELDS)
def test_an_entry_without_a_field_is_undecodable(missing: bytes) -> None:
    fields = {name: value for name, value in FIELDS.items() if name != missing}
    with pytest.raises(UndecodableBatch, match=f"has no field .*{missing.decode()}"):
        decode(Codec(), "lite", "6-0", fields)


def test_events_are_values() -> None:
    gap = Gap("lite", "1-0", "2-0", "no longer retained")
    assert gap == msgspec.structs.replace(gap)
