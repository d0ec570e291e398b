"""The Merkle tree of one log (RFC 6962 section 2.1), kept level by level.

Level h holds, packed, the hash of every complete subtree of 2^h leaves. So appending is two
hashes a leaf on average, any root or proof is a handful of look-ups, and a tile of the static-ct
API is a slice of level 8 x L.
"""

from hashlib import sha256

HASH = 32
TILE = 256


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf (RFC 6962 section 2.1)."""
    return sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node (RFC 6962 section 2.1)."""
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A tree that only grows. All hashes are 32 bytes; sizes and indexes count leaves."""

    def __init__(self) -> None:
        self._levels = [bytearray()]

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH

    def append(self, hash_of_leaf: bytes) -> None:
        """Add a leaf, and every subtree that it completes."""
        node = hash_of_leaf
        for height, level in enumerate(self._levels):
            level.extend(node)
            if len(level) // HASH % 2:
                return
            node = node_hash(bytes(level[-2 * HASH : -HASH]), node)
            if height + 1 == len(self._levels):
                self._levels.append(bytearray())

    def prefix(self, size: int) -> "Tree":
        """Copy the tree of the first `size` leaves, to grow independently."""
        tree = Tree()
        tree._levels = [
            level[: (size >> height) * HASH]
            for height, level in enumerate(self._levels)
            if height == 0 or size >> height
        ]
        return tree

    def leaf(self, index: int) -> bytes:
        """Hash of the leaf there."""
        return bytes(self._levels[0][index * HASH : (index + 1) * HASH])

    def root(self, size: int) -> bytes:
        """The Merkle Tree Hash of the first `size` leaves."""
        return self._hash(0, size) if size else sha256(b"").digest()

    def index(self, hash_of_leaf: bytes, size: int) -> int | None:
        """Return the first index of this leaf among the first `size` leaves, or None."""
        leaves = self._levels[0]
        at = -1
        while (at := leaves.find(hash_of_leaf, at + 1, size * HASH)) >= 0:
            if at % HASH == 0:
                return at // HASH
        return None

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """The audit path of a leaf in the tree of `size` leaves (RFC 6962 section 2.1.1)."""
        begin, end, path = 0, size, []
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(begin, middle))
                begin = middle
        return path[::-1]

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Proof that the tree of `second` leaves continues that of `first` (section 2.1.2)."""
        begin, end, proof = 0, second, []
        while end != first:
            middle = begin + _split(end - begin)
            if first <= middle:
                proof.append(self._hash(middle, end))
                end = middle
            else:
                proof.append(self._hash(begin, middle))
                begin = middle
        if begin:
            proof.append(self._hash(begin, end))
        return proof[::-1]

    def tile(self, level: int, n: int, width: int) -> bytes:
        """The first `width` hashes of the n-th tile at that level of tiles, which must exist."""
        begin = n * TILE * HASH
        return bytes(self._levels[8 * level][begin : begin + width * HASH])

    def _hash(self, begin: int, end: int) -> bytes:
        """The hash over leaves [begin, end), a range that the tree's splits lead to."""
        size = end - begin
        height = size.bit_length() - 1
        if size == 1 << height:
            at = (begin >> height) * HASH
            return bytes(self._levels[height][at : at + HASH])
        middle = begin + _split(size)
        return node_hash(self._hash(begin, middle), self._hash(middle, end))


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
