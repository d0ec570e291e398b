"""A log that speaks RFC 6962: get-sth and get-entries (sections 4.3 and 4.6)."""

from collections.abc import Sequence

from ctparse.entry import Entry, Malformed, Rejected
from ctparse.rfc6962 import chain_certificates, decode_entries, decode_sth
from ctparse.treehead import TreeHead
from ingestor.ctclient.errors import BadAnswer, TooLarge
from ingestor.ctclient.fetch import Fetcher

_MAX_STH = 64 << 10
# An entry takes 5 to 8 KB as base64 in JSON. A window is allowed ten times that, and one entry
# alone more than any real chain needs: what exceeds it is given up, or it would stop the log.
_MAX_ENTRY = 64 << 10
_MIN_WINDOW = 4 << 20
_MAX_WINDOW = 64 << 20
MAX_ALONE = 16 << 20


class Rfc6962Log:
    """Implements `protocol.LogClient` for the API of RFC 6962.

    Args:
        base: the log's URL without a slash at the end.
        fetcher: bound to this log.
    """

    tile = None

    def __init__(self, base: str, fetcher: Fetcher) -> None:
        self._base = base
        self._fetcher = fetcher

    async def tree_head(self) -> TreeHead:
        """Ask get-sth."""
        url = f"{self._base}/ct/v1/get-sth"
        body = await self._fetcher.get(url, _MAX_STH)
        try:
            return decode_sth(body)
        except Malformed as error:
            raise BadAnswer(self._fetcher.log, url, str(error)) from error

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        """Ask get-entries for [start, end). One entry alone that is too large is rejected."""
        url = f"{self._base}/ct/v1/get-entries?start={start}&end={end - 1}"
        alone = end - start == 1
        limit = min(max((end - start) * _MAX_ENTRY, _MIN_WINDOW), _MAX_WINDOW)
        try:
            body = await self._fetcher.get(url, MAX_ALONE if alone else limit)
        except TooLarge:
            if not alone:
                raise
            return [Rejected(start, f"entry larger than {MAX_ALONE:,} bytes", b"")]
        try:
            entries = decode_entries(body, start)
        except Malformed as error:
            raise BadAnswer(self._fetcher.log, url, str(error)) from error
        if not entries:
            raise BadAnswer(self._fetcher.log, url, "no entries, though the tree head covers them")
        # Nobody may slip in entries beyond the tree head that was shown.
        return entries[: end - start]

    def link(self, index: int) -> str:
        """A get-entries request for the one entry."""
        return f"{self._base}/ct/v1/get-entries?start={index}&end={index}"

    def chain(self, chain: bytes) -> Sequence[bytes]:
        """The entry carries its chain itself."""
        return chain_certificates(chain)
