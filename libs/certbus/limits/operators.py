"""Whose turn it is to ask an operator: one request at a time, whichever worker sends it.

A turn is a moment. Who wants to ask takes the next one that is free, `interval` after the one
before, and is told how long it is away: one call, no polling, and first come is first served. A
turn that is not used is lost. So no operator gets two turns within `interval`; how late they are
used is up to who has taken them.

A log that answers 429 is left alone by its owner. When a second log of the same operator answers
429 meanwhile, it is not about that log but about us, and no worker gets a turn until both are over,
but no longer than `MAX_PAUSE`: one log alone cannot silence the others.
"""

from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.scripts import register_script

MAX_PAUSE = 300.0
"""Seconds."""


class OperatorSlots:
    """The turns of all operators, in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._keys = keys
        self._turn = register_script(
            client, "lua/operator_slots.lua", "limits/lua/reserve_request_slot.lua"
        )
        self._refused = register_script(
            client, "lua/operator_slots.lua", "limits/lua/record_rate_limited.lua"
        )

    async def reserve(self, operator: str, interval: float) -> float:
        """Take the next free turn, even if Redis is full.

        Args:
            operator: its name, in any case.
            interval: seconds between two turns, above 0.

        Returns:
            Seconds until it comes.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached; a turn may have been taken.
        """
        wait: int = await self._turn(
            keys=[self._keys.operator(operator)],
            args=[f"{interval * 1000:.3f}", int(MAX_PAUSE * 1000)],
        )
        return wait / 1_000_000

    async def record_429(self, operator: str, log_id: str, seconds: float) -> bool:
        """Note that a log has answered 429.

        Args:
            operator: who runs it.
            log_id: the log.
            seconds: that it asked us to wait.

        Returns:
            Whether the operator as a whole is left alone now.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        reply = await self._refused(
            keys=[self._keys.operator(operator)],
            args=[log_id, int(seconds * 1000), int(MAX_PAUSE * 1000)],
        )
        return bool(reply)
