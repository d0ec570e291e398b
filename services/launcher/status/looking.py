"""Asking Redis for what a report is made of."""

import time
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
    return Seen(
        time.time(),
        await snapshot(client, keys),
        await spans(client, keys),
        (int(memory["used_memory"]), int(memory.get("maxmemory", 0))),
    )
