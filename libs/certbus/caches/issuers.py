"""Issuer certificates by their fingerprint, fetched from one log for all logs and all workers.

Logs of the static-ct API name issuers by SHA-256, and have them one a request. Fetching some
hundreds anew for each log, and for each worker that takes it, would use up its operator's turns for
minutes. What is found here is what its fingerprint says, whoever put it there.
"""

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import is_out_of_memory
from certbus.keys import Keys

MAX_COUNT = 4096
"""Issuers that are kept: several times what all logs name."""

MAX_BYTES = 8 << 10
"""Bytes of one. Whatever is larger, or more, every worker fetches for itself."""

LIFE = 7 * 24 * 3600
"""Seconds after which a part of them is forgotten, those that no log names any more among them; a
quarter less to a quarter more, so that not all are fetched again at once."""

PARTS = 16
"""By the first four bits of the fingerprint. Each is a key, and expires by itself."""


class IssuerCache:
    """The issuers in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys

    async def get(self, fingerprints: Sequence[bytes]) -> dict[bytes, bytes]:
        """Find the DER of those that are known, by fingerprint."""
        if not fingerprints:
            return {}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for fingerprint in fingerprints:
                pipeline.hget(self._keys.issuers(_part(fingerprint)), fingerprint)
            values: list[Any] = await pipeline.execute()
        found = zip(fingerprints, values, strict=True)
        return {key: der for key, der in found if der and sha256(der).digest() == key}

    async def put(self, fingerprint: bytes, der: bytes) -> None:
        """Keep one, if there is room."""
        key = self._keys.issuers(_part(fingerprint))
        held = await self._redis.hlen(key)
        if held >= MAX_COUNT // PARTS or len(der) > MAX_BYTES:
            return
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hset(key, fingerprint, der)
            if held == 0:
                life = LIFE * random.uniform(0.75, 1.25)  # noqa: S311  (no secret depends on it)
                transaction.expire(key, int(life))
            try:
                await transaction.execute()
            except redis.exceptions.RedisError as error:
                if not is_out_of_memory(error):  # a full Redis does without
                    raise


def _part(fingerprint: bytes) -> int:
    return fingerprint[0] * PARTS >> 8
