"""Request slots per log operator, shared by all workers.

A slot is a moment. A worker reserves the next free slot, `interval` after the previous one, and
gets the time until it: one call, no polling, first come first served. A slot that is not used is
lost. So no two slots of an operator are closer than `interval`; a request may be later than its
slot.

The owner of a log that answers 429 pauses requests to that log. If a second log of the operator
answers 429 during this pause, the operator limits this client as a whole: no worker gets a slot
until both pauses end, at most for `MAX_PAUSE_SECS`. One log alone cannot stop the others.
"""

from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.scripts import register_script

MAX_PAUSE_SECS = 300.0
"""Longest pause of an operator."""


class OperatorSlots:
    """The request slots of all operators, in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._keys = keys
        self._reserve = register_script(
            client, "lua/operator_slots.lua", "limits/lua/reserve_request_slot.lua"
        )
        self._record_429 = register_script(
            client, "lua/operator_slots.lua", "limits/lua/record_rate_limited.lua"
        )

    async def reserve(self, operator: str, interval: float) -> float:
        """Reserve the next free slot, even if Redis is full.

        Args:
            operator: its name, in any case.
            interval: seconds between two slots, above 0.

        Returns:
            Seconds until the slot.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached; a slot may be reserved.
        """
        wait: int = await self._reserve(
            keys=[self._keys.operator(operator)],
            args=[f"{interval * 1000:.3f}", int(MAX_PAUSE_SECS * 1000)],
        )
        return wait / 1_000_000

    async def record_429(self, operator: str, log_id: str, seconds: float) -> bool:
        """Record that a log answered 429.

        Args:
            operator: of the log.
            log_id: the log.
            seconds: requested by Retry-After.

        Returns:
            Whether the whole operator is paused now.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        reply = await self._record_429(
            keys=[self._keys.operator(operator)],
            args=[log_id, int(seconds * 1000), int(MAX_PAUSE_SECS * 1000)],
        )
        return bool(reply)
