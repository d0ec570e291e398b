"""Asking Redis for what a report is made of."""

from redis.asyncio import Redis

from certbus.cluster import snapshot, stream_ranges
from certbus.keys import Keys
from certbus.server_state import server_state
from launcher.commands.status.report import StatusInput


async def collect(client: Redis, keys: Keys) -> StatusInput:
    """Ask Redis for everything that a report needs.

    Raises:
        redis.exceptions.RedisError: it cannot be asked.
    """
    directory = await snapshot(client, keys)
    return StatusInput(
        directory.now / 1000,
        directory,
        await stream_ranges(client, keys),
        await server_state(client),
    )
