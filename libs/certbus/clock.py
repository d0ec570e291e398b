"""Time: of this machine, and of Redis, by whose clock all stored times are."""

import time

from redis.asyncio import Redis


def now_ms() -> int:
    """Milliseconds since the epoch, by the clock of this machine."""
    return int(time.time() * 1000)


def to_ms(reply: tuple[int, int]) -> int:
    """Convert a reply to TIME to milliseconds since the epoch."""
    seconds, microseconds = reply
    return seconds * 1000 + microseconds // 1000


async def redis_ms(client: Redis) -> int:
    """Return the time of Redis, milliseconds since the epoch."""
    return to_ms(await client.time())
