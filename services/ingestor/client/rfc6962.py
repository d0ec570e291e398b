"""A log that speaks RFC 6962: tree heads, entries and proofs (sections 4.3 to 4.8)."""

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from ctparse.entry import Entry, Malformed, Rejected
from ctparse.merkle import leaf_hash
from ctparse.rfc6962 import (
    chain_certificates,
    decode_consistency,
    decode_entries,
    decode_entry_and_proof,
    decode_proof_by_hash,
    decode_sth,
)
from ctparse.tree_head import TreeHead
from ingestor.client.errors import InvalidResponse, LogError, ResponseTooLarge
from ingestor.client.http import Fetcher
from ingestor.client.interface import Inclusion
from ingestor.client.throttle import Purpose
from ingestor.cpu import Cpu

T = TypeVar("T")

_MAX_STH = 64 << 10
_MAX_PROOF = 64 << 10
_MAX_ENTRY_AND_PROOF = 4 << 20
# An entry takes 5 to 8 KB as base64 in JSON. A window is allowed ten times that, up to what 2,048
# such entries take, and one entry alone more than any real chain needs: what exceeds it is given
# up, or it would stop the log.
_MAX_ENTRY = 64 << 10
_MIN_WINDOW = 4 << 20
_MAX_WINDOW = 16 << 20
MAX_ALONE = 16 << 20


class Rfc6962Log:
    """Implements `protocol.LogClient` for the API of RFC 6962.

    Args:
        base: the log's URL without a slash at the end.
        fetcher: bound to this log.
        cpu: shared by the logs of this process.
    """

    tile = None
    has_partial_tiles = False
    missing_issuers = 0

    def __init__(self, base: str, fetcher: Fetcher, cpu: Cpu | None = None) -> None:
        self._base = base
        self._cpu = cpu or Cpu()
        self._fetcher = fetcher

    async def tree_head(self) -> TreeHead:
        """Request get-sth."""
        url = f"{self._base}/ct/v1/get-sth"
        return await self._ask(url, _MAX_STH, decode_sth, Purpose.OTHER)

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        """Request get-entries for [start, end). One entry alone that is too large is rejected."""
        url = f"{self._base}/ct/v1/get-entries?start={start}&end={end - 1}"
        alone = end - start == 1
        limit = min(max((end - start) * _MAX_ENTRY, _MIN_WINDOW), _MAX_WINDOW)
        try:
            body = await self._fetcher.get_log(
                url, MAX_ALONE if alone else limit, purpose=Purpose.ENTRIES
            )
        except ResponseTooLarge:
            if not alone:
                raise
            return [Rejected(start, f"entry larger than {MAX_ALONE:,} bytes", b"")]
        try:
            # Entries after those requested may be beyond the tree head.
            entries = await self._cpu.run(len(body), decode_entries, body, start, end - start)
        except Malformed as error:
            raise InvalidResponse(self._fetcher.log, url, str(error)) from error
        if not entries:
            raise InvalidResponse(
                self._fetcher.log, url, "no entries, though the tree head covers them"
            )
        return entries

    async def inclusion(self, index: int, size: int, leaf: bytes | None = None) -> Inclusion:
        """Request get-proof-by-hash, and if that does not help get-entry-and-proof."""
        try:
            if leaf is None:
                (entry,) = await self.entries(index, index + 1)
                leaf = leaf_hash(entry.leaf)
            query = urlencode({"hash": b2a_base64(leaf, newline=False), "tree_size": size})
            url = f"{self._base}/ct/v1/get-proof-by-hash?{query}"
            found, path = await self._ask(url, _MAX_PROOF, decode_proof_by_hash)
        except LogError:
            pass
        else:
            if found == index:  # the same leaf may be in the log twice
                return Inclusion(leaf, path)
        url = f"{self._base}/ct/v1/get-entry-and-proof?leaf_index={index}&tree_size={size}"
        shown, path = await self._ask(url, _MAX_ENTRY_AND_PROOF, decode_entry_and_proof)
        return Inclusion(leaf_hash(shown), path)

    async def consistency(self, first: int, second: int) -> list[bytes]:
        """Request get-sth-consistency."""
        url = f"{self._base}/ct/v1/get-sth-consistency?first={first}&second={second}"
        return await self._ask(url, _MAX_PROOF, decode_consistency)

    async def _ask(
        self,
        url: str,
        limit: int,
        decode: Callable[[bytes], T],
        purpose: Purpose = Purpose.PROOF,
    ) -> T:
        body = await self._fetcher.get_log(url, limit, purpose=purpose)
        try:
            return decode(body)
        except Malformed as error:
            raise InvalidResponse(self._fetcher.log, url, str(error)) from error

    def entry_url(self, index: int) -> str:
        """A get-entries request for the one entry."""
        return f"{self._base}/ct/v1/get-entries?start={index}&end={index}"

    def issuer_chain(self, chain: bytes) -> Sequence[bytes]:
        """The entry carries its chain itself."""
        return chain_certificates(chain)

    def lacking(self) -> list[LogError]:
        """Nothing: entries carry all that belongs to them."""
        return []
