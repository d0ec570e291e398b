"""The health pages of an ingestor, for its supervisor."""

import asyncio
from typing import Any, Final

from redis.asyncio import Redis

from certbus.errors import UNAVAILABLE, describe
from certhttp.server import Response, json_response, text_response
from ingestor.assignment.assigned_log import AssignedLog
from ingestor.assignment.worker import Worker
from ingestor.redis_retry import RedisRetry

_REDIS_TIMEOUT_SECS: Final = 1.0


class Health:
    """Checks Redis and the logs of this ingestor.

    Args:
        redis: the primary.
        redis_retry: has the last error of Redis.
        worker: has the logs.
    """

    def __init__(self, redis: Redis, redis_retry: RedisRetry, worker: Worker) -> None:
        self._redis = redis
        self._redis_retry = redis_retry
        self._worker = worker

    async def answer(self) -> Response:
        """Return OK or the problem. Any answer shows that the event loop runs."""
        problem = await self._problem()
        return text_response("OK") if problem is None else json_response(503, _unhealthy(problem))

    async def deep_answer(self) -> Response:
        """Return the same, with each log that this ingestor follows."""
        problem = await self._problem()
        logs = [_describe(each) for each in self._worker.assigned]
        troubled = sum(log["last_error"] is not None for log in logs)
        if problem is not None:
            return json_response(503, {**_unhealthy(problem), "logs": logs})
        status = "degraded" if troubled else "healthy"
        return json_response(200, {"status": status, "redis": "connected", "logs": logs})

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_SECS):
                await self._redis.ping()
        except TimeoutError:
            return f"no answer within {_REDIS_TIMEOUT_SECS:g} s"
        except UNAVAILABLE as error:
            return describe(error)
        return self._redis_retry.problem


def _unhealthy(problem: str) -> dict[str, Any]:
    return {"status": "unhealthy", "reason": f"redis: {problem}"}


def _describe(assigned: AssignedLog) -> dict[str, Any]:
    follower = assigned.follower
    health, availability, lag = follower.health, follower.availability, follower.lag
    return {
        "name": follower.log.name,
        "next": follower.publisher.next,
        "tree_size": health.tree_size,
        "lag_entries": lag.entries,
        "lag_secs": round(lag.seconds, 3),
        "integrity": follower.verifier.state,
        "circuit": availability.status.state,
        "last_error": availability.last_error if availability.status.failures else None,
    }
