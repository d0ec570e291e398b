"""Entries against the tree head: a frontier, extended by their leaf hashes, must lead to its root.

No I/O. Consecutive windows extend a copy of the frontier. Three ways to prove them:

    at the tree head    the frontier's root is the root of the tree head
    before it           the inclusion proof of the last leaf leads to the root, and its left
                        siblings are the frontier's own hashes: everything before that leaf is in
                        the tree too (`verify_prefix_inclusion`)
    without any proof   all entries up to the tree head are read twice (`TwoPassCheck`)
"""

from collections.abc import Sequence
from typing import Literal

from ctparse.entry import Entry, Rejected
from ctparse.merkle import HASH_BYTES, Frontier, leaf_hash
from ctparse.static_ct import without_extensions
from ctparse.tree_head import TreeHead
from ingestor.window import Window

MAX_TWO_PASS_ENTRIES = 1 << 20
"""Entries that a `TwoPassCheck` may cover: their hashes take 32 MiB."""


def leaf_hashes(entries: Sequence[Entry | Rejected]) -> list[bytes]:
    """Return the hash of each entry's leaf (RFC 6962, section 2.1)."""
    return [leaf_hash(entry.leaf) for entry in entries]


def bare_leaf_hashes(entries: Sequence[Entry | Rejected]) -> list[bytes]:
    """Return the hash of each entry's leaf without extensions.

    A data tile may have a `leaf_index` extension that the leaf in the log's tree lacks.
    """
    return [leaf_hash(without_extensions(entry.leaf)) for entry in entries]


def extended_frontiers(frontier: Frontier, hashes: Sequence[Sequence[bytes]]) -> list[Frontier]:
    """Return the frontier after each window.

    Args:
        frontier: of all leaves before the first window; not modified.
        hashes: leaf hashes of consecutive windows.
    """
    frontiers = []
    for each in hashes:
        frontier = frontier.copy()
        frontier.extend(each)
        frontiers.append(frontier)
    return frontiers


def first_unparsed(window: Window) -> Rejected | None:
    """Return the first entry of a window whose leaf is unknown, or None."""
    for entry in window.entries:
        if isinstance(entry, Rejected) and not entry.leaf:
            return entry
    return None


def split_at_unparsed(run: Sequence[Window]) -> list[list[Window]]:
    """Split consecutive windows before the first entry whose leaf is unknown.

    Nothing proves such an entry. The entries before it can be proven and need not wait.
    """
    for position, window in enumerate(run):
        entry = first_unparsed(window)
        if entry is None:
            continue
        at = entry.index - window.first
        before = [*run[:position], Window(window.first, window.entries[:at])]
        after = [Window(entry.index, window.entries[at:]), *run[position + 1 :]]
        return [part for part in (before if at else before[:-1], after) if part]
    return [list(run)]


def describe_rejected(run: Sequence[Window]) -> str:
    """Describe the first rejected entry, which may be why a proof fails; empty if there is none."""
    for window in run:
        for entry in window.entries:
            if isinstance(entry, Rejected):
                return f" (entry {entry.index}: {entry.reason})"
    return ""


def verify_prefix_inclusion(
    frontier: Frontier, last: bytes, leaf: bytes, path: Sequence[bytes], head: TreeHead
) -> bool:
    """Return whether an inclusion proof shows that all leaves of a frontier are in the tree.

    Args:
        frontier: of the tree's first leaves.
        last: hash of the last of these.
        leaf: hash of that leaf, as the log proved it.
        path: its audit path.
        head: of the tree.

    Raises:
        BadProof: the path does not lead to the root.
    """
    proven = Frontier.from_inclusion_proof(frontier.size, head.size, leaf, path, head.root)
    return leaf == last and proven.root() == frontier.root()


class TwoPassCheck:
    """The leaves from a frontier to a tree head, for a log that returns no proofs.

    Without proofs, only the root of a tree head proves entries, and only all of them together. A
    backlog is too large to hold until its end is reached; the hashes of its leaves are not.

        first pass     entries are hashed and dropped, up to the tree head; is the root right?
        second pass    each entry has the hash of the first pass: publish it

    Args:
        frontier: of the leaves before the first to check; not modified.
        target: the tree head to reach, with more leaves.

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
        """`open` before the tree head is reached; then, whether the root matches."""
        if self._frontier.size < self.target.size:
            return "open"
        return "right" if self._frontier.root() == self.target.root else "wrong"

    def read(self, first: int, leaves: Sequence[bytes]) -> None:
        """Add consecutive leaves; those read before an interruption are skipped.

        Args:
            first: index of the first one, at most the number of leaves read so far.
            leaves: hash of each.

        Raises:
            ValueError: leaves before the first one were not read.
        """
        if first > self._frontier.size:
            raise ValueError(f"leaf {first} does not follow leaf {self._frontier.size - 1}")
        unseen = leaves[self._frontier.size - first :]
        self._frontier.extend(unseen)
        self._leaves += b"".join(unseen)

    def mismatch(self, first: int, leaves: Sequence[bytes]) -> int | None:
        """Return the index of the first leaf that differs from the first pass, or None."""
        at = (first - self._start) * HASH_BYTES
        for index, leaf in enumerate(leaves, first):
            if self._leaves[at : at + HASH_BYTES] != leaf:
                return index
            at += HASH_BYTES
        return None
