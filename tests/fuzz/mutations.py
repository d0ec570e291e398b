"""Mutations of an input, drawn by a seed."""

import random
from collections.abc import Sequence

from tests.fuzz.growth import MAX_BYTES

NUMBERS = tuple(
    number.to_bytes(width, "big")
    for width in (1, 2, 3, 4, 8)
    for number in (0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)
)


def mutate(chance: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return one of the seeds after one to eight mutations.

    Args:
        chance: draws everything.
        seeds: inputs that the target accepts.
        tokens: pieces of the target's language.
    """
    data = bytearray(chance.choice(seeds))
    for _ in range(1 << chance.randrange(4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + (1 << chance.randrange(9)))
        match chance.randrange(9):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = data[at:end] * chance.randrange(1, 9)
            case 2:
                data[at:at] = chance.choice(tokens)
            case 3:
                token = chance.choice(tokens)
                data[at : at + len(token)] = token
            case 4:
                number = chance.choice(NUMBERS)
                data[at : at + len(number)] = number
            case 5:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 6 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 7:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at:end] = other[start : start + (1 << chance.randrange(9))]
            case _:
                del data[at:]
    return bytes(data[:MAX_BYTES])
