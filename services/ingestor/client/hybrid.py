"""A log that answers by RFC 6962 and also serves its full data tiles (`tree_size_source: get_sth`).

    tree head            get-sth
    entries              full data tiles; get-entries after the last full tile
    proofs               get-proof-by-hash, get-sth-consistency; else hash tiles

A data tile is one answer of 256 entries, which caches have; such logs answer get-entries with few
entries and late. They have no checkpoint and no partial data tiles.

A tile's leaf may have a `leaf_index` extension that the log's Merkle leaf lacks. This client
returns leaves as served; the verifier finds out which form the tree has.

Both ways return the same entries: the certificates of a chain from get-entries become issuers.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

from msgspec.structs import replace

from ctparse.entry import Entry, Rejected
from ctparse.rfc6962 import chain_certificates
from ctparse.tree_head import TreeHead
from ingestor.client.errors import LogError
from ingestor.client.http import Fetcher
from ingestor.client.interface import Inclusion
from ingestor.client.issuers import Issuers
from ingestor.client.rfc6962 import Rfc6962Log
from ingestor.client.static_ct import TILE, Identity, StaticCtLog
from ingestor.cpu import Cpu

# Tiles of which is remembered which entries get-entries returned: more than are in flight.
_MAX_TAILS = 8


class HybridLog:
    """Implements `interface.LogClient`.

    Args:
        base: the log's URL without a slash at the end; also its monitoring prefix.
        fetcher: bound to this log.
        issuers: issuers of this log.
        cpu: shared by the logs of this process.
    """

    tile = TILE
    has_partial_tiles = False

    def __init__(
        self, base: str, fetcher: Fetcher, issuers: Issuers, cpu: Cpu | None = None
    ) -> None:
        self._api = Rfc6962Log(base, fetcher, cpu)
        self._tiles = StaticCtLog(base, fetcher, issuers, Identity(), cpu, requires_index=False)
        self._issuers = issuers
        self._size = 0  # of the last tree head shown
        # Number of a tile -> a bit for each entry, set if get-entries returned it last.
        self._tails: dict[int, int] = {}

    async def tree_head(self) -> TreeHead:
        """Request get-sth."""
        head = await self._api.tree_head()
        self._size = head.size  # the next answer mends a wrong one
        self._tiles.note_size(head.size)
        return head

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        """Read the part of [start, end) that is in the tile of `start`."""
        number = start // TILE
        end = min(end, (number + 1) * TILE)
        if (number + 1) * TILE <= self._size:
            entries = await self._tiles.entries(start, end)
            if number in self._tails:
                self._tails[number] &= ~_bits(start, start + len(entries))
            return entries
        entries = self._with_issuers(await self._api.entries(start, end))
        await self._issuers.ensure({e.chain for e in entries if isinstance(e, Entry)})
        before = self._tails.pop(number, 0)
        self._tails[number] = before | _bits(start, start + len(entries))
        while len(self._tails) > _MAX_TAILS:
            del self._tails[next(iter(self._tails))]
        return entries

    def _with_issuers(self, entries: Iterable[Entry | Rejected]) -> list[Entry | Rejected]:
        """Return entries of get-entries in the form of a tile's: a chain is its fingerprints."""
        chains: dict[bytes, bytes] = {b"": b""}
        issuers: dict[bytes, bytes] = {}
        converted: list[Entry | Rejected] = []
        for entry in entries:
            if isinstance(entry, Rejected):
                converted.append(entry)
                continue
            if entry.chain not in chains:
                certificates = chain_certificates(entry.chain)
                digests = [sha256(certificate).digest() for certificate in certificates]
                issuers.update(zip(digests, certificates, strict=True))
                chains[entry.chain] = b"".join(digests)
            converted.append(replace(entry, chain=chains[entry.chain]))
        self._issuers.add(issuers)
        return converted

    async def inclusion(self, index: int, size: int, leaf: bytes | None = None) -> Inclusion:
        """Request the proof of RFC 6962; make it from hash tiles if the log refuses it."""
        try:
            return await self._api.inclusion(index, size, leaf)
        except LogError as refused:
            try:
                return await self._tiles.inclusion(index, size)
            except LogError:
                raise refused from None

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """Request the proof of RFC 6962; make it from hash tiles if the log refuses it."""
        try:
            return await self._api.consistency(first, second)
        except LogError as refused:
            try:
                return await self._tiles.consistency(first, second)
            except LogError:
                raise refused from None

    def entry_url(self, index: int) -> str:
        """The URL that the entry was read from."""
        by_request = self._tails.get(index // TILE, 0) & _bits(index, index + 1)
        return self._api.entry_url(index) if by_request else self._tiles.entry_url(index)

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        """The issuers, fetched when the entry was.

        Raises:
            IncompleteChain: one of them is not available.
        """
        return self._tiles.issuer_chain(chain)

    @property
    def missing_issuers(self) -> int:
        """Those that chains end before."""
        return self._tiles.missing_issuers

    def lacking(self) -> Sequence[LogError]:
        """Why issuers are not available, each once."""
        return self._tiles.lacking()


def _bits(start: int, end: int) -> int:
    """Return the bits of the entries [start, end) in their tile."""
    return ((1 << (end - start)) - 1) << (start % TILE)
