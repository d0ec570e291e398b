"""Issuer certificates by their fingerprint, fetched from one log for all logs and all workers.

Logs of the static-ct API name issuers by SHA-256, and have them one a request. Fetching some
hundreds anew for each log, and for each worker that takes it, would use up its operator's turns for
minutes. What is found here is what its fingerprint says, whoever put it there.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import is_out_of_memory
from certbus.keys import Keys

MOST = 4096
"""Issuers that are kept: several times what all logs name."""

LARGEST = 8 << 10
"""Bytes of one. Whatever is larger, or more, every worker fetches for itself."""

LIFE = 7 * 24 * 3600
"""Seconds after which all are forgotten, those that no log names any more among them."""


class IssuerShelf:
    """The issuers in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._key = keys.issuers

    async def get(self, fingerprints: Sequence[bytes]) -> dict[bytes, bytes]:
        """Find the DER of those that are known, by fingerprint."""
        if not fingerprints:
            return {}
        values: list[Any] = await self._redis.hmget(self._key, list(fingerprints))
        found = zip(fingerprints, values, strict=True)
        return {key: der for key, der in found if der and sha256(der).digest() == key}

    async def put(self, fingerprint: bytes, der: bytes) -> None:
        """Keep one, if there is room."""
        held = await self._redis.hlen(self._key)
        if held >= MOST or len(der) > LARGEST:
            return
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hset(self._key, fingerprint, der)
            if held == 0:
                transaction.expire(self._key, LIFE)
            try:
                await transaction.execute()
            except redis.exceptions.RedisError as error:
                if not is_out_of_memory(error):  # a full Redis does without
                    raise
