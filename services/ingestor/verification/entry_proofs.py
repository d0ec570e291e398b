"""Entries against the tree: a frontier grows by them, and has to lead to the root. Pure.

run       consecutive windows, hashed and added to a copy of the frontier
reached   the run ends where the tree does: the copy's root is the tree head's, or not
joined    the run ends before: the inclusion proof of its last leaf leads to the root, and its
          left siblings are the copy's own hashes, so what is before that leaf is in the tree too
publish   batch by batch, the frontier itself grows
"""

from collections.abc import Sequence

import msgspec

from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier, leaf_hash
from ctparse.tree_head import TreeHead
from ingestor.pipeline.prefetch import Window


class Growth(msgspec.Struct, frozen=True):
    """A window whose entries are proven, and the frontier they are to be added to.

    Attributes:
        frontier: of everything before what is published next; grows with each batch.
        leaves: hash of each entry of the window.
    """

    frontier: Frontier
    leaves: Sequence[bytes]

    def through(self, start: int, end: int) -> bytes:
        """Add the leaves [start, end) of the window; returns the frontier then, serialized."""
        self.frontier.extend(self.leaves[start:end])
        return self.frontier.to_bytes()


def leaves(entries: Sequence[Entry | Rejected]) -> list[bytes]:
    """Hash of each entry's leaf."""
    return [leaf_hash(entry.leaf) for entry in entries]


def grown(frontier: Frontier, windows: Sequence[Sequence[bytes]]) -> Frontier:
    """The frontier after these leaves."""
    frontier = frontier.copy()
    for window in windows:
        frontier.extend(window)
    return frontier


def unknown(window: Window) -> Rejected | None:
    """The first entry of a window whose leaf is not known."""
    for entry in window.entries:
        if isinstance(entry, Rejected) and not entry.leaf:
            return entry
    return None


def parts(run: Sequence[Window]) -> list[list[Window]]:
    """Consecutive windows, in two if a leaf among them is not known: it is proven by nothing.

    What is before it can be, and should not wait for it.
    """
    for position, window in enumerate(run):
        entry = unknown(window)
        if entry is None:
            continue
        at = entry.index - window.first
        before = [*run[:position], Window(window.first, window.entries[:at])]
        after = [Window(entry.index, window.entries[at:]), *run[position + 1 :]]
        return [part for part in (before if at else before[:-1], after) if part]
    return [list(run)]


def doubtful(run: Sequence[Window]) -> str:
    """Name an entry that is wrong by itself."""
    for window in run:
        for entry in window.entries:
            if isinstance(entry, Rejected):
                return f" (entry {entry.index}: {entry.reason})"
    return ""


def joined(
    frontier: Frontier, last: bytes, leaf: bytes, path: Sequence[bytes], head: TreeHead
) -> bool:
    """Whether an inclusion proof shows that all of a frontier is in the tree.

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
