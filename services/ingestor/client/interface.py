"""The interface of a log's client, for both APIs."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ctparse.entry import Entry, Rejected
from ctparse.tree_head import TreeHead
from ingestor.client.errors import LogError


class Inclusion(msgspec.Struct, frozen=True):
    """An inclusion proof as the log returned it; not verified.

    Attributes:
        leaf: hash of the leaf.
        path: its audit path, from the leaf up.
    """

    leaf: bytes
    path: list[bytes]


class LogClient(Protocol):
    """Reads one log. Every method that sends a request raises `errors.LogError`."""

    @property
    def tile(self) -> int | None:
        """Size of the log's tiles, at which windows should begin and end; None without tiles."""

    @property
    def has_partial_tiles(self) -> bool:
        """Whether `entries` returns all that is requested, if that is in one tile."""

    async def tree_head(self) -> TreeHead:
        """Return the log's newest tree head."""

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        """Return entries from `start`, at least one and at most to `end` (exclusive).

        A log may return fewer than requested; the caller requests the rest. `end` must not
        exceed the size of a tree head that the log has shown.
        """

    async def inclusion(self, index: int, size: int, leaf: bytes | None = None) -> Inclusion:
        """Return the proof that a leaf is in the tree of that size.

        Args:
            index: of the leaf, below `size`.
            size: of a tree whose head the log has shown.
            leaf: its hash, if it is known.
        """

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the tree of size `second` continues that of size `first`."""

    def entry_url(self, index: int) -> str:
        """Return the public URL of the entry (`cert_link`)."""

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        """Return the issuers' DER, issuer first, for the `chain` of a recently returned entry."""

    @property
    def missing_issuers(self) -> int:
        """Number of issuers that entries name and the log does not serve."""

    def lacking(self) -> Sequence[LogError]:
        """Return why issuers of recently returned entries are missing: each error once."""
