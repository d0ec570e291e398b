"""Leases: which ingestor owns which log.

A lease is a key that expires, and a fence: `<n>:<random>`, new with every acquisition, stored with
the log, and checked by every publication. A worker that was paused or disconnected while its lease
expired and another worker took the log has an old fence, and cannot write. The random part
distinguishes leases to which a Redis that lost its last second gave the same number.
"""

import secrets
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.store import Store, script

RETIRED_VISIBLE_MS = 30 * 24 * 3600 * 1000
"""How long a retired log and its position stay visible."""


class Lease(msgspec.Struct, frozen=True):
    """The right to publish a log.

    Attributes:
        log_id: the log.
        worker: id of the holder.
        fence: what publish.lua checks.
        next: index of the next entry to publish, when the lease was taken.
        entry_timestamp: when the log accepted the last entry before `next`, as far as that is
            known, ms since the epoch.
    """

    log_id: str
    worker: str
    fence: str
    next: int
    entry_timestamp: int | None = None


class Leases(Store):
    """The leases of one worker.

    Args:
        client: the primary.
        keys: names of the keys.
        worker: id of this worker; no other process, nor this one after a restart, has the same.
        ttl: seconds after which a lease that is not renewed is free.
    """

    _acquire = script("logs/lua/acquire.lua")
    _renew = script("logs/lua/renew.lua")
    _release = script("logs/lua/release.lua")
    _drop = script("logs/lua/finish_retirement.lua")
    _restore = script("logs/lua/restore.lua")
    _set_start = script("logs/lua/set_start.lua")

    def __init__(self, client: Redis, keys: Keys, worker: str, ttl: float) -> None:
        super().__init__(client, keys)
        self._worker = worker
        self._ttl_ms = int(ttl * 1000)

    async def acquire(self, log_id: str, start: int | None) -> Lease | None:
        """Take a log that no worker owns.

        Args:
            log_id: the log.
            start: first index if Redis does not know the log; otherwise it continues at `next`.

        Returns:
            The lease; None if another worker holds it, or the log is new and `start` is None.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        reply = await self._acquire(
            keys=[self._keys.lease(log_id), self._keys.log(log_id), self._keys.logs],
            args=[
                self._worker,
                self._ttl_ms,
                secrets.token_hex(8),
                log_id,
                "" if start is None else start,
            ],
        )
        return self._lease(log_id, reply)

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Renew leases, in one round trip, even if Redis is full.

        A lease that expired is taken again, under its fence, if no worker has taken the log since.

        Returns:
            The lost leases: the tasks that publish under them must stop.
        """
        if not leases:
            return []
        held = await self._renew(
            keys=[
                key
                for lease in leases
                for key in (self._keys.lease(lease.log_id), self._keys.log(lease.log_id))
            ],
            args=[self._worker, self._ttl_ms, *(lease.fence for lease in leases)],
        )
        return [lease for lease, is_held in zip(leases, held, strict=True) if not is_held]

    async def release(self, lease: Lease) -> bool:
        """Release a lease.

        Returns:
            False if it had been lost before.
        """
        reply = await self._release(
            keys=[self._keys.lease(lease.log_id), self._keys.log(lease.log_id)],
            args=[self._worker, lease.fence],
        )
        return bool(reply)

    async def drop(self, lease: Lease) -> bool:
        """Finish the retirement of a drained log: its lease ends, and no worker gets another one.

        Returns:
            False if it had been lost before, or the log is no longer retired.
        """
        log_id = lease.log_id
        reply = await self._drop(
            keys=[self._keys.log(log_id), self._keys.lease(log_id), self._keys.evidence(log_id)],
            args=[self._worker, lease.fence, RETIRED_VISIBLE_MS],
        )
        return bool(reply)

    async def restore(self, lease: Lease, next_index: int) -> Lease | None:
        """Create a log again after Redis was emptied (`Missing`), at the position of its owner.

        Args:
            lease: of this worker, which Redis does not know.
            next_index: the next entry it would have published.

        Returns:
            A new lease; None if the log exists again with an early enough start: acquire it.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        reply = await self._restore(
            keys=[self._keys.lease(lease.log_id), self._keys.log(lease.log_id), self._keys.logs],
            args=[self._worker, self._ttl_ms, secrets.token_hex(8), lease.log_id, next_index],
        )
        return self._lease(lease.log_id, reply)

    async def next_index(self, log_id: str) -> int | None:
        """Index of the next entry to publish, None if Redis does not know the log."""
        value = await self._redis.hget(self._keys.log(log_id), "next")
        return None if value is None else int(value)

    async def set_start(self, log_id: str, index: int) -> bool:
        """Store where a log starts.

        Returns:
            False if Redis knows the log already; it continues at `next`.
        """
        reply = await self._set_start(
            keys=[self._keys.log(log_id), self._keys.logs], args=[log_id, index]
        )
        return bool(reply)

    def _lease(self, log_id: str, reply: list[bytes] | None) -> Lease | None:
        if reply is None:
            return None
        fence, next_index, *timestamp = reply
        accepted = int(timestamp[0]) if timestamp and timestamp[0].isdigit() else None
        return Lease(log_id, self._worker, fence.decode(), int(next_index), accepted)
