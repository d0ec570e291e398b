"""What a follower needs of a log, whichever API the log speaks."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ctparse.entry import Entry, Rejected
from ctparse.tree_head import TreeHead
from ingestor.client.errors import LogError


class Inclusion(msgspec.Struct, frozen=True):
    """What a log says to prove that it has a leaf; not verified.

    Attributes:
        leaf: hash of the leaf.
        path: its audit path, from the leaf up.
    """

    leaf: bytes
    path: list[bytes]


class LogClient(Protocol):
    """One log. Every method that asks the log raises `errors.LogError`."""

    @property
    def tile(self) -> int | None:
        """Entries come in fixed groups of this many, so windows should begin and end on them."""

    async def tree_head(self) -> TreeHead:
        """The log's newest tree head."""

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        """Entries from `start`, at least one and at most to `end` (exclusive).

        A log may return fewer than it is asked for; the caller asks again for the rest. `end`
        must not exceed the size of a tree head the log has shown.
        """

    async def inclusion(self, index: int, size: int, leaf: bytes | None = None) -> Inclusion:
        """Ask for the proof that a leaf is in the tree of that size.

        Args:
            index: of the leaf, below `size`.
            size: of a tree whose head the log has shown.
            leaf: its hash, if it is known.
        """

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """Ask for the proof that the tree of size `second` continues that of size `first`."""

    def entry_url(self, index: int) -> str:
        """The URL at which anyone can read the entry (`cert_link`)."""

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        """The issuers' DER, issuer first, for `Entry.chain` of an entry returned lately."""

    @property
    def missing_issuers(self) -> int:
        """How many issuers entries name that the log does not serve."""

    def lacking(self) -> Sequence[LogError]:
        """What is not available beside the entries returned lately: each error once."""
