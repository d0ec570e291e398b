"""The issuers of a static-ct log: fetched once, checked against their fingerprint, kept bounded.

An entry of a data tile names its issuers by SHA-256. A log has a few hundred of them, so they are
fetched when first seen and kept; Redis holds those that another log or worker has fetched. Only
issuers that none of the last `RECENT` windows named are dropped: a follower can always resolve
what it still has to publish. `WINDOW` bounds the requests for one tile, `CAPACITY` what is kept.

An issuer that is not available stops no log: after `ATTEMPTS` failures (`OUTAGE_ATTEMPTS`, where
the log may be down), chains end before it. The ingestor requests it again after a minute, then
less and less often, while entries name it.
"""

import asyncio
import hashlib
import random
from collections.abc import Iterable, Mapping
from functools import partial

import httpx
import msgspec

from certbus.caches.issuers import IssuerCache
from certtasks import together
from ctparse.entry import IncompleteChain
from ctparse.static_ct import fingerprints
from ingestor.backoff import Backoff
from ingestor.client.errors import (
    ConnectionFailed,
    IntegrityViolation,
    InvalidResponse,
    LogError,
    Throttled,
    UnexpectedStatus,
)
from ingestor.client.http import Fetcher
from ingestor.redis_retry import RedisRetry

CAPACITY = 4096
# Two for each entry of a full tile; real ones name a few dozen.
WINDOW = 512
# More windows than a follower ever has in flight.
RECENT = 256
_MAX_ISSUER = 64 << 10
ATTEMPTS = 3
OUTAGE_ATTEMPTS = 10
_AGAIN = Backoff(60.0, 3600.0)
# More would wait for their turns only, while others put the same on the shelf.
_CONCURRENCY = 4


class IssuerStore(msgspec.Struct, frozen=True):
    """Where the issuers are that others have fetched.

    Attributes:
        issuers: them.
        redis_retry: what to do while Redis is away.
    """

    issuers: IssuerCache
    redis_retry: RedisRetry


class _Failure(msgspec.Struct, frozen=True):
    """Why an issuer is not available.

    Attributes:
        times: failed requests in a row.
        missing: whether entries are published without it.
        again: no request before, on the event loop's clock; once it is missing.
    """

    times: int = 0
    missing: bool = False
    again: float = 0.0


_NEVER = _Failure()


