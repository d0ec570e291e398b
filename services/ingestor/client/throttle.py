"""When one log may be requested: not while it pauses, and in a slot of its operator.

A log waits for one slot at a time, so that of all the logs of an operator, whichever ingestors
follow them, each gets as many slots as the next. A slot that a request missed by more than
`LATE_SECS` is lost and the request reserves another, so an operator receives at most
`1 + (span + LATE_SECS) / interval` requests in any span of seconds. Every request counts: tree
heads, entries, proofs, issuers, redirects and repetitions.

How long the interval is follows the operator's answers (`certbus.limits.operators`).
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from certbus.limits.operators import OperatorSlots, Slot
from ingestor.client.circuit_breaker import CircuitBreaker
from ingestor.client.errors import TOO_MANY_REQUESTS, Throttled, UnexpectedStatus
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

LATE_SECS: Final = 0.5
PAUSE_SECS: Final = 5.0
"""How long a log pauses that answered 429 without a Retry-After."""


class OperatorThrottle:
    """The slots of one log.

    Args:
        log: the log.
        interval: configured seconds between two requests to its operator; 0: no limit.
        circuit: whether the log may be requested.
        operators: reserves the slots.
        redis_retry: what to do while Redis is away.
        waited: receives the seconds that were spent waiting for a slot.
        clock: seconds since the epoch.

    Attributes:
        current: seconds between two requests to the operator at present.
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
        self.current = interval
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
        self._answered = 0  # answers other than 429 that Redis does not know of yet

    @property
    def unlimited(self) -> bool:
        """Whether a request should not be repeated: the log is only being tried."""
        return not self._circuit.closed

    async def acquire(self, url: str) -> None:
        """Wait until `url` may be requested.

        Raises:
            Throttled: the log pauses.
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

    def answered(self) -> None:
        """Count an answer other than 429."""
        self._answered += 1

    async def record_429(self, error: UnexpectedStatus) -> None:
        """Pause the log as its answer requests, and slow its operator down."""
        is_429 = error.status == TOO_MANY_REQUESTS
        if error.retry_after is None and not is_429:
            return
        pause = PAUSE_SECS if error.retry_after is None else error.retry_after
        self._circuit.open_until(self._clock(), pause)
        if is_429 and self._interval:
            record = partial(
                self._operators.record_429,
                self._operator,
                self._log.id,
                pause,
                self._interval,
                answered=self._take_answered(),
                requested=error.retry_after is not None,
            )
            await self._redis_retry(record)

    async def _next(self) -> bool:
        """Wait for the next slot; return whether it was met."""
        loop = asyncio.get_running_loop()
        answered = self._take_answered()

        async def reserve() -> tuple[float, Slot]:
            requested = loop.time()
            slot = await self._operators.reserve(self._operator, self._interval, answered)
            return requested + slot.wait, slot

        due, slot = await self._redis_retry(reserve)
        self.current = slot.interval
        await asyncio.sleep(due - loop.time())
        return loop.time() - due <= LATE_SECS

    def _take_answered(self) -> int:
        answered, self._answered = self._answered, 0
        return answered

    def _refuse(self, url: str) -> None:
        left = self._circuit.wait(self._clock())
        if left > 0:
            raise Throttled(self._log.name, url, f"paused for {left:.1f} s more")
