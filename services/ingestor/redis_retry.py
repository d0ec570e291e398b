"""Retries Redis calls while Redis is unavailable, and logs an outage once.

All tasks of an ingestor share one `RedisRetry`, so that an outage is one line in the log, not one
for each of fifty logs every second. An error that concerns one command, its key or its data is no
outage: it is raised, and fails the log that it concerns.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import structlog

from certbus.errors import UNAVAILABLE, WriteRefused, describe
from ingestor.backoff import REDIS

P = ParamSpec("P")
T = TypeVar("T")

_log = structlog.get_logger(__name__)


class RedisRetry:
    """Repeats calls that fail because Redis is unavailable, full or read-only. All tasks share it.

    Attributes:
        problem: why the last attempt failed; None if it did not.
        reached: whether Redis answered it, also if it refused to write.
    """

    def __init__(self) -> None:
        self.problem: str | None = "not called yet"
        self.reached = False
        self._away_since: float | None = None  # loop time

    async def __call__(
        self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return `call(...)`, which is idempotent, repeated while Redis is unavailable."""
        attempt = 0
        while True:
            try:
                answer = await call(*args, **kwargs)
            except UNAVAILABLE as error:
                self._record_failure(error)
            else:
                self._record_success()
                return answer
            await asyncio.sleep(REDIS(attempt))
            attempt += 1

    def _record_failure(self, error: Exception) -> None:
        self.problem = describe(error)
        self.reached = isinstance(error, WriteRefused)
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            _log.warning("redis unavailable", problem=self.problem)

    def _record_success(self) -> None:
        self.problem = None
        self.reached = True
        if self._away_since is not None:
            away = asyncio.get_running_loop().time() - self._away_since
            self._away_since = None
            _log.info("redis recovered", away_secs=round(away, 1))
