"""The state of the cluster in Redis, cached for one second."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from redis.asyncio import Redis

from certbus.cluster import Snapshot, snapshot
from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certbus.server_state import ServerState, server_state
from gateway.http.errors import ErrorCode, error_response
from gateway.http.messages import DeferredResponse, Response, json_body

_CACHE_TTL_SECS: Final = 1.0
_TIMEOUT_SECS: Final = 1.0  # of a read

_AGAIN: Final = ("Retry-After", "2")


class SnapshotCache:
    """Reads the cluster at most once per second.

    Args:
        client: the primary.
        keys: names of the keys.

    Attributes:
        server: state of the Redis server at the last read, or why the read failed. It contains no
            address, for it is public.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._lock = asyncio.Lock()
        self._snapshot: Snapshot | None = None
        self._until = 0.0
        self.server: ServerState | str = "not read yet"

    async def get(self) -> Snapshot | None:
        """Return the snapshot; None if Redis is unavailable."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._snapshot = await self._read()
                self._until = time.monotonic() + _CACHE_TTL_SECS
            return self._snapshot

    async def _read(self) -> Snapshot | None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECS):
                self.server = await server_state(self._redis)
                return await snapshot(self._redis, self._keys)
        except (*UNAVAILABLE, TimeoutError) as error:
            self.server = f"{type(error).__name__}; the log of this gateway has the details"
            return None

    def json_response(self, show: Callable[[Snapshot, float], object]) -> DeferredResponse:
        """Respond with `show(snapshot, its time in seconds)` as JSON."""

        async def respond() -> Response:
            snapshot = await self.get()
            return (
                unavailable()
                if snapshot is None
                else json_body(show(snapshot, snapshot.now / 1000))
            )

        return DeferredResponse(respond)


def unavailable() -> Response:
    """Return the error response for an unavailable Redis."""
    error = f"Service unavailable: cannot reach Redis; retry in {_AGAIN[1]} s"
    return error_response(ErrorCode.REDIS_UNAVAILABLE, error, _AGAIN)
