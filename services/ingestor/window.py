"""A window: consecutive entries of one log, as fetched and as verified. Values, no I/O."""

from collections.abc import Sequence

import msgspec

from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead
from ctparse.v2_message import UNVERIFIED, Verification


class Window(msgspec.Struct, frozen=True):
    """Consecutive entries as the log returned them.

    Attributes:
        first: log index of `entries[0]`.
        entries: the entry at log index `first + k` is `entries[k]`.
    """

    first: int
    entries: list[Entry | Rejected]


class VerifiedWindow(msgspec.Struct, frozen=True):
    """A window that may be published.

    `leaf_hashes`, `frontier_before` and `frontier_after` are set only if the entries are proven to
    be in the tree of `tree_head`. Without them the operator has chosen to publish unproven entries.

    Attributes:
        first: log index of `entries[0]`.
        entries: those of the window; a forged precertificate is replaced by a `Rejected`.
        tree_head: covers the entries.
        leaf_hashes: hash of each entry's leaf.
        frontier_before: of all leaves before `first`; never modified.
        frontier_after: of all leaves up to the last entry; never modified.
        verification: of all its entries.
    """

    first: int
    entries: list[Entry | Rejected]
    tree_head: TreeHead
    leaf_hashes: Sequence[bytes] = ()
    frontier_before: Frontier | None = None
    frontier_after: Frontier | None = None
    verification: Verification = UNVERIFIED
