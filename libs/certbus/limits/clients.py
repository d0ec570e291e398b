"""Limits that hold over all gateways: requests per client, and connections.

Both work on many clients per call, so a thousand clients that arrive together cost one round trip.
Neither decides what happens when Redis is unavailable: every error reaches the caller, and a call
that failed, executed or not, may be repeated. A full Redis still counts connections, which need
little memory, but rejects requests for rates.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from certbus.connection import once
from certbus.keys import Keys
from certbus.store import Store, script


class Rate(msgspec.Struct, frozen=True):
    """A request rate. The token bucket and the sliding window must both admit a request.

    Attributes:
        capacity: tokens in a full bucket; a request takes one.
        refill: tokens a second.
        burst: requests beyond an empty bucket in each `burst_window`.
        burst_window: seconds.
        window: length of the sliding window in seconds.
        window_requests: requests in any such window; an estimate from two fixed ones.
    """

    capacity: float
    refill: float
    burst: float
    burst_window: float
    window: float
    window_requests: int

    @property
    def limit(self) -> int:
        """Requests that are admitted together after a long silence."""
        return int(min(self.capacity + self.burst, self.window_requests))


class Decision(msgspec.Struct, frozen=True):
    """The decision on one request.

    Attributes:
        allowed: whether it is admitted; if not, nothing was taken.
        remaining: requests that would be allowed now.
        reset: seconds until the bucket is full again.
        retry_after: seconds until another request is allowed; 0 if this one was.
    """

    allowed: bool
    remaining: int
    reset: float
    retry_after: float


class RateLimits(Store):
    """The request rates of all clients, in Redis."""

    _take = script("limits/lua/rate_limit.lua")

    def __init__(self, client: Redis, keys: Keys) -> None:
        super().__init__(once(client), keys)  # a request counts once

    async def acquire(self, requests: Sequence[tuple[str, Rate]]) -> list[Decision]:
        """Count one request for each item; a client may appear more than once.

        Args:
            requests: key of the client (see `keys.py`), and its rate.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        if not requests:
            return []
        replies: Any = await self._take(
            keys=[self._keys.rate(client) for client, _ in requests],
            args=[
                value
                for _, rate in requests
                for value in (
                    rate.capacity,
                    rate.refill,
                    rate.burst,
                    int(rate.burst_window * 1000),
                    int(rate.window * 1000),
                    rate.window_requests,
                )
            ],
        )
        return [
            Decision(bool(allowed), remaining, reset / 1000, retry / 1000)
            for allowed, remaining, reset, retry in replies
        ]


class ConnectionDelta(msgspec.Struct, frozen=True):
    """Connections from one address to one gateway.

    Attributes:
        address: of the client (see `keys.py`).
        held: open connections.
        waiting: connections that wait for admission.
    """

    address: str
    held: int
    waiting: int = 0


class AdmittedCount(msgspec.Struct, frozen=True):
    """How many of the waiting connections are admitted.

    Attributes:
        count: admitted connections.
        full: whether the limit on all connections rejected the others.
    """

    count: int
    full: bool


class ConnectionCounts(Store):
    """The connections of one gateway, among those of all.

    The counts of a gateway that does not call `apply` for `ttl` are deleted.

    Args:
        client: the primary.
        keys: names of the keys.
        gateway: id of this gateway; no other process, nor this one after a restart, has the same.
        ttl: seconds.
    """

    _count = script("lua/connection_counts.lua", "limits/lua/admit_connections.lua")
    _recount = script("lua/connection_counts.lua", "limits/lua/reset_gateway_connections.lua")

    def __init__(self, client: Redis, keys: Keys, gateway: str, ttl: float) -> None:
        super().__init__(client, keys)
        self._gateway = gateway
        self._reported = 0  # connections, as in the last reply
        self._ttl_ms = int(ttl * 1000)
        self._hashes = [keys.limit_gateways, keys.connections]

    async def reset(self) -> None:
        """Start to count, with no connections.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._recount(keys=self._hashes, args=[self._gateway, self._ttl_ms])
        self._reported = 0

    async def remove(self) -> None:
        """Delete the counts: this gateway has no connections any more.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._recount(keys=self._hashes, args=[self._gateway, 0])

    async def apply(
        self, limit: int | None, address_limit: int | None, deltas: Sequence[ConnectionDelta]
    ) -> list[AdmittedCount] | None:
        """Report changed counts, admit waiting connections, and renew the counts.

        Args:
            limit: maximum connections to all gateways; None for no limit.
            address_limit: maximum connections from one address; None for no limit.
            deltas: each address at most once.

        Returns:
            The admitted connections, for each of `deltas`. None if Redis does not have the counts
            of the last call: nothing was done; call `reset` and report everything again.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        replies: Any = await self._count(
            keys=self._hashes,
            args=[
                self._gateway,
                self._ttl_ms,
                self._reported,
                "" if limit is None else limit,
                "" if address_limit is None else address_limit,
                *(value for one in deltas for value in (one.address, one.held, one.waiting)),
            ],
        )
        if replies is None:
            return None
        self._reported, *admitted = replies
        return [AdmittedCount(count, bool(full)) for count, full in admitted]
