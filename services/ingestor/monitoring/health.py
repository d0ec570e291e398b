"""Whether an ingestor does its work, for whoever supervises it."""

import asyncio
from typing import Any, Final

from redis.asyncio import Redis

from certbus.errors import UNAVAILABLE, describe
from certhttp.server import Response, json_response, text_response
from ingestor.assignment.assigned_log import AssignedLog
from ingestor.assignment.worker import Worker
from ingestor.redis_retry import RedisRetry

_PATIENCE: Final = 1.0  # seconds for Redis to answer


class Health:
    """Asks Redis, and looks at the logs of this ingestor.

    Args:
        redis: the primary.
        patience: knows of what Redis refuses.
        worker: has the logs.
    """

    def __init__(self, redis: Redis, patience: RedisRetry, worker: Worker) -> None:
        self._redis = redis
        self._patience = patience
        self._worker = worker

    async def answer(self) -> Response:
        """OK, or why not. That it answers at all shows that the event loop turns."""
        problem = await self._problem()
        return text_response("OK") if problem is None else json_response(503, _unhealthy(problem))

    async def deep_answer(self) -> Response:
        """The same with each log that this ingestor follows."""
        problem = await self._problem()
        logs = [_told(held) for held in self._worker.held]
        troubled = sum(log["last_error"] is not None for log in logs)
        if problem is not None:
            return json_response(503, {**_unhealthy(problem), "logs": logs})
        status = "degraded" if troubled else "healthy"
        return json_response(200, {"status": status, "redis": "connected", "logs": logs})

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._redis.ping()
        except TimeoutError:
            return f"no answer within {_PATIENCE:g} s"
        except UNAVAILABLE as error:
            return describe(error)
        return self._patience.problem


def _unhealthy(problem: str) -> dict[str, Any]:
    return {"status": "unhealthy", "reason": f"redis: {problem}"}


def _told(held: AssignedLog) -> dict[str, Any]:
    follower = held.follower
    health, breaker, lag = follower.health, follower.breaker, follower.lag
    return {
        "name": follower.log.name,
        "next": follower.pipeline.next,
        "tree_size": health.tree_size,
        "lag_entries": lag.entries,
        "lag_secs": round(lag.seconds, 3),
        "integrity": follower.guard.state,
        "circuit": breaker.circuit.status.state,
        "last_error": breaker.last_error if breaker.circuit.status.failures else None,
    }
