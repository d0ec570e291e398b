"""Limits that hold over all gateways: how often someone may ask, and how many may be connected.

Both work on many at once, so that a thousand clients that come in one moment cost one round trip.
Neither decides what happens when Redis is away: every error reaches the caller, and a call that
failed, whether executed or not, may be repeated. A full Redis goes on counting connections, which
need little, but refuses the rates of whoever may come.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from certbus.connection import once
from certbus.keys import Keys
from certbus.scripts import register_script


class Rate(msgspec.Struct, frozen=True):
    """How often one may ask. The token bucket and the sliding window must both admit a request.

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
        """Requests that may come at once after a long silence."""
        return int(min(self.capacity + self.burst, self.window_requests))


class Decision(msgspec.Struct, frozen=True):
    """What became of one request.

    Attributes:
        allowed: whether it may be answered; if not, nothing was taken.
        remaining: requests that would be allowed now.
        reset: seconds until the bucket is full again.
        retry_after: seconds until another request is allowed; 0 if this one was.
    """

    allowed: bool
    remaining: int
    reset: float
    retry_after: float


class RateLimits:
    """The rates of everyone, in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._keys = keys
        self._take = register_script(
            once(client), "limits/lua/rate_limit.lua"
        )  # a request counts once

    async def acquire(self, asks: Sequence[tuple[str, Rate]]) -> list[Decision]:
        """Count one request each of those who ask; one may be there more than once.

        Args:
            asks: who (see `keys.py`), and what they may.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        if not asks:
            return []
        replies: Any = await self._take(
            keys=[self._keys.rate(who) for who, _ in asks],
            args=[
                value
                for _, rate in asks
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
        address: whose they are (see `keys.py`).
        held: how many there are.
        waiting: how many more want to be let in.
    """

    address: str
    held: int
    waiting: int = 0


class AdmittedCount(msgspec.Struct, frozen=True):
    """Which of those that wait may come in.

    Attributes:
        count: how many.
        full: whether it was the limit on all connections that kept the others out.
    """

    count: int
    full: bool


class ConnectionCounts:
    """The connections of one gateway, among those of all.

    A gateway that does not call `count` for `ttl` has gone, and its connections are forgotten.

    Args:
        client: the primary.
        keys: names of the keys.
        gateway: id of this gateway; no other process, nor this one after a restart, has the same.
        ttl: seconds.
    """

    def __init__(self, client: Redis, keys: Keys, gateway: str, ttl: float) -> None:
        self._gateway = gateway
        self._told = 0  # connections, by Redis' last word
        self._ttl_ms = int(ttl * 1000)
        self._keys = [keys.limit_gateways, keys.connections]
        self._count = register_script(
            client, "lua/connection_counts.lua", "limits/lua/admit_connections.lua"
        )
        self._recount = register_script(
            client, "lua/connection_counts.lua", "limits/lua/reset_gateway_connections.lua"
        )

    async def reset(self) -> None:
        """Begin to count, with no connections.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._recount(keys=self._keys, args=[self._gateway, self._ttl_ms])
        self._told = 0

    async def remove(self) -> None:
        """Stop to count: this gateway has no connections any more.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        await self._recount(keys=self._keys, args=[self._gateway, 0])

    async def apply(
        self, most: int | None, most_of_one: int | None, connected: Sequence[ConnectionDelta]
    ) -> list[AdmittedCount] | None:
        """Tell what has changed, let in who waits, and live on.

        Args:
            most: connections there may be to all gateways; None for any number.
            most_of_one: likewise, from one address.
            connected: each address at most once.

        Returns:
            Who may come in, for each of `connected`. None if Redis does not know this gateway, or
            not as it was after the last call: nothing was done, `begin` and tell everything again.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        replies: Any = await self._count(
            keys=self._keys,
            args=[
                self._gateway,
                self._ttl_ms,
                self._told,
                "" if most is None else most,
                "" if most_of_one is None else most_of_one,
                *(value for one in connected for value in (one.address, one.held, one.waiting)),
            ],
        )
        if replies is None:
            return None
        self._told, *let_in = replies
        return [AdmittedCount(count, bool(full)) for count, full in let_in]
