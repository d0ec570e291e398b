"""How often one may ask, over all gateways.

All who ask while a call to Redis is under way are decided by the next one, so that however many
come at once, there is one call at a time on one connection.
"""

import asyncio
import time
from typing import Final

from certbus.limits.clients import Decision, Rate, RateLimits
from gateway.admission.local_rate_limiter import LocalRateLimiter
from gateway.admission.redis_fallback import RedisWithFallback, UnavailableError

_AT_ONCE: Final = 200  # asks in a call, which Redis works on for a millisecond


class RateLimiter:
    """The rates of everyone, as all gateways see them.

    Args:
        limits: in Redis.
    """

    def __init__(self, limits: RateLimits) -> None:
        self._limits = limits
        self._shared = RedisWithFallback("rates")
        self._own = LocalRateLimiter()
        self._asked: list[tuple[str, Rate, asyncio.Future[Decision]]] = []
        self._wake = asyncio.Event()

    async def acquire(self, who: str, rate: Rate) -> Decision:
        """Count one request.

        Args:
            who: asks (see `certbus/keys.py`).
            rate: what they may.
        """
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._asked.append((who, rate, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Decide, until cancelled."""
        while True:
            await self._wake.wait()
            asked, self._asked = self._asked[:_AT_ONCE], self._asked[_AT_ONCE:]
            if not self._asked:
                self._wake.clear()
            decisions = await self._decide([(who, rate) for who, rate, _ in asked])
            for (_, _, future), decision in zip(asked, decisions, strict=True):
                if not future.done():
                    future.set_result(decision)

    async def _decide(self, asks: list[tuple[str, Rate]]) -> list[Decision]:
        if not self._shared.in_backoff:
            try:
                return await self._shared.call(self._limits.acquire(asks))
            except UnavailableError:
                pass
        now = time.monotonic()
        return [self._own.acquire(who, rate, now) for who, rate in asks]
