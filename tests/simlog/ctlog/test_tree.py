"""The tree against RFC 6962 section 2.1 as it is written, and against the clients' own checks."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctparse import merkle
from simlog.ctlog.tree import Tree, leaf_hash, node_hash

LEAVES = [number.to_bytes(2) for number in range(600)]


def grown(size: int) -> Tree:
    tree = Tree()
    for leaf in LEAVES[:size]:
        tree.append(leaf_hash(leaf))
    return tree


TREE = grown(len(LEAVES))


def mth(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 599, 600])
def test_root_of_every_prefix_is_the_merkle_tree_hash(size: int) -> None:
    assert grown(size).root(size) == mth(LEAVES[:size])
    assert TREE.root(size) == mth(LEAVES[:size])


@given(st.data())
def test_inclusion_proofs_hold(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(LEAVES)))
    index = data.draw(st.integers(0, size - 1))
    proof = TREE.inclusion_proof(index, size)
    merkle.verify_inclusion(index, size, leaf_hash(LEAVES[index]), proof, TREE.root(size))


@given(st.data())
def test_consistency_proofs_hold(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, len(LEAVES)))
    first = data.draw(st.integers(1, second))
    proof = TREE.consistency_proof(first, second)
    merkle.verify_consistency(first, second, TREE.root(first), TREE.root(second), proof)


def test_index_finds_a_leaf_only_below_the_size() -> None:
    assert TREE.index(leaf_hash(LEAVES[417]), 600) == 417
    assert TREE.index(leaf_hash(LEAVES[417]), 418) == 417
    assert TREE.index(leaf_hash(LEAVES[417]), 417) is None


def test_index_does_not_find_hashes_across_two_leaves() -> None:
    across = (leaf_hash(LEAVES[3]) + leaf_hash(LEAVES[4]))[7:39]
    assert TREE.index(across, 600) is None


def test_a_hash_tile_above_holds_the_roots_of_full_tiles_below() -> None:
    level0 = TREE.tile(0, 1, 256)
    assert level0 == b"".join(map(leaf_hash, LEAVES[256:512]))
    level1 = TREE.tile(1, 0, 2)
    assert level1 == mth(LEAVES[:256]) + mth(LEAVES[256:512])
    assert node_hash(level1[:32], level1[32:]) == TREE.root(512)
