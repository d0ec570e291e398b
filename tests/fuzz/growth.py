"""Long inputs that repeat a part of themselves, and whether their time is linear in the length."""

import random
import time
from collections.abc import Callable, Sequence

MAX_BYTES = 64 * 1024
MAX_FACTOR = 6.0
"""Of the CPU time for four times the length: 4 is linear, 16 quadratic."""

_DOUBLINGS = 2
_MAX_STEP = MAX_FACTOR ** (1 / _DOUBLINGS)
_MIN_SECS = 0.002  # for the longest input; a shorter time is mostly noise
_CHARACTERS = (b" ", b"0", b"9", b".", b"*", b"(", b"[", b"{", b"-", b"\n", b"a", b"\x00", b"\xff")

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
    parents: list[tuple[int, bytes, bytes]] = []  # tag, and the contents before and after
    piece = data
    while (found := _elements(piece)) and chance.randrange(8):
        tag, contents = found[0]
        inner = _elements(contents) if tag & 0x20 or tag == 0x04 else []
        if not inner:
            break
        at = chance.randrange(len(inner))
        encoded = [_encode(*each) for each in inner]
        parents.append((tag, b"".join(encoded[:at]), b"".join(encoded[at + 1 :])))
        piece = encoded[at]
    if not chance.randrange(4):
        piece = chance.choice(tokens)

    def grown(size: int) -> bytes:
        contents = piece * max(1, size // len(piece))
        for tag, before, after in reversed(parents):
            contents = _encode(tag, before + contents + after)
        return contents

    return grown


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
    times: an input of which only some lengths are valid has one large step instead.

    Returns:
        What is wrong.
    """
    inputs = [grown(size >> halvings) for halvings in range(_DOUBLINGS + 1)]
    found: list[str] = []
    for attempt in range(3):
        secs: list[float] = []
        for data in inputs:
            secs.append(_cpu_secs(run, data, 3 if attempt else 1))
            if secs[0] < _MIN_SECS or (len(secs) > 1 and secs[-2] <= secs[-1] * _MAX_STEP):
                return None
        found.append(", ".join(f"{each * 1000:.2f}" for each in secs))
    lengths = ", ".join(f"{len(data):,}" for data in inputs)
    return f"CPU time is not linear: for {lengths} bytes, it is in ms {'; '.join(found)}"


def _cpu_secs(run: Callable[[bytes], None], data: bytes, times: int) -> float:
    """Return the least CPU time of some runs: what interrupts them only adds."""
    taken: list[float] = []
    for _ in range(times):
        began = time.thread_time()
        run(data)
        taken.append(time.thread_time() - began)
    return min(taken)
