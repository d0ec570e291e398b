"""The issuers of a static-ct log: fetched once, checked against their fingerprint, kept bounded.

An entry of a data tile names its issuers by SHA-256. A log has a few hundred of them, so they are
fetched when first seen and stay; what another log or another worker has fetched is on a shelf in
Redis. Only issuers that none of the last `RECENT` windows named are
ever dropped: what a follower still has to publish can always be resolved. A log that names more
than any real one would is not followed into it: `WINDOW` bounds what one tile makes us ask for,
`CAPACITY` what is kept.
"""

import asyncio
import hashlib
import random
from collections.abc import Iterable
from functools import partial

import msgspec

from certbus.issuers import IssuerShelf
from ctparse.static_ct import fingerprints
from ingestor.ctclient.errors import BadAnswer, Lie
from ingestor.ctclient.fetch import Fetcher
from ingestor.outage import Patience

CAPACITY = 4096
# Two for each entry of a full tile; real ones name a few dozen.
WINDOW = 512
# More windows than a follower ever has in flight.
RECENT = 256
_MAX_ISSUER = 64 << 10
# More would wait for their turns only, while others put the same on the shelf.
_CONCURRENCY = 4


class Shelf(msgspec.Struct, frozen=True):
    """Where the issuers are that others have fetched.

    Attributes:
        issuers: them.
        patience: what to do while Redis is away.
    """

    issuers: IssuerShelf
    patience: Patience


class Issuers:
    """Issuers of one log.

    Args:
        base: the monitoring prefix without a slash at the end.
        fetcher: bound to the log.
        shelf: what others have fetched.
    """

    def __init__(self, base: str, fetcher: Fetcher, shelf: Shelf | None = None) -> None:
        self._base = base
        self._fetcher = fetcher
        self._shelf = shelf
        self._certificates: dict[bytes, bytes] = {}
        self._used: dict[bytes, int] = {}  # fingerprint -> number of the last window that named it
        self._window = 0
        self._lock = asyncio.Lock()  # two windows that lack the same issuer fetch it once

    async def ensure(self, chains: Iterable[bytes]) -> None:
        """Have every issuer of these chains at hand.

        Args:
            chains: `Entry.chain` of a window's entries.

        Raises:
            LogError: an issuer cannot be fetched, or is not the one it should be, or there are
                too many.
        """
        wanted = {fingerprint for chain in chains for fingerprint in fingerprints(chain)}
        self._window += 1
        if len(wanted) > WINDOW:
            raise self._too_many(f"entries name {len(wanted):,} issuers, more than {WINDOW:,}")
        self._used.update(dict.fromkeys(wanted, self._window))
        if wanted <= self._certificates.keys():
            return
        async with self._lock:
            self._drop_unused()
            if len(self._used) > CAPACITY:
                problem = f"the last {RECENT} windows name {len(self._used):,} issuers"
                raise self._too_many(f"{problem}; {CAPACITY:,} are kept")
            gate = asyncio.Semaphore(_CONCURRENCY)
            lacking = list(wanted - self._certificates.keys())
            random.shuffle(lacking)  # so that logs which lack the same do not fetch the same first
            fetching = [asyncio.create_task(self._fetch(each, gate)) for each in lacking]
            # No TaskGroup: until Python 3.12, one in which a task has failed may take the caller's
            # cancellation for its own, and swallow it.
            try:
                await asyncio.gather(*fetching)
            finally:
                for task in fetching:
                    task.cancel()
                await asyncio.gather(*fetching, return_exceptions=True)

    def certificates(self, chain: bytes) -> list[bytes]:
        """The DER certificates of a chain that `ensure` was given lately, issuer first."""
        return [self._certificates[fingerprint] for fingerprint in fingerprints(chain)]

    def _too_many(self, problem: str) -> BadAnswer:
        return BadAnswer(self._fetcher.log, f"{self._base}/issuer/", problem)

    async def _fetch(self, fingerprint: bytes, gate: asyncio.Semaphore) -> None:
        url = f"{self._base}/issuer/{fingerprint.hex()}"
        async with gate:
            # Logs of one operator lack the same ones at the same time: perhaps no more.
            if self._shelf is not None:
                ask = partial(self._shelf.issuers.get, [fingerprint])
                if found_there := await self._shelf.patience(ask):
                    self._certificates.update(found_there)
                    return
            certificate = await self._fetcher.get(url, _MAX_ISSUER)
        found = hashlib.sha256(certificate).hexdigest()
        if found != fingerprint.hex():
            problem = f"another certificate, with SHA-256 {found}"
            if _is_whole(certificate):
                raise Lie(self._fetcher.log, url, "wrong_issuer", problem)
            raise BadAnswer(self._fetcher.log, url, problem)
        self._certificates[fingerprint] = certificate
        if self._shelf is not None:
            put = partial(self._shelf.issuers.put, fingerprint, certificate)
            await self._shelf.patience(put)

    def _drop_unused(self) -> None:
        if len(self._used) <= CAPACITY:
            return
        oldest = self._window - RECENT
        self._used = {key: window for key, window in self._used.items() if window > oldest}
        self._certificates = {
            key: der for key, der in self._certificates.items() if key in self._used
        }


def _is_whole(der: bytes) -> bool:
    """Whether it could be a certificate, not a page, and not one cut short: a SEQUENCE, whole."""
    return der[:2] == b"\x30\x82" and int.from_bytes(der[2:4]) == len(der) - 4
