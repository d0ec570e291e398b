"""The directory in Redis as of a moment ago, read once for all who ask meanwhile."""

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

_FRESH: Final = 1.0  # seconds for which what was seen is shown again
_PATIENCE: Final = 1.0  # seconds for Redis

_AGAIN: Final = ("Retry-After", "2")


class SnapshotCache:
    """Looks at the directory, at most once a second.

    Args:
        client: the primary.
        keys: names of the keys.

    Attributes:
        server: what Redis said of itself at the last look; why it did not answer, otherwise. Names
            no address: the public sees it.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys
        self._turn = asyncio.Lock()
        self._seen: Snapshot | None = None
        self._until = 0.0
        self.server: ServerState | str = "not asked yet"

    async def get(self) -> Snapshot | None:
        """What is seen; None if Redis does not answer."""
        async with self._turn:
            if time.monotonic() >= self._until:
                self._seen = await self._read()
                self._until = time.monotonic() + _FRESH
            return self._seen

    async def _read(self) -> Snapshot | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                self.server = await server_state(self._redis)
                return await snapshot(self._redis, self._keys)
        except (*UNAVAILABLE, TimeoutError) as error:
            self.server = f"{type(error).__name__}; the log of this gateway has the details"
            return None

    def json_response(self, show: Callable[[Snapshot, float], object]) -> DeferredResponse:
        """Answer with what `show` makes of what is seen and its TIME in seconds."""

        async def ask() -> Response:
            seen = await self.get()
            return unavailable() if seen is None else json_body(show(seen, seen.now / 1000))

        return DeferredResponse(ask)


def unavailable() -> Response:
    """Say that Redis is what is missing."""
    error = f"Service unavailable: cannot reach Redis; retry in {_AGAIN[1]} s"
    return error_response(ErrorCode.REDIS_UNAVAILABLE, error, _AGAIN)
