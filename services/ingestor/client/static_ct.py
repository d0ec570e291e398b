"""A log that speaks the static-ct API: checkpoint, tiles, issuers (c2sp.org/static-ct-api).

A data tile holds 256 entries. The last one of a tree is partial and named by its width; a log may
drop it once the full tile is there, so a missing partial tile means: take the full one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec

from certtasks import together
from ctparse.entry import Entry, Malformed, Rejected
from ctparse.hash_tiles import HashTile, consistency_ranges, hash_of, inclusion_ranges, tiles_of
from ctparse.static_ct import decode_tile, parse_checkpoint, tile_path, tree_head
from ctparse.tree_head import TreeHead
from ingestor.client.errors import InvalidResponse, LogError, TileGone, UnexpectedStatus
from ingestor.client.http import Fetcher
from ingestor.client.interface import Inclusion
from ingestor.client.issuers import Issuers
from ingestor.client.throttle import Purpose
from ingestor.cpu import Cpu

TILE = 256
_MAX_CHECKPOINT = 64 << 10
_MAX_TILE = 64 << 20
_MAX_HASH_TILE = 256 * 32
# Hash tiles, of 8 KiB at most.
_MAX_KEPT = 64
# Object stores answer 403 to clients that may not list them.
_GONE = (403, 404, 410)


class Identity(msgspec.Struct, frozen=True):
    """What is known of who signs a log's checkpoints.

    Attributes:
        log_id: SHA-256 of the log's key: picks the log's own signature line.
        origin: first line of the checkpoint.
    """

    log_id: bytes | None = None
    origin: str | None = None


class StaticCtLog:
    """Implements `protocol.LogClient` for the static-ct API.

    Args:
        base: the monitoring prefix without a slash at the end.
        fetcher: bound to this log.
        issuers: issuers of this log.
        identity: identifies its checkpoints.
        cpu: shared by the logs of this process.
        requires_index: reject entries without the `leaf_index` extension.
    """

    tile = TILE
    has_partial_tiles = True

    def __init__(
        self,
        base: str,
        fetcher: Fetcher,
        issuers: Issuers,
        identity: Identity,
        cpu: Cpu | None = None,
        *,
        requires_index: bool = True,
    ) -> None:
        self._base = base
        self._fetcher = fetcher
        self._issuers = issuers
        self._identity = identity
        self._cpu = cpu or Cpu()
        self._decode = partial(decode_tile, requires_index=requires_index)
        self._kept: dict[HashTile, bytes] = {}
        self._size = 0  # of the last tree head shown

    async def tree_head(self) -> TreeHead:
        """Read the checkpoint."""
        url = f"{self._base}/checkpoint"
        body = await self._fetcher.get_log(url, _MAX_CHECKPOINT)
        identity = self._identity
        try:
            head = tree_head(parse_checkpoint(body), identity.log_id, identity.origin)
        except Malformed as error:
            raise InvalidResponse(self._fetcher.log, url, str(error)) from error
        self.note_size(head.size)
        return head

    def note_size(self, size: int) -> None:
        """Note the size of a tree head that the log has shown: which tiles are full."""
        self._kept.clear()  # so that a wrong tile is not believed for longer than one attempt
        self._size = size  # it may be forged: the next one mends it

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        """Read the part of [start, end) that is in the tile of `start`, with its issuers."""
        number, offset = divmod(start, TILE)
        stop = min(end - number * TILE, TILE)
        is_full = (number + 1) * TILE <= self._size
        width = TILE if is_full else stop
        url, body = await self._tile("data", number, width, _MAX_TILE)
        try:
            entries = await self._cpu.run(len(body), self._decode, body, number * TILE)
        except Malformed as error:
            raise InvalidResponse(self._fetcher.log, url, str(error)) from error
        if len(entries) < width:
            problem = f"tile has {len(entries)} entries, but the tree head covers {width}"
            raise InvalidResponse(self._fetcher.log, url, problem)
        entries = entries[offset:stop]
        await self._issuers.ensure({e.chain for e in entries if isinstance(e, Entry)})
        return entries

    async def inclusion(
        self,
        index: int,
        size: int,
        leaf: bytes | None = None,  # noqa: ARG002  (tiles are found by index)
    ) -> Inclusion:
        """Make the proof from hash tiles."""
        shown, *path = await self._hashes(inclusion_ranges(index, size), size)
        return Inclusion(shown, path)

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """Make the proof from hash tiles."""
        return await self._hashes(consistency_ranges(first, second), second)

    async def _hashes(self, ranges: list[range], size: int) -> list[bytes]:
        """The hashes of ranges of leaves, in a tree of that size."""
        needed = list(tiles_of(ranges, size))
        bodies = await together(map(self._hash_tile, needed))
        tiles = dict(zip(needed, bodies, strict=True))
        try:
            return [hash_of(each, tiles) for each in ranges]
        except Malformed as error:
            raise InvalidResponse(self._fetcher.log, f"{self._base}/tile", str(error)) from error

    async def _hash_tile(self, tile: HashTile) -> bytes:
        """Fetch a hash tile; those that all proofs in a tree need, the upper and the last, once."""
        body = self._kept.get(tile)
        if body is None:
            _, body = await self._tile(tile.level, tile.n, tile.width, _MAX_HASH_TILE)
            is_shared = tile.level > 0 or tile.width < TILE
            if is_shared and len(self._kept) < _MAX_KEPT:
                self._kept[tile] = body
        return body

    async def _tile(
        self, level: int | Literal["data"], number: int, width: int, limit: int
    ) -> tuple[str, bytes]:
        """Fetch a tile, or the full one that took its place; returns its URL and its bytes."""
        url = f"{self._base}/{tile_path(level, number, width)}"
        purpose = Purpose.ENTRIES if level == "data" else Purpose.PROOF
        try:
            return url, await self._fetcher.get_log(url, limit, purpose=purpose)
        except UnexpectedStatus as error:
            if width == TILE or error.status not in _GONE:
                raise
            partial = error
        url = f"{self._base}/{tile_path(level, number)}"
        try:
            return url, await self._fetcher.get_log(url, limit, purpose=purpose)
        except UnexpectedStatus as error:
            if error.status not in _GONE:
                raise
            raise TileGone(
                partial.log, partial.url, partial.problem, partial.status, partial.retry_after
            ) from error

    def entry_url(self, index: int) -> str:
        """The full tile that has the entry, or will have it."""
        return f"{self._base}/{tile_path('data', index // TILE)}"

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        """The issuers, fetched when the entry was.

        Raises:
            IncompleteChain: one of them is not available.
        """
        return self._issuers.certificates(chain)

    @property
    def missing_issuers(self) -> int:
        """Those that chains end before."""
        return self._issuers.missing

    def lacking(self) -> list[LogError]:
        """Why issuers are not available, each once."""
        return self._issuers.lacking()
