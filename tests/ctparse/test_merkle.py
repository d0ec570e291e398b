"""The tree against its definition (RFC 6962 section 2.1), exhaustively for small trees."""

from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest

from ctparse.entry import Malformed
from ctparse.hash_tiles import HashTile, consistency_ranges, hash_of, inclusion_ranges, tiles_of
from ctparse.merkle import (
    EMPTY_ROOT,
    BadProof,
    Frontier,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

SIZES = range(1, 34)
LEAVES = [bytes((number,)) * number for number in range(max(SIZES))]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


def mth(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def proof(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    def subproof(m: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
        if m == len(leaves):
            return [] if whole else [mth(leaves)]
        k = split(len(leaves))
        if m <= k:
            return [*subproof(m, leaves[:k], whole=whole), mth(leaves[k:])]
        return [*subproof(m - k, leaves[k:], whole=False), mth(leaves[:k])]

    return subproof(m, leaves, whole=True)


def grown(size: int) -> Frontier:
    frontier = Frontier()
    for hashed in HASHES[:size]:
        frontier.append(hashed)
    return frontier


def assert_bad(check: Callable[..., object], *given: object) -> None:
    with pytest.raises(BadProof):
        check(*given)


class TestFrontier:
    def test_empty(self) -> None:
        assert Frontier().root() == EMPTY_ROOT == mth([])

    @pytest.mark.parametrize("size", SIZES)
    def test_root(self, size: int) -> None:
        assert grown(size).root() == mth(LEAVES[:size])

    @pytest.mark.parametrize("size", [0, *SIZES])
    def test_serialised_it_grows_on(self, size: int) -> None:
        restored = Frontier.from_bytes(grown(size).to_bytes())
        assert (restored.size, restored.root()) == (size, mth(LEAVES[:size]))
        restored.append(leaf_hash(b"next"))
        assert restored.root() == mth([*LEAVES[:size], b"next"])

    @pytest.mark.parametrize("tree_size", SIZES)
    def test_from_the_inclusion_proof_of_its_last_leaf(self, tree_size: int) -> None:
        leaves = LEAVES[:tree_size]
        for size in range(1, tree_size + 1):
            last = size - 1
            found = Frontier.from_inclusion_proof(
                size, tree_size, HASHES[last], path(last, leaves), mth(leaves)
            )
            assert found.to_bytes() == grown(size).to_bytes()

    def test_from_a_wrong_proof(self) -> None:
        right = path(6, LEAVES[:7])
        root = mth(LEAVES[:7])
        for size, hashed, given in [
            (7, HASHES[5], right),
            (7, HASHES[6], right[::-1]),
            (7, HASHES[6], right[:-1]),
            (7, HASHES[6], [*right, right[0]]),
            (8, HASHES[6], right),
            (6, HASHES[6], right),
            (0, HASHES[6], []),
        ]:
            with pytest.raises(BadProof):
                Frontier.from_inclusion_proof(size, 7, hashed, given, root)

    @pytest.mark.parametrize("data", [b"", bytes(7), bytes(9), (3).to_bytes(8) + bytes(32)])
    def test_from_other_bytes(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not the frontier"):
            Frontier.from_bytes(data)

    def test_a_copy_grows_independently(self) -> None:
        original = grown(5)
        original.copy().append(HASHES[5])
        assert original.to_bytes() == grown(5).to_bytes()


class TestInclusion:
    @pytest.mark.parametrize("size", SIZES)
    def test_every_leaf(self, size: int) -> None:
        leaves, root = LEAVES[:size], mth(LEAVES[:size])
        for index in range(size):
            audit = path(index, leaves)
            verify_inclusion(index, size, HASHES[index], audit, root)
            for other in {0, index - 1, index + 1, size, -1} - {index}:
                assert_bad(verify_inclusion, other, size, HASHES[index], audit, root)
            assert_bad(verify_inclusion, index, size, leaf_hash(b"?"), audit, root)
            assert_bad(verify_inclusion, index, size, HASHES[index], audit, bytes(32))
            assert_bad(verify_inclusion, index, size, HASHES[index], [*audit, root], root)
            if audit:
                assert_bad(verify_inclusion, index, size, HASHES[index], audit[:-1], root)
                wrong = [*audit[:-1], bytes(32)]
                assert_bad(verify_inclusion, index, size, HASHES[index], wrong, root)


class TestConsistency:
    @pytest.mark.parametrize("second", SIZES)
    def test_every_pair(self, second: int) -> None:
        new = mth(LEAVES[:second])
        for first in range(1, second + 1):
            old = mth(LEAVES[:first])
            given = proof(first, LEAVES[:second])
            verify_consistency(first, second, old, new, given)
            assert_bad(verify_consistency, first, second, bytes(32), new, given)
            assert_bad(verify_consistency, first, second, old, bytes(32), given)
            assert_bad(verify_consistency, first, second, old, new, [*given, new])
            if given:
                assert_bad(verify_consistency, first, second, old, new, given[:-1])
                assert_bad(verify_consistency, first, second, old, new, given[1:])
                assert_bad(verify_consistency, second, first, new, old, given)

    def test_from_the_empty_tree(self) -> None:
        verify_consistency(0, 3, EMPTY_ROOT, mth(LEAVES[:3]), [])
        verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
        assert_bad(verify_consistency, 0, 3, bytes(32), mth(LEAVES[:3]), [])
        assert_bad(verify_consistency, 0, 3, EMPTY_ROOT, mth(LEAVES[:3]), [HASHES[0]])
        assert_bad(verify_consistency, -1, 3, EMPTY_ROOT, mth(LEAVES[:3]), [])


class TestHashTiles:
    @pytest.mark.parametrize("size", SIZES)
    def test_proofs_are_those_of_the_definition(self, size: int) -> None:
        leaves = LEAVES[:size]
        tiles = {HashTile(0, 0, size): b"".join(HASHES[:size])}
        for index in range(size):
            ranges = inclusion_ranges(index, size)
            assert tiles_of(ranges, size) == tiles.keys()
            found = [hash_of(each, tiles) for each in ranges]
            assert found == [HASHES[index], *path(index, leaves)]
        for first in range(1, size + 1):
            found = [hash_of(each, tiles) for each in consistency_ranges(first, size)]
            assert found == proof(first, leaves)

    def test_tiles_are_named_by_level_and_width(self) -> None:
        # The example of c2sp.org/tlog-tiles: 273 full tiles of level 0, and so on.
        assert tiles_of([range(70_000)], 70_000) == {
            HashTile(0, 273, 112),
            HashTile(1, 1, 17),
            HashTile(2, 0, 1),
        }

    def test_a_tile_that_is_too_short(self) -> None:
        with pytest.raises(Malformed, match="hash tile 0/0 ends before hash 4"):
            hash_of(range(4), {HashTile(0, 0, 4): bytes(100)})
