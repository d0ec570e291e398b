"""Every random choice of a world: bytes drawn from its seed.

Draws are addressed (label, number) instead of taken in sequence, so any part of a world can be
made on its own, in any order, as often as needed: nothing that can be drawn again is stored.
"""

from hashlib import shake_128
from io import BytesIO


def choose(seed: int, label: str, number: int, length: int) -> bytes:
    """Return the `length` random bytes of this address."""
    return shake_128(f"{seed}/{label}/{number}".encode()).digest(length)


def generator(seed: int, label: str, number: int, length: int) -> BytesIO:
    """Return the same bytes, to be read in portions."""
    return BytesIO(choose(seed, label, number, length))


def uniform(portion: bytes | memoryview) -> float:
    """Return a number in [0, 1) from four random bytes."""
    return int.from_bytes(portion) / (1 << 32)
