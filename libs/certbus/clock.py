"""This machine's time, in the unit that Redis holds times in."""

import time

from redis.asyncio import Redis


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


async def redis_time(client: Redis) -> float:
    """Return the time of Redis, seconds since the epoch: the one that stored times are in."""
    seconds, microseconds = await client.time()
    return float(seconds) + float(microseconds) / 1_000_000