class Issuers:
    """Issuers of one log.

    Args:
        base: the monitoring prefix without a slash at the end.
        fetcher: bound to the log.
        shelf: what others have fetched.
    """

    def __init__(self, base: str, fetcher: Fetcher, shelf: IssuerStore | None = None) -> None:
        self._base = base
        self._fetcher = fetcher
        self._shelf = shelf
        self._certificates: dict[bytes, bytes] = {}
        self._used: dict[bytes, int] = {}  # fingerprint -> number of the last window that named it
        self._window = 0
        self._failures: dict[bytes, _Failure] = {}
        self._lacking: list[LogError] = []
        self._lock = asyncio.Lock()  # two windows that lack the same issuer fetch it once

    async def ensure(self, chains: Iterable[bytes]) -> None:
        """Have every issuer of these chains at hand, but those that are missing.

        Args:
            chains: `Entry.chain` of a window's entries.

        Raises:
            LogError: an issuer cannot be fetched, or is not the one it should be, for the first
                times; or there are too many.
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
            now = asyncio.get_running_loop().time()
            lacking = [
                each
                for each in wanted - self._certificates.keys()
                if self._failures.get(each, _NEVER).again <= now
            ]
            random.shuffle(lacking)  # so that logs which lack the same do not fetch the same first
            await together([self._try(each, gate) for each in lacking])

    def add(self, certificates: Mapping[bytes, bytes]) -> None:
        """Add issuers that the log has returned otherwise: SHA-256 -> DER.

        One that is larger than an issuer may be is left out.

        Raises:
            LogError: there are too many.
        """
        self._window += 1
        if len(certificates) > WINDOW:
            raise self._too_many(
                f"entries have {len(certificates):,} issuers, more than {WINDOW:,}"
            )
        self._used.update(dict.fromkeys(certificates, self._window))
        self._drop_unused()
        if len(self._used) > CAPACITY:
            problem = f"the last {RECENT} windows name {len(self._used):,} issuers"
            raise self._too_many(f"{problem}; {CAPACITY:,} are kept")
        self._certificates |= {
            key: der for key, der in certificates.items() if len(der) <= _MAX_ISSUER
        }

    def certificates(self, chain: bytes) -> list[bytes]:
        """The DER certificates of a chain that `ensure` was given lately, issuer first.

        Raises:
            IncompleteChain: one of them is missing.
        """
        found: list[bytes] = []
        for fingerprint in fingerprints(chain):
            certificate = self._certificates.get(fingerprint)
            if certificate is None:
                problem = f"the log does not serve issuer {fingerprint.hex()}"
                raise IncompleteChain(problem, found)
            found.append(certificate)
        return found

    @property
    def missing(self) -> int:
        """How many issuers entries are published without."""
        return sum(failure.missing for failure in self._failures.values())

    def lacking(self) -> list[LogError]:
        """Return why issuers were found missing since the last call."""
        lacking, self._lacking = self._lacking, []
        return lacking

    def _too_many(self, problem: str) -> InvalidResponse:
        return InvalidResponse(self._fetcher.log, f"{self._base}/issuer/", problem)

    async def _try(self, fingerprint: bytes, gate: asyncio.Semaphore) -> None:
        """Fetch an issuer; one that could not be fetched often enough is missing."""
        try:
            await self._fetch(fingerprint, gate)
        except Throttled:
            raise
        except LogError as error:
            before = self._failures.get(fingerprint, _NEVER)
            times = before.times + 1
            enough = OUTAGE_ATTEMPTS if _is_outage(error) else ATTEMPTS
            if times < enough and not before.missing:
                self._failures[fingerprint] = _Failure(times)
                raise
            again = asyncio.get_running_loop().time() + _AGAIN(max(times - enough, 0))
            self._failures[fingerprint] = _Failure(times, missing=True, again=again)
            self._lacking.append(error)
        else:
            self._failures.pop(fingerprint, None)

    async def _fetch(self, fingerprint: bytes, gate: asyncio.Semaphore) -> None:
        url = f"{self._base}/issuer/{fingerprint.hex()}"
        async with gate:
            # Logs of one operator lack the same ones at the same time: perhaps no more.
            if self._shelf is not None:
                ask = partial(self._shelf.issuers.get, [fingerprint])
                if found_there := await self._shelf.redis_retry(ask):
                    self._certificates.update(found_there)
                    return
            certificate = await self._fetcher.get_log(url, _MAX_ISSUER)
        found = hashlib.sha256(certificate).hexdigest()
        if found != fingerprint.hex():
            problem = f"another certificate, with SHA-256 {found}"
            if _is_whole(certificate):
                raise IntegrityViolation(self._fetcher.log, url, "wrong_issuer", problem)
            raise InvalidResponse(self._fetcher.log, url, problem)
        self._certificates[fingerprint] = certificate
        if self._shelf is not None:
            put = partial(self._shelf.issuers.put, fingerprint, certificate)
            await self._shelf.redis_retry(put)

    def _drop_unused(self) -> None:
        if len(self._used) <= CAPACITY:
            return
        oldest = self._window - RECENT
        self._used = {key: window for key, window in self._used.items() if window > oldest}
        self._certificates = {
            key: der for key, der in self._certificates.items() if key in self._used
        }
        self._failures = {
            key: failure for key, failure in self._failures.items() if key in self._used
        }


def _is_outage(error: LogError) -> bool:
    """Whether the log may just be down, or busy."""
    if isinstance(error, UnexpectedStatus):
        return error.status == httpx.codes.TOO_MANY_REQUESTS or error.status >= 500
    return isinstance(error, ConnectionFailed)


def _is_whole(der: bytes) -> bool:
    """Whether it could be a certificate, not a page, and not one cut short: a SEQUENCE, whole."""
    return der[:2] == b"\x30\x82" and int.from_bytes(der[2:4]) == len(der) - 4
