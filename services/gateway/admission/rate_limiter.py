"""Request rates over all gateways; of this process alone while Redis is unavailable.

The next call of Redis decides about all requests that arrive during a call. So there is one call at
a time on one connection, whatever the number of requests.
"""

import asyncio
import math
import time
from collections import OrderedDict
from typing import Final

import msgspec

from certbus.limits.clients import Decision, Rate, RateLimits
from gateway.admission.redis_fallback import RedisWithFallback, UnavailableError

_MAX_BATCH: Final = 200  # requests per call, which takes Redis one millisecond
_MAX_CLIENTS: Final = 10_000  # the least recent one is dropped


class _Bucket(msgspec.Struct):
    """State of one client. Times are ms; `current` and `before` count requests of two windows."""

    tokens: float
    at: float
    burst: int = 0
    burst_at: float = 0
    window: float = 0
    current: int = 0
    before: int = 0


class LocalRateLimiter:
    """Token buckets and sliding windows of one process."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, _Bucket] = OrderedDict()

    def acquire(self, key: str, rate: Rate, now: float) -> Decision:
        """Count one request.

        Args:
            key: of the client.
            rate: its limits.
            now: of a monotonic clock, in seconds.
        """
        now = math.floor(now * 1000)
        state = self._states.setdefault(key, _Bucket(rate.capacity, now, burst_at=now))
        self._states.move_to_end(key)
        if len(self._states) > _MAX_CLIENTS:
            self._states.popitem(last=False)
        return _take(state, rate, now)


def _take(state: _Bucket, rate: Rate, now: float) -> Decision:
    refill, window, burst_ms = rate.refill / 1000, int(rate.window * 1000), rate.burst_window * 1000
    state.tokens = min(state.tokens + max(now - state.at, 0) * refill, rate.capacity)
    state.at = now
    if now - state.burst_at >= burst_ms:
        state.burst, state.burst_at = 0, now
    start = now - now % window
    if state.window != start:
        state.before = state.current if state.window == start - window else 0
        state.window, state.current = start, 0

    covered = state.before * (window - (now - start)) / window + state.current
    fits = covered + 1 <= rate.window_requests
    bursts = state.burst + 1 <= rate.burst
    if fits and (state.tokens >= 1 or bursts):
        if state.tokens >= 1:
            state.tokens -= 1
        else:
            state.burst += 1
        state.current += 1
        left = min(rate.window_requests - covered - 1, state.tokens + rate.burst - state.burst)
        return Decision(True, max(0, math.floor(left)), _until_full(state, rate), 0)
    wait = 0.0 if fits else _until_it_fits(state, rate.window_requests, window, now - start)
    if state.tokens < 1 and not bursts:
        refilled = (1 - state.tokens) / refill
        wait = max(
            wait, min(refilled, state.burst_at + burst_ms - now) if rate.burst >= 1 else refilled
        )
    return Decision(False, 0, _until_full(state, rate), max(1, math.ceil(wait)) / 1000)


def _until_full(state: _Bucket, rate: Rate) -> float:
    return math.ceil((rate.capacity - state.tokens) / rate.refill * 1000) / 1000


def _until_it_fits(state: _Bucket, limit: int, window: int, elapsed: float) -> float:
    """Return the milliseconds until the sliding window accepts one more request."""
    if state.current + 1 <= limit:
        return window * (1 - (limit - 1 - state.current) / state.before) - elapsed
    return window - elapsed + window * max(1 - (limit - 1) / state.current, 0)


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
