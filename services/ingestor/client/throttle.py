"""When one log may be asked: not while it is to be left alone, and in its operator's turn.

A log waits for one turn at a time, so that of all the logs of an operator, whoever follows them,
each gets as many turns as the next, however much it has to catch up with. A turn that was slept
through is given back to nobody: whoever is more than `LATE` late takes another, so no more than
`1 + (span + LATE) / interval` requests are sent to an operator in any span of time.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from certbus.limits.operators import OperatorSlots
from ingestor.client.circuit_breaker import CircuitBreaker
from ingestor.client.errors import Throttled, UnexpectedStatus
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

LATE = 0.5
"""Seconds."""

_TOO_MANY_REQUESTS = 429


class OperatorThrottle:
    """The turns of one log.

    Args:
        log: the log.
        interval: seconds between two requests to its operator; 0: as many as may be.
        circuit: whether the log may be asked.
        operators: whose turn it is.
        redis_retry: what to do while Redis is away.
        waited: told the seconds that were spent waiting for a turn.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        log: Log,
        interval: float,
        circuit: CircuitBreaker,
        operators: OperatorSlots,
        redis_retry: RedisRetry,
        waited: Callable[[float], None] = lambda _seconds: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        # Who runs it, as far as is known.
        self._operator = log.operator or urlsplit(log.url).hostname or log.id
        self._interval = interval
        self._circuit = circuit
        self._operators = operators
        self._redis_retry = redis_retry
        self._waited = waited
        self._clock = clock
        self._lock = asyncio.Lock()  # which is fair

    @property
    def unlimited(self) -> bool:
        """Whether a request should not be repeated: the log is only being tried."""
        return not self._circuit.closed

    async def acquire(self, url: str) -> None:
        """Wait until `url` may be asked for.

        Raises:
            LeftAlone: it may not for now.
        """
        self._refuse(url)
        if not self._interval:
            return
        began = asyncio.get_running_loop().time()
        async with self._lock:
            while not await self._next():
                pass
        self._waited(asyncio.get_running_loop().time() - began)
        self._refuse(url)

    async def record_429(self, error: UnexpectedStatus) -> None:
        """The log has answered with an error: do as it asks."""
        if error.retry_after is None:
            return
        self._circuit.open_until(self._clock(), error.retry_after)
        if error.status == _TOO_MANY_REQUESTS and self._interval:
            refused = partial(self._operators.record_429, self._operator, self._log.id)
            await self._redis_retry(partial(refused, error.retry_after))

    async def _next(self) -> bool:
        """Wait for the next turn; returns whether it was caught."""
        loop = asyncio.get_running_loop()

        async def turn() -> float:
            asked = loop.time()
            return asked + await self._operators.reserve(self._operator, self._interval)

        due = await self._redis_retry(turn)
        await asyncio.sleep(due - loop.time())
        return loop.time() - due <= LATE

    def _refuse(self, url: str) -> None:
        left = self._circuit.wait(self._clock())
        if left > 0:
            raise Throttled(self._log.name, url, f"left alone for {left:.1f} s more")
