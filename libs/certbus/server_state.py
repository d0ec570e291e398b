"""The state of the Redis server itself: clock, memory, disk, role."""

from contextlib import suppress
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from certbus.clock import now_ms


class ServerState(msgspec.Struct, frozen=True):
    """The state that Redis reports at one moment.

    Attributes:
        now: its clock (TIME), milliseconds since the epoch.
        ahead: milliseconds by which its clock is ahead of this host's (negative: behind), less the
            time of the request: 0 if that can explain the difference.
        used_memory: bytes.
        max_memory: bytes that it may use; 0 for no limit.
        uncounted: bytes of `used_memory` that do not count towards `max_memory` (buffers of
            replicas and of the append-only file).
        disk_error: why Redis rejects all writes with MISCONF; None if it does not.
        is_replica: whether it rejects writes because it is a replica.
        lacks_replicas: whether it rejects all writes with NOREPLICAS.
    """

    now: int
    ahead: int = 0
    used_memory: int = 0
    max_memory: int = 0
    uncounted: int = 0
    disk_error: str | None = None
    is_replica: bool = False
    lacks_replicas: bool = False

    @property
    def is_full(self) -> bool:
        """Whether it has reached maxmemory, and so rejects commands that need more."""
        return 0 < self.max_memory <= self.used_memory - self.uncounted


async def server_state(client: Redis) -> ServerState:
    """Read the state of Redis, in two round trips.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    sent = now_ms()
    seconds, micros = await client.time()
    received = now_ms()
    now = seconds * 1000 + micros // 1000
    async with client.pipeline(transaction=False) as pipeline:
        for section in ("memory", "persistence", "replication"):
            pipeline.info(section)
        memory, persistence, replication = await pipeline.execute()
    return ServerState(
        now=now,
        ahead=now - received if now > received else min(now - sent, 0),
        used_memory=int(memory.get("used_memory", 0)),
        max_memory=int(memory.get("maxmemory", 0)),
        uncounted=int(memory.get("mem_not_counted_for_evict", 0)),
        disk_error=await _disk_error(client, persistence),
        is_replica=replication.get("role", "master") != "master",
        lacks_replicas=await _lacks_replicas(client, replication),
    )


async def _disk_error(client: Redis, persistence: dict[str, Any]) -> str | None:
    """Why Redis rejects all writes because of its disk; None if it does not."""
    if persistence.get("aof_enabled") and persistence.get("aof_last_write_status") == "err":
        return "it cannot write its append-only file"
    if persistence.get("rdb_last_bgsave_status") != "err":
        return None
    # A snapshot that failed has that effect only with these two settings.
    with suppress(redis.exceptions.ResponseError):  # a Redis may forbid CONFIG
        stops = await client.config_get("stop-writes-on-bgsave-error")
        saves = await client.config_get("save")
        if stops.get("stop-writes-on-bgsave-error") == "yes" and saves.get("save"):
            return "it could not save its last snapshot"
    return None


async def _lacks_replicas(client: Redis, replication: dict[str, Any]) -> bool:
    """Whether Redis rejects all writes because too few replicas have recent data."""
    good = replication.get("min_slaves_good_slaves")  # absent unless a minimum is set
    if good is None:
        return False
    with suppress(redis.exceptions.ResponseError):  # a Redis may forbid CONFIG
        wanted = await client.config_get("min-replicas-to-write")
        return int(good) < int(wanted.get("min-replicas-to-write") or 0)
    return False
