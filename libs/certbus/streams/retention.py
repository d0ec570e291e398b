"""Trimming: what keeps Redis within its memory.

Each stream has a maximum age and size. Every ingestor trims once per second; the second one finds
nothing to remove. When Redis rejects a batch because it is full, the publisher removes more, a
share of each stream at most: Redis recovers without more memory.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from certbus.errors import UNAVAILABLE
from certbus.keys import DEFAULT_REMEMBER_MS, STREAMS, Keys
from certbus.store import Store, script

TRIM_INTERVAL_SECS = 1.0
_MAX_CALL_BYTES = 1024 * 1024  # inspected by one script call: about a millisecond of Redis
_FREED_PART = 16  # a full Redis loses 1/16 of each stream at most, to have as much free
_FREED_STEPS = 4  # in which that is removed
_MAX_CALL_KEYS = 2048  # of marks, removed by one script call: about a millisecond of Redis
_MEMORY_INTERVAL_SECS = 60.0  # between two reads of maxmemory

MARKS_SHARE = 0.5
"""Part of Redis' `maxmemory` that deduplication marks may use."""
_MAX_REJECTED_BYTES = 16 * 1024 * 1024

log = structlog.get_logger(__name__)


class Retention(msgspec.Struct, frozen=True):
    """How much of a stream is kept.

    Attributes:
        max_bytes: in Redis, packed.
        max_age_secs: 0 for no limit.
    """

    max_bytes: int
    max_age_secs: float


DEFAULT_RETENTION: Mapping[str, Retention] = {
    "full": Retention(1024 * 1024 * 1024, 3600),
    "lite": Retention(864 * 1024 * 1024, 3600),
    "domains": Retention(104 * 1024 * 1024, 3600),
}


class Trimmer(Store):
    """Removes the oldest entries of the streams.

    Args:
        client: the primary.
        keys: names of the keys.
        retention: for each stream; also for one that is no longer written.
        reached: called in each round with `remembered` and `configured`.

    Attributes:
        remembered: seconds for which every published certificate is known, as of the last round:
            the deduplication window that holds in effect. None before the first.
        configured: seconds for which it should be; None before the first round.
        ahead: seconds by which the newest entry id is ahead of TIME; None before the first round.
        marks_bytes: estimated memory of deduplication marks; None before the first round.
    """

    _trim = script("lua/ages.lua", "streams/lua/trim.lua")
    _expire_marks = script("lua/ages.lua", "streams/lua/expire_marks.lua")

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        retention: Mapping[str, Retention] = DEFAULT_RETENTION,
        reached: Callable[[float, float], None] = lambda _, __: None,
    ) -> None:
        super().__init__(client, keys)
        self.set_limits(retention)
        self._reached = reached
        self.remembered: float | None = None
        self.configured: float | None = None
        self.ahead: float | None = None
        self.marks_bytes: int | None = None
        self._max_marks_bytes = 0  # 0 for no limit
        self._read_memory_at = 0.0  # monotonic

    def set_limits(self, retention: Mapping[str, Retention]) -> None:
        """Hold the streams to other limits from now on."""
        self._retention = {name: retention[name] for name in STREAMS}
        self._retention["rejected"] = Retention(_MAX_REJECTED_BYTES, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Trim every `TRIM_INTERVAL_SECS` until `stop` is set, also while Redis is unavailable.

        Raises:
            redis.exceptions.RedisError: Redis rejects a command: a bug, or a key of another type.
        """
        while not stop.is_set():
            try:
                await self.trim()
            except UNAVAILABLE as error:
                log.warning("trimming failed", error=str(error))
            # Not wait_for: before Python 3.12 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRIM_INTERVAL_SECS):
                    await stop.wait()

    async def trim(self) -> int:
        """Remove what is too old or too much: messages, then deduplication marks.

        Returns:
            Bytes of messages removed.
        """
        removed = sum([await self._trim_stream(name, 0) for name in self._retention])
        await self.expire_marks()
        return removed

    async def expire_marks(self) -> None:
        """Remove deduplication marks that are too old, or beyond their share of memory."""
        if time.monotonic() >= self._read_memory_at:
            memory: dict[str, Any] = await self._redis.info("memory")
            self._max_marks_bytes = int(int(memory.get("maxmemory", 0)) * MARKS_SHARE)
            self._read_memory_at = time.monotonic() + _MEMORY_INTERVAL_SECS
        more = True
        while more:
            more, remembered, configured, ahead, self.marks_bytes = await self._expire_marks(
                keys=[
                    self._keys.head,
                    self._keys.windows,
                    *(self._keys.stream(name) for name in STREAMS),
                ],
                args=[
                    self._keys.marks,
                    self._keys.sha1_marks,
                    DEFAULT_REMEMBER_MS,
                    self._max_marks_bytes,
                    _MAX_CALL_KEYS,
                ],
            )
            self.remembered, self.configured = remembered / 1000, configured / 1000
            self.ahead = ahead / 1000
        if self.remembered is not None and self.configured is not None:
            self._reached(self.remembered, self.configured)

    async def free_bytes(self) -> int:
        """Trim, and remove a share of each stream's bytes beyond that.

        It ends once as many bytes are free as the shares of all streams have: other ingestors may
        free memory at the same time. At least one entry of each stream is removed, since a batch
        may be refused for its own size.

        Returns:
            Bytes removed.
        """
        names = list(self._retention)
        fields = await self._redis.hmget(self._keys.head, [f"{name}.bytes" for name in names])
        held = dict(zip(names, (int(value or 0) for value in fields), strict=True))
        room = sum(held.values()) // _FREED_PART
        freed = 0
        for _ in range(_FREED_STEPS):
            for name in names:
                part = held[name] // (_FREED_PART * _FREED_STEPS) + 1
                freed += await self._trim_stream(name, part)
            if await self._has_free(room):
                break
        await self.expire_marks()  # those that no retained message needs any more
        return freed

    async def _has_free(self, size: int) -> bool:
        memory: dict[str, Any] = await self._redis.info("memory")
        most = int(memory.get("maxmemory", 0))
        used = int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))
        return most == 0 or used + size <= most

    async def _trim_stream(self, name: str, free: int) -> int:
        retention = self._retention[name]
        total, more = 0, True
        while more:
            _, removed, more = await self._trim(
                keys=[self._keys.head, self._keys.stream(name)],
                args=[
                    name,
                    int(retention.max_age_secs * 1000),
                    retention.max_bytes,
                    max(free - total, 0),
                    _MAX_CALL_BYTES,
                ],
            )
            total += removed
        return total
