"""Issuer certificates by fingerprint, fetched from one log for all logs and all workers.

A static-ct log names issuers by SHA-256 and serves one per request. Fetching hundreds of them for
each log, and again for each worker that takes it, would use the operator's request slots for
minutes. `get` compares each certificate with its fingerprint.
"""

import random
from collections.abc import Sequence
from hashlib import sha256

import redis.exceptions

from certbus.errors import is_out_of_memory
from certbus.store import Store, round_trip

MAX_COUNT = 4096
"""Issuers in the cache: several times as many as all logs name."""

MAX_BYTES = 8 << 10
"""Bytes of one. A worker fetches those that are larger, or do not fit, for itself."""

TTL_SECS = 7 * 24 * 3600
"""Lifetime of a part, from a quarter less to a quarter more: so that parts expire at different
times, and issuers that no log names any more expire too."""

PARTS = 16
"""By the first four bits of the fingerprint. Each is one key with its own expiry."""


class IssuerCache(Store):
    """The issuers in Redis."""

    async def get(self, fingerprints: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return the DER of the cached ones, by fingerprint."""
        commands = (("HGET", self._keys.issuers(_part(each)), each) for each in fingerprints)
        found = zip(fingerprints, await round_trip(self._redis, commands), strict=True)
        return {key: der for key, der in found if der and sha256(der).digest() == key}

    async def put(self, fingerprint: bytes, der: bytes) -> None:
        """Store one, if there is room."""
        key = self._keys.issuers(_part(fingerprint))
        held = await self._redis.hlen(key)
        if held >= MAX_COUNT // PARTS or len(der) > MAX_BYTES:
            return
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hset(key, fingerprint, der)
            if held == 0:
                ttl = TTL_SECS * random.uniform(0.75, 1.25)  # noqa: S311  (no secret depends on it)
                transaction.expire(key, int(ttl))
            try:
                await transaction.execute()
            except redis.exceptions.RedisError as error:
                if not is_out_of_memory(error):  # a full Redis stores none
                    raise


def _part(fingerprint: bytes) -> int:
    return fingerprint[0] * PARTS >> 8
