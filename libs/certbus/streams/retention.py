"""Trimming: what keeps Redis within its memory.

Each stream is held to an age and a number of bytes. Every ingestor trims, on a timer; that is
harmless, as there is nothing left to do for the second one. When Redis is full nevertheless, the
publisher that is refused asks for a share more: Redis recovers without being given more memory.
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
from certbus.scripts import register_script

INTERVAL = 1.0  # seconds between two rounds
_WORK = 1024 * 1024  # bytes a script call looks at: about a millisecond of Redis
_SHARE = 16  # what is freed when Redis is full: this part of each stream
_KEYS_AT_ONCE = 2048  # of marks, removed in a script call: about a millisecond of Redis
_MEMORY_EVERY = 60.0  # seconds between two questions for maxmemory

MARKS_SHARE = 0.5
"""Part of Redis' `maxmemory` that deduplication marks may use."""
_REJECTED_BYTES = 16 * 1024 * 1024

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
    "full": Retention(256 * 1024 * 1024, 3600),
    "lite": Retention(256 * 1024 * 1024, 3600),
    "domains": Retention(64 * 1024 * 1024, 3600),
}


class Trimmer:
    """Removes the oldest entries of the streams.

    Args:
        client: the primary.
        keys: names of the keys.
        retention: for each stream; also for one that is no longer written.
        reached: called in each round with `remembered` and `configured`.

    Attributes:
        remembered: seconds for which every published certificate is known, as of the last round:
            the deduplication window that holds in effect. None before the first.
        configured: seconds for which it should be, likewise.
        ahead: seconds by which the newest entry id is ahead of TIME, likewise.
        marks_bytes: memory that deduplication marks use, about, likewise.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        retention: Mapping[str, Retention] = DEFAULT_RETENTION,
        reached: Callable[[float, float], None] = lambda _, __: None,
    ) -> None:
        self._redis = client
        self._keys = keys
        self.set_limits(retention)
        self._trim = register_script(client, "lua/ages.lua", "streams/lua/trim.lua")
        self._expire_marks = register_script(client, "lua/ages.lua", "streams/lua/expire_marks.lua")
        self._reached = reached
        self.remembered: float | None = None
        self.configured: float | None = None
        self.ahead: float | None = None
        self.marks_bytes: int | None = None
        self._marks_most = 0  # bytes; 0 for any number
        self._ask_memory_at = 0.0  # monotonic

    def set_limits(self, retention: Mapping[str, Retention]) -> None:
        """Hold the streams to other limits from now on."""
        self._retention = {name: retention[name] for name in STREAMS}
        self._retention["rejected"] = Retention(_REJECTED_BYTES, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Trim every `INTERVAL` until `stop` is set, also while Redis is unavailable.

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
                async with asyncio.timeout(INTERVAL):
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
        if time.monotonic() >= self._ask_memory_at:
            memory: dict[str, Any] = await self._redis.info("memory")
            self._marks_most = int(int(memory.get("maxmemory", 0)) * MARKS_SHARE)
            self._ask_memory_at = time.monotonic() + _MEMORY_EVERY
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
                    self._marks_most,
                    _KEYS_AT_ONCE,
                ],
            )
            self.remembered, self.configured = remembered / 1000, configured / 1000
            self.ahead = ahead / 1000
        if self.remembered is not None and self.configured is not None:
            self._reached(self.remembered, self.configured)

    async def free_bytes(self) -> int:
        """Trim, and remove a share of each stream's bytes beyond that.

        Returns:
            Bytes removed.
        """
        names = list(self._retention)
        fields = await self._redis.hmget(self._keys.head, [f"{name}.bytes" for name in names])
        held = dict(zip(names, (int(value or 0) for value in fields), strict=True))
        freed = sum([await self._trim_stream(name, held[name] // _SHARE + 1) for name in names])
        await self.expire_marks()  # those that no retained message needs any more
        return freed

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
                    _WORK,
                ],
            )
            total += removed
        return total
