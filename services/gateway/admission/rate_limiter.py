"""Request rates over all gateways.

The next call of Redis decides about all requests that arrive during a call. So there is one call at
a time on one connection, whatever the number of requests.
"""

import asyncio
import time
from typing import Final

from certbus.limits.clients import Decision, Rate, RateLimits
from gateway.admission.local_rate_limiter import LocalRateLimiter
from gateway.admission.redis_fallback import RedisWithFallback, UnavailableError

_MAX_BATCH: Final = 200  # requests per call, which takes Redis one millisecond


class RateLimiter:
    """Request rates by client, over all gateways.

    Args:
        limits: in Redis.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._shared = RedisWithFallback("rates")
        self._local = LocalRateLimiter()
        self._waiting: list[tuple[str, Rate, asyncio.Future[Decision]]] = []
        self._wake = asyncio.Event()

    async def acquire(self, key: str, rate: Rate) -> Decision:
        """Count one request.

        Args:
            key: of the client (see `certbus/keys.py`).
            rate: its limits.
        """
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, rate, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Decide about requests, until cancelled."""
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
            if not self._waiting:
                self._wake.clear()
            decisions = await self._decide([(key, rate) for key, rate, _ in batch])
            for (_, _, future), decision in zip(batch, decisions, strict=True):
                if not future.done():
                    future.set_result(decision)

    async def _decide(self, requests: list[tuple[str, Rate]]) -> list[Decision]:
        if not self._shared.in_backoff:
            try:
                return await self._shared.call(self._limits.acquire(requests))
            except UnavailableError:
                pass
        now = time.monotonic()
        return [self._local.acquire(key, rate, now) for key, rate in requests]
