"""Proofs out of the hash tiles of a static-ct log (c2sp.org/tlog-tiles).

    proof -> ranges of leaves, one for each hash   (RFC 6962 sections 2.1.1 and 2.1.2)
    range -> perfect subtrees                       -> tiles that hold them
    tiles -> the hash of each range

A tile holds 256 hashes of one level in eight; the levels between are computed. The proofs
are only as correct as the tiles: the caller verifies them.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from ctparse.entry import Malformed
from ctparse.merkle import HASH_BYTES, Frontier, node_hash
from ctparse.static_ct import TILE_WIDTH

_TILE_HEIGHT = 8


class HashTile(msgspec.Struct, frozen=True):
    """Names a tile: level and index of it, and how many hashes it has in a tree of some size."""

    level: int
    n: int
    width: int


class _Subtree(msgspec.Struct, frozen=True):
    """A perfect subtree: 2 ** height leaves, the n-th of its height."""

    height: int
    n: int

    def place(self) -> tuple[int, int, int, int]:
        """Level and index of its tile; where in it its hashes begin and end."""
        level, above = divmod(self.height, _TILE_HEIGHT)
        n, start = divmod(self.n << above, TILE_WIDTH)
        return level, n, start, start + (1 << above)


def inclusion_ranges(index: int, size: int) -> list[range]:
    """The leaf itself, then the siblings of its audit path in a tree of that size, from it up."""
    start, end = 0, size
    ranges: list[range] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append(range(middle, end))
            end = middle
        else:
            ranges.append(range(start, middle))
            start = middle
    return [range(index, index + 1), *ranges[::-1]]


def consistency_ranges(first: int, second: int) -> list[range]:
    """The hashes that prove that a tree continues another one, in the order of the proof."""
    if first in {0, second}:
        return []
    start, end = 0, second
    ranges: list[range] = []
    # SUBPROOF of RFC 6962 section 2.1.2: down to where the first tree ends.
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            ranges.append(range(middle, end))
            end = middle
        else:
            ranges.append(range(start, middle))
            start = middle
    known = [range(start, end)] if start else []
    return [*known, *ranges[::-1]]


def tiles_of(ranges: Iterable[range], size: int) -> set[HashTile]:
    """The tiles of a tree of that size that hold what the hashes of these ranges are made of."""
    found = set()
    for subtree in (subtree for each in ranges for subtree in _subtrees(each)):
        level, n, _, _ = subtree.place()
        hashes = size >> (_TILE_HEIGHT * level)
        found.add(HashTile(level, n, min(TILE_WIDTH, hashes - n * TILE_WIDTH)))
    return found


def hash_of(leaves: range, tiles: Mapping[HashTile, bytes]) -> bytes:
    """The Merkle tree hash of a range, from the tiles that `tiles_of` named.

    Raises:
        Malformed: a tile is shorter than its name states.
    """
    by_place = {(tile.level, tile.n): body for tile, body in tiles.items()}
    roots = []
    for subtree in _subtrees(leaves):
        level, n, start, end = subtree.place()
        hashes = by_place[level, n][start * HASH_BYTES : end * HASH_BYTES]
        if len(hashes) != (end - start) * HASH_BYTES:
            raise Malformed(f"hash tile {level}/{n} ends before hash {end}")
        frontier = Frontier()
        frontier.extend(hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES))
        roots.append(frontier.root())
    *rest, root = roots
    for left in reversed(rest):
        root = node_hash(left, root)
    return root


def _split(size: int) -> int:
    """The largest power of two below."""
    return 1 << ((size - 1).bit_length() - 1)


def _subtrees(leaves: range) -> Iterator[_Subtree]:
    """What a range that begins where a subtree of at least its size does divides into."""
    at = leaves.start
    while at < leaves.stop:
        height = (leaves.stop - at).bit_length() - 1
        yield _Subtree(height, at >> height)
        at += 1 << height
