"""Asking Redis for what a report is made of."""

from typing import Any

from redis.asyncio import Redis

from certbus.directory import snapshot, spans
from certbus.keys import Keys
from launcher.status.report import Seen


async def look(client: Redis, keys: Keys) -> Seen:
    """Ask Redis for everything that a report needs.

    Raises:
        redis.exceptions.RedisError: it cannot be asked.
    """
    memory: dict[str, Any] = await client.info("memory")
    directory = await snapshot(client, keys)
    return Seen(
        directory.now / 1000,
        directory,
        await spans(client, keys),
        (int(memory["used_memory"]), int(memory.get("maxmemory", 0))),
    )
