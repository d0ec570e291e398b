"""Living without Redis for a while: keep trying, say so once, go on when it is back.

Every log's task shares one `Patience`, so that a Redis that goes away is one line in the log, not
one for each of fifty logs every second. What Redis answers to one command because of that command,
its key or its data is no outage: it is raised, and becomes the failure of the log it concerns.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from certbus.errors import UNAVAILABLE, WriteRefused, describe
from ingestor.backoff import REDIS

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class RedisRetry:
    """Repeats what failed because Redis is away, full or refusing, until it succeeds.

    Attributes:
        problem: why the last attempt failed; None if it did not.
        reached: whether Redis answered it, be it by refusing to write.
    """

    def __init__(self) -> None:
        self.problem: str | None = "not asked yet"
        self.reached = False
        self._away_since: float | None = None  # loop time

    async def __call__(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Await `ask()`, again and again while Redis is unavailable. It must be safe to repeat."""
        attempt = 0
        while True:
            try:
                answer = await ask()
            except UNAVAILABLE as error:
                self._went(error)
            else:
                self._came_back()
                return answer
            await asyncio.sleep(REDIS(attempt))
            attempt += 1

    def _went(self, error: Exception) -> None:
        self.problem = describe(error)
        self.reached = isinstance(error, WriteRefused)
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            _log.warning("redis unavailable, trying until it is back", problem=self.problem)

    def _came_back(self) -> None:
        self.problem = None
        self.reached = True
        if self._away_since is not None:
            away = asyncio.get_running_loop().time() - self._away_since
            self._away_since = None
            _log.info("redis is back", away_secs=round(away, 1))
