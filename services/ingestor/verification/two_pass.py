"""A log that gives no proofs, read twice: once to see that its root confirms it, once to publish.

Without proofs, entries are proven only by all of them leading to the root of a tree head. A backlog
is more than can be held until its end is reached, but not the hashes of its leaves: 32 bytes each.

    first time    entries are hashed and dropped, up to the tree head: is it the right root?
    second time   each entry is what it was: publish it
"""

from collections.abc import Sequence
from typing import Literal

from ctparse.merkle import HASH_BYTES, Frontier
from ctparse.tree_head import TreeHead

MOST = 1 << 20
"""Entries of a survey: 32 MiB of hashes."""


class TwoPassCheck:
    """The leaves from a frontier to a tree head.

    Args:
        frontier: where it begins.
        target: where it ends, with more leaves.

    Attributes:
        target: the tree head.
    """

    def __init__(self, frontier: Frontier, target: TreeHead) -> None:
        self.target = target
        self._start = frontier.size
        self._frontier = frontier.copy()
        self._leaves = bytearray()

    @property
    def state(self) -> Literal["open", "right", "wrong"]:
        """Open before the tree head is reached; then, whether its root is the right one."""
        if self._frontier.size < self.target.size:
            return "open"
        return "right" if self._frontier.root() == self.target.root else "wrong"

    def read(self, first: int, leaves: Sequence[bytes]) -> None:
        """Add what is new of consecutive leaves; after an interruption some were seen before.

        Args:
            first: index of the first one, not beyond those seen.
            leaves: hash of each.
        """
        unseen = leaves[self._frontier.size - first :]
        self._frontier.extend(unseen)
        self._leaves += b"".join(unseen)

    def mismatch(self, first: int, leaves: Sequence[bytes]) -> int | None:
        """Index of the first of consecutive leaves that is not what it was; None if all are."""
        at = (first - self._start) * HASH_BYTES
        for index, leaf in enumerate(leaves, first):
            if self._leaves[at : at + HASH_BYTES] != leaf:
                return index
            at += HASH_BYTES
        return None
