"""Long inputs that repeat a part of themselves, and whether their time is linear in the length."""

import random
import time
from collections.abc import Callable, Iterator, Sequence

MAX_BYTES = 64 * 1024
MAX_FACTOR = 6.0
"""Of the CPU time for four times the length: 4 is linear, 16 quadratic."""

_ROUNDS = 5
_MAX_STEP = MAX_FACTOR**0.5
_MIN_INCREASE = 1.25  # from the third quarter to the fourth: 1 is linear, 1.4 quadratic
_MIN_SECS = 0.002  # for the longest input; a shorter time is mostly noise
_CHARACTERS = (b" ", b"0", b"9", b".", b"*", b"(", b"[", b"{", b"-", b"\n", b"a", b"\x00", b"\xff")

_MAX_DEPTH = 20
_Parent = tuple[int, bytes, bytes]
"""The tag of an element, and its contents before and after another element."""

Grown = Callable[[int], bytes]
"""Returns an input of about this number of bytes."""

Repeat = Callable[[random.Random, bytes, Sequence[bytes]], Grown]
"""Selects what an input repeats, given the input and the pieces of its language."""


def around(head: bytes, piece: bytes, tail: bytes = b"") -> Grown:
    """Repeat `piece` between `head` and `tail`."""
    return lambda size: head + piece * max(1, size // len(piece)) + tail


def repeat_slice(chance: random.Random, data: bytes, tokens: Sequence[bytes]) -> Grown:
    """Repeat a character, a piece of the language or a slice, at a random place."""
    at = chance.randrange(len(data) + 1)
    end = at
    match chance.randrange(3):
        case 0:
            piece = chance.choice(_CHARACTERS)
        case 1:
            piece = chance.choice(tokens)
        case _:
            end = min(len(data), at + (1 << chance.randrange(9)))
            piece = data[at:end] or b" "
    return around(data[:at], piece, data[end:])


def repeat_element(chance: random.Random, data: bytes, tokens: Sequence[bytes]) -> Grown:
    """Repeat an element of a DER value, or one of the tokens, with correct lengths around it."""
    parents, piece = chance.choice(list(_nested(data, ())))
    if not chance.randrange(4):
        piece = chance.choice(tokens)

    def grown(size: int) -> bytes:
        contents = piece * max(1, size // len(piece))
        for tag, before, after in reversed(parents):
            contents = _encode(tag, before + contents + after)
        return contents

    return grown


def _nested(
    piece: bytes, parents: tuple[_Parent, ...]
) -> Iterator[tuple[Sequence[_Parent], bytes]]:
    """Yield every element of a DER value, and what is around it."""
    yield parents, piece
    for tag, contents in _elements(piece)[:1]:
        inner = _elements(contents) if tag & 0x20 or tag == 0x04 else []
        encoded = [_encode(*each) for each in inner] if len(parents) < _MAX_DEPTH else []
        for at, element in enumerate(encoded):
            before, after = b"".join(encoded[:at]), b"".join(encoded[at + 1 :])
            yield from _nested(element, (*parents, (tag, before, after)))


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return tags and contents of consecutive elements; none if these are not DER."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(data) < at + 2 or data[at + 1] == 0x80 or data[at + 1] > 0x83:
            return []
        start, length = at + 2, data[at + 1]
        if length > 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[at + 2 : start], "big")
        if start + length > len(data):
            return []
        found.append((data[at], data[start : start + length]))
        at = start + length
    return found


def _encode(tag: int, contents: bytes) -> bytes:
    if len(contents) < 0x80:
        return bytes((tag, len(contents))) + contents
    length = len(contents).to_bytes(3, "big")
    return bytes((tag, 0x83)) + length + contents


def check_growth(run: Callable[[bytes], None], grown: Grown, size: int = MAX_BYTES) -> str | None:
    """Compare the CPU time for inputs of all, half and a quarter of `size` bytes.

    It is not linear if each doubling multiplies it by more than the root of `MAX_FACTOR`, three
    times. An input of which only some lengths are valid has one large step instead. One that costs
    more from some length on can have two; but then the last two quarters take the same time.

    Returns:
        What is wrong.
    """
    inputs = [grown(size * quarters // 4) for quarters in (1, 2, 3, 4)]
    longer = float("inf")
    for data in (inputs[3], inputs[1], inputs[0]):
        secs = _cpu_secs(run, data)
        if longer <= secs * _MAX_STEP or (data is inputs[3] and secs < _MIN_SECS):
            return None
        longer = secs
    found: list[str] = []
    for _ in range(3):
        rounds = [[_cpu_secs(run, data) for data in inputs] for _ in range(_ROUNDS)]
        first, middle, third, last = map(
            min, zip(*rounds, strict=True)
        )  # what interrupts only adds
        if (
            middle <= first * _MAX_STEP
            or last <= middle * _MAX_STEP
            or last - third <= (third - middle) * _MIN_INCREASE
        ):
            return None
        found.append(", ".join(f"{each * 1000:.2f}" for each in (first, middle, third, last)))
    lengths = ", ".join(f"{len(data):,}" for data in inputs)
    return f"CPU time is not linear: for {lengths} bytes, it is in ms {'; '.join(found)}"


def _cpu_secs(run: Callable[[bytes], None], data: bytes) -> float:
    began = time.thread_time()
    run(data)
    return time.thread_time() - began
