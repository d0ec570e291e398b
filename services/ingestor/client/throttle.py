"""The throttle of one operator: a request to any of its logs waits for a slot.

`OperatorThrottle` has the slots of one operator, for all its logs of one API in this process; Redis
spaces them over both APIs and all processes (`certbus.limits.operators`). An operator may pause the
logs of one API. Each log waits for a few slots at a time. A
slot is assigned when it comes: to a log at its head first, then to those that catch up, in turn;
these get at least one slot in `CATCH_UP_SHARE`. A slot missed by more than `LATE_SECS` is lost
and another one reserved, so an operator receives at most `1 + (span + LATE_SECS) / interval`
requests in any span of seconds, less what a request spends on its way. Every request counts: tree
heads, entries, proofs, issuers, redirects and repetitions.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final

from certbus.keys import operator_key
from certbus.limits.operators import OperatorSlots, Slot
from certconf.settings import CTLog
from ingestor.log import Kind
from ingestor.redis_retry import RedisRetry

LATE_SECS: Final = 0.3
LONG_PAUSE_SECS: Final = 10.0
COUNTS_SECS: Final = 1800.0
"""For how long after a 429 with a pause of at least `LONG_PAUSE_SECS` an operator's logs save
requests."""

UNLIMITED_AFTER: Final = 120
"""Answers in a row without such a 429, after which an operator is taken not to count requests."""

CATCH_UP_SHARE: Final = 3
"""Of this many slots, logs that catch up get at least one."""


class Purpose(Enum):
    """What a request is for; `OTHER`: a tree head or an issuer."""

    ENTRIES = "entries"
    PROOF = "proof"
    OTHER = "other"


class RequestBudget(Enum):
    """Whether an operator counts requests, as far as this process has seen.

    UNKNOWN: fewer than `UNLIMITED_AFTER` were answered in a row; UNLIMITED: more were, so it does
    not; LIMITED: a log has requested a long pause lately.
    """

    UNKNOWN = "unknown"
    UNLIMITED = "unlimited"
    LIMITED = "limited"


def request_interval(operator: str, settings: CTLog) -> float:
    """Return the configured seconds between two requests to an operator."""
    limits = {operator_key(name): ms for name, ms in settings.operator_rate_limits.items()}
    return limits.get(operator_key(operator), settings.default_operator_rate_limit_ms) / 1000


class OperatorThrottle:
    """The slots of one operator for logs of one API in this process.

    Args:
        operator: its name.
        interval: configured seconds between two requests; 0: no limit.
        slots: reserves them.
        redis_retry: what to do while Redis is away.
        kind: the API.
        paced: receives the seconds between two requests at present.

    Attributes:
        operator: as given.
        interval: as given.
        current: seconds between two requests at present.
    """

    def __init__(
        self,
        operator: str,
        interval: float,
        slots: OperatorSlots,
        redis_retry: RedisRetry,
        kind: Kind = Kind.RFC6962,
        paced: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.operator = operator
        self.interval = self.current = interval
        self._slots = slots
        self._redis_retry = redis_retry
        self._kind = kind
        self._paced = paced
        self._at_head: deque[asyncio.Future[None]] = deque()
        self._behind: deque[asyncio.Future[None]] = deque()
        self._reserving: set[asyncio.Task[None]] = set()
        self._passed_over = 0  # slots for logs at their head while others waited
        self._answered = 0  # answers other than 429 that Redis does not know of yet
        self._counts_until = 0.0  # loop time
        self._in_a_row = 0  # answers since the last long pause

    @property
    def budget(self) -> RequestBudget:
        """Whether the operator counts requests to its logs of this API."""
        if asyncio.get_running_loop().time() < self._counts_until:
            return RequestBudget.LIMITED
        is_unlimited = self._in_a_row >= UNLIMITED_AFTER
        return RequestBudget.UNLIMITED if is_unlimited else RequestBudget.UNKNOWN

    async def acquire(self, *, is_behind: bool, purpose: Purpose = Purpose.OTHER) -> None:
        """Wait for a slot.

        Args:
            is_behind: whether the log catches up.
            purpose: a proof is first: entries that were read wait for it.
        """
        if not self.interval:
            if self._redis_retry.problem is not None:
                await self._redis_retry(self._slots.now)  # nothing could be published
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting_turns = self._behind if is_behind else self._at_head
        if purpose is Purpose.PROOF:
            waiting_turns.appendleft(turn)
        else:
            waiting_turns.append(turn)
        reserving = asyncio.create_task(self._assign())
        self._reserving.add(reserving)
        reserving.add_done_callback(self._reserving.discard)
        # A reservation serves the first request when its slot comes, so it survives this request.
        waiting = {turn, reserving}
        try:
            while not turn.done():
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reserving.done() and reserving.exception() is not None:
                    reserving.result()
                waiting.discard(reserving)
        finally:
            turn.cancel()

    def answered(self) -> None:
        """Count an answer other than 429."""
        self._answered += 1
        self._in_a_row += 1

    async def record_429(self, log_id: str, pause: float, *, requested: bool) -> None:
        """Record a 429: it slows the operator down, or pauses it.

        Args:
            log_id: the log that answered.
            pause: seconds that it pauses.
            requested: whether the answer had a Retry-After.
        """
        if requested and pause >= LONG_PAUSE_SECS:
            self._counts_until = asyncio.get_running_loop().time() + COUNTS_SECS
            self._in_a_row = 0
        if not self.interval:
            return
        answered, self._answered = self._answered, 0
        record = partial(
            self._slots.record_429,
            self.operator,
            log_id,
            pause,
            self.interval,
            answered=answered,
            requested=requested,
            api=self._kind.value,
        )
        await self._redis_retry(record)

    async def _assign(self) -> None:
        """Reserve a slot, and assign it when it comes."""
        while not await self._met():
            if all(turn.done() for waiting in (self._at_head, self._behind) for turn in waiting):
                return
        if (turn := self._next()) is not None:
            turn.set_result(None)

    async def _met(self) -> bool:
        """Wait for the next free slot; return whether it was met in time."""
        loop = asyncio.get_running_loop()
        answered, self._answered = self._answered, 0

        async def reserve() -> tuple[float, Slot]:
            requested = loop.time()
            slot = await self._slots.reserve(
                self.operator, self.interval, answered, self._kind.value
            )
            return requested + (slot.paused or slot.wait), slot

        due, slot = await self._redis_retry(reserve)
        self.current = slot.interval
        self._paced(slot.interval)
        self._counts_until = max(self._counts_until, loop.time() + slot.counts)
        await asyncio.sleep(due - loop.time())
        return not slot.paused and loop.time() - due <= LATE_SECS

    def _next(self) -> asyncio.Future[None] | None:
        """Return the request that gets the slot; None if none waits any more."""
        for waiting in (self._at_head, self._behind):
            while waiting and waiting[0].done():
                waiting.popleft()
        if self._behind and (not self._at_head or self._passed_over >= CATCH_UP_SHARE - 1):
            self._passed_over = 0
            return self._behind.popleft()
        self._passed_over = self._passed_over + 1 if self._behind else 0
        return self._at_head.popleft() if self._at_head else None
