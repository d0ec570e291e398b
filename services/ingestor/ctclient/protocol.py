"""What a follower needs of a log, whichever API the log speaks."""

from collections.abc import Sequence
from typing import Protocol

from ctparse.entry import Entry, Rejected
from ctparse.treehead import TreeHead


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

    def link(self, index: int) -> str:
        """The URL at which anyone can read the entry (`cert_link`)."""

    def chain(self, chain: bytes) -> Sequence[bytes]:
        """The issuers' DER, issuer first, for `Entry.chain` of an entry returned lately."""
