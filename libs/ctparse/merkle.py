"""The Merkle tree of a log (RFC 6962 section 2.1): hashes, the frontier, proofs.

A `Frontier` is all that is needed of a tree to append to it: the roots of the perfect
subtrees it divides into, one for each bit of its size, largest first. Appending a leaf costs one
hash more on average. (RFC 6962 calls none of this by a name; elsewhere it is a compact range.)

The proof checks are the algorithms of RFC 9162 sections 2.1.3.2 and 2.1.4.2, which hold for
RFC 6962 trees.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


class BadProof(ValueError):
    """A proof does not prove what it should. The text states what."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash a leaf: the serialized MerkleTreeLeaf."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """A tree that grows: its size, and the hashes that its root is made of.

    Attributes:
        size: number of leaves.
    """

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def append(self, leaf_hash: bytes) -> None:
        """Add the next leaf."""
        self.extend((leaf_hash,))

    def extend(self, leaf_hashes: Iterable[bytes]) -> None:
        """Add the next leaves."""
        hashes, size = self._hashes, self.size
        for each in leaf_hashes:
            node, complete = each, size
            while complete & 1:
                node = sha256(b"\1" + hashes.pop() + node).digest()
                complete >>= 1
            hashes.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """Compute the Merkle tree hash over all leaves so far."""
        if not self._hashes:
            return EMPTY_ROOT
        *rest, root = self._hashes
        for left in reversed(rest):
            root = node_hash(left, root)
        return root

    def copy(self) -> "Frontier":
        """Return a copy that grows independently."""
        return Frontier._of(self.size, self._hashes)

    def to_bytes(self) -> bytes:
        """Serialize: eight bytes of size, then the hashes, largest subtree first."""
        return self.size.to_bytes(8) + b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Frontier":
        """Restore what `to_bytes` made.

        Raises:
            ValueError: it did not make this.
        """
        size, hashes = int.from_bytes(data[:8]), data[8:]
        if len(data) < 8 or len(hashes) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"{len(data)} bytes are not the frontier of a tree of {size} leaves")
        return cls._of(
            size, [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
        )

    @classmethod
    def from_inclusion_proof(
        cls, size: int, tree_size: int, last_leaf_hash: bytes, proof: Sequence[bytes], root: bytes
    ) -> "Frontier":
        """Start in the middle of a log, from the inclusion proof of the last leaf before it.

        Args:
            size: of the frontier.
            tree_size: of the tree that the proof leads to, at least as large.
            last_leaf_hash: hash of leaf size - 1.
            proof: its audit path, from the leaf up.
            root: of that tree, from a tree head that has been verified.

        Raises:
            BadProof: it does not lead to this root.
        """
        frontier = cls.before_leaf(size - 1, tree_size, last_leaf_hash, proof, root)
        frontier.append(last_leaf_hash)
        return frontier

    @classmethod
    def before_leaf(
        cls, index: int, tree_size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes
    ) -> "Frontier":
        """Start in the middle of a log, from the inclusion proof of the first leaf after it.

        The left siblings on the way up from a leaf are just the frontier of the leaves before it;
        the right ones only lead to the root.

        Args:
            index: of the leaf; the size of the frontier.
            tree_size: of the tree that the proof leads to, larger.
            leaf_hash: hash of the leaf.
            proof: its audit path, from the leaf up.
            root: of that tree, from a tree head that has been verified.

        Raises:
            BadProof: it does not lead to this root.
        """
        return cls._of(index, verify_inclusion(index, tree_size, leaf_hash, proof, root)[::-1])

    @classmethod
    def _of(cls, size: int, hashes: Sequence[bytes]) -> "Frontier":
        frontier = cls()
        frontier.size = size
        frontier._hashes = list(hashes)
        return frontier


def verify_inclusion(
    index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes
) -> list[bytes]:
    """Check an audit path (RFC 6962 section 2.1.1): leaf `index` is in the tree with this root.

    Returns:
        The siblings to the left of the path, from the leaf up.

    Raises:
        BadProof: the path does not show it.
    """
    what = f"inclusion proof of leaf {index} in {size}"
    if not 0 <= index < size:
        raise BadProof(f"{what}: there is no such leaf")
    _, found, lefts = _climb(index, size - 1, leaf_hash, proof, what)
    if found != root:
        raise BadProof(f"{what} leads to another root")
    return lefts


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof (RFC 6962 section 2.1.2): the second tree continues the first.

    Raises:
        BadProof: the proof does not show it.
    """
    what = f"consistency proof from {first} to {second}"
    if not 0 <= first <= second:
        raise BadProof(f"{what}: a tree does not shrink")
    if first in {0, second}:
        if proof or first_root != (second_root if first else EMPTY_ROOT):
            raise BadProof(f"{what}: the roots have to do without hashes")
        return
    if first.bit_count() == 1:  # the first tree is itself a node of the second
        proof = [first_root, *proof]
    if not proof:
        raise BadProof(f"{what} is empty")
    node, last = first - 1, second - 1
    while node & 1:
        node >>= 1
        last >>= 1
    if _climb(node, last, proof[0], proof[1:], what)[:2] != (first_root, second_root):
        raise BadProof(f"{what} leads to other roots")


def _climb(
    node: int, last: int, seed: bytes, siblings: Sequence[bytes], what: str
) -> tuple[bytes, bytes, list[bytes]]:
    """Go up from a node to the root (RFC 9162 sections 2.1.3.2 and 2.1.4.2).

    Args:
        node: position of the seed in its level.
        last: position of that level's last node.
        seed: hash of the node.
        siblings: hashes from there up.
        what: names the proof in errors.

    Returns:
        The root of the tree that ends with this node, that of the whole tree, and the siblings to
        the left, from the seed up.
    """
    old = new = seed
    lefts = []
    for sibling in siblings:
        if last == 0:
            raise BadProof(f"{what} is too long")
        if node & 1 or node == last:
            lefts.append(sibling)
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise BadProof(f"{what} is too short")
    return old, new, lefts
