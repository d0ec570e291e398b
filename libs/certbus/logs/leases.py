"""Leases: which ingestor owns which log.

A lease is a key that expires, and a fence: `<n>:<random>`, new with every acquisition, stored with
the log, and checked by every publication. A worker that was paused or disconnected while its lease
expired and another worker took the log has an old fence, and cannot write. The random part
distinguishes leases to which a Redis that lost its last second gave the same number.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from redis.asyncio import Redis

from certbus.clock import to_ms
from certbus.keys import Keys
from certbus.store import Store, round_trip, script, text
from ctparse.merkle import Frontier
from ctparse.tree_head import TreeHead

RETIRED_VISIBLE_MS = 30 * 24 * 3600 * 1000
"""How long a log that a list retired stays visible, with its position."""

_NUMBER = re.compile(r"\b[0-9]{1,6}(?:\.[0-9]+)?\b", re.ASCII)


class Lease(msgspec.Struct, frozen=True):
    """The right to publish a log.

    Attributes:
        log_id: the log.
        worker: id of the holder.
        fence: what publish.lua checks.
        next: index of the next entry to publish, when the lease was taken.
        start: index of the first entry.
        epoch: of Redis, when the lease was taken; empty if it had none.
        entry_timestamp: when the log accepted the last entry before `next`, as far as that is
            known, ms since the epoch.
    """

    log_id: str
    worker: str
    fence: str
    next: int
    start: int
    epoch: str
    entry_timestamp: int | None = None


class Handover(msgspec.Struct, frozen=True):
    """What the earlier owners of a log have learned.

    Attributes:
        since_success: seconds since all its entries were last published, by the clock of Redis;
            None if never.
        page: entries of a full answer; None if that is not known.
        gaps: seconds between the newest tree heads, oldest first; empty if they are short.
    """

    since_success: float | None = None
    page: int | None = None
    gaps: tuple[float, ...] = ()


class SkipAhead(msgspec.Struct, frozen=True):
    """Entries to skip because their log is further behind than permitted.

    Attributes:
        first: the next entry to publish.
        end: the entry to continue at.
        reason: stored with the skip, one line.
        tree_head: covers `end`.
        frontier: of all leaves before `end`, proven in that tree; None if nothing is verified.
    """

    first: int
    end: int
    reason: str
    tree_head: TreeHead
    frontier: Frontier | None


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
    _skip_ahead = script("logs/lua/record_skip.lua", "logs/lua/skip_ahead.lua")

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
            keys=[
                *(self._keys.lease(log_id), self._keys.log(log_id)),
                *(self._keys.logs, self._keys.head),
            ],
            args=[
                self._worker,
                self._ttl_ms,
                secrets.token_hex(8),
                log_id,
                "" if start is None else start,
            ],
        )
        return self._lease(log_id, reply)

    async def renew(self, leases: Sequence[Lease]) -> list[int | None]:
        """Renew leases, in one round trip, even if Redis is full.

        A lease that expired is taken again, under its fence, if no worker has taken the log since.

        Returns:
            For each lease, the index of the next entry to publish of its log; None if the lease is
            lost: the task that publishes under it must stop.
        """
        if not leases:
            return []
        renewed: list[int | None] = await self._renew(
            keys=[
                key
                for lease in leases
                for key in (self._keys.lease(lease.log_id), self._keys.log(lease.log_id))
            ],
            args=[self._worker, self._ttl_ms, *(lease.fence for lease in leases)],
        )
        return renewed

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

    async def drop(self, lease: Lease, next_index: int) -> bool:
        """Finish the retirement of a drained log: its lease ends, and no worker gets another one.

        Args:
            lease: the right to publish the log.
            next_index: the next entry that it would publish.

        Returns:
            False if it had been lost before, the log is no longer retired, or Redis has another
            position.
        """
        log_id = lease.log_id
        reply = await self._drop(
            keys=[self._keys.log(log_id), self._keys.lease(log_id), self._keys.evidence(log_id)],
            args=[self._worker, lease.fence, RETIRED_VISIBLE_MS, next_index],
        )
        return bool(reply)

    async def restore(self, lease: Lease, next_index: int, event: str) -> Lease | None:
        """Create a log again that Redis lost (`Missing`).

        In a Redis that was emptied it continues at the position of its owner. An older copy, which
        has the same epoch, has none of its entries: there it begins at its start again.

        Args:
            lease: of this worker, which Redis does not know.
            next_index: the next entry it would have published.
            event: names the restoration: a repeated call changes nothing and returns the same.

        Returns:
            A new lease; None if the log exists again with an early enough start, or for longer
            than marks are kept, or was merged of two in the same epoch: acquire it.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        reply = await self._restore(
            keys=[
                *(self._keys.lease(lease.log_id), self._keys.log(lease.log_id)),
                *(self._keys.logs, self._keys.head),
            ],
            args=[
                *(self._worker, self._ttl_ms, event, lease.log_id),
                *(next_index, lease.start, lease.epoch),
            ],
        )
        return self._lease(lease.log_id, reply)

    async def skip_ahead(
        self,
        lease: Lease,
        skip: SkipAhead,
        event: str,
    ) -> Literal["skipped", "fenced", "missing"] | int:
        """Skip entries of a log under its lease, which stays.

        Args:
            lease: the right to publish the log.
            skip: what to skip.
            event: names the skip: a repeated call changes nothing.

        Returns:
            "skipped"; "fenced": another worker owns the log; "missing": Redis does not know it;
            or its position, if that is not `skip.first`.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        head = skip.tree_head
        fields: list[Any] = ["tree_size", head.size, "tree_timestamp", head.timestamp]
        fields += ["tree_root", head.root, "tree_signature", head.signature]
        if skip.frontier is not None:
            fields += ["frontier", skip.frontier.to_bytes()]
        kind, *rest = await self._skip_ahead(
            keys=[self._keys.log(lease.log_id), self._keys.rejected, self._keys.head],
            args=[
                *(lease.log_id, lease.fence, skip.first, skip.end),
                *(skip.reason, event, *fields),
            ],
        )
        return int(rest[0]) if kind == b"stale" else kind.decode()

    async def handover(self, log_id: str) -> Handover:
        """Return what the earlier owners of a log have learned."""
        commands = ("TIME",), ("HMGET", self._keys.log(log_id), "last_success", "page", "gaps")
        now, (*values, gaps) = await round_trip(self._redis, commands)
        success, page = (int(value) if value and value.isdigit() else None for value in values)
        since = None if success is None else max(to_ms(now) - success, 0) / 1000
        return Handover(since, page, tuple(map(float, _NUMBER.findall(text(gaps or b"")))))

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
        fence, next_index, start, epoch, *timestamp = reply
        accepted = int(timestamp[0]) if timestamp and timestamp[0].isdigit() else None
        return Lease(
            log_id=log_id,
            worker=self._worker,
            fence=fence.decode(),
            next=int(next_index),
            start=int(start),
            epoch=text(epoch),
            entry_timestamp=accepted,
        )
