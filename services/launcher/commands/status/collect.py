"""Asking Redis for what a report is made of."""

from redis.asyncio import Redis

from certbus.cluster import snapshot, spans
from certbus.keys import Keys
from certbus.server_state import server_state
from launcher.commands.status.report import Seen


async def look(client: Redis, keys: Keys) -> Seen:
    """Ask Redis for everything that a report needs.

    Raises:
        redis.exceptions.RedisError: it cannot be asked.
    """
    directory = await snapshot(client, keys)
    return Seen(
        directory.now / 1000,
        directory,
        await spans(client, keys),
        await server_state(client),
    )
