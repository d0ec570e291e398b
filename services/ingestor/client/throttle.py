"""The throttle of one operator: a request to any of its logs waits for a slot.

`OperatorThrottle` has the slots of one operator, for all its logs in this process; Redis spaces
them over all processes (`certbus.limits.operators`). Each log waits for a few slots at a time. A
slot is assigned when it comes: to a log at its head first, then to those that catch up, in turn;
these get at least one slot in `CATCH_UP_SHARE`. While the operator pauses its logs of one API, only
requests to the others get slots. A slot missed by more than `LATE_SECS` is lost and another one
reserved, so an operator receives at most `1 + (span + LATE_SECS) / interval` requests in any span
of seconds, less what a request spends on its way. Every request counts: tree heads, entries,
proofs, issuers, redirects and repetitions.
"""

import asyncio
from collections import Counter, deque
from enum import Enum
from functools import partial
from typing import Final

from certbus.keys import operator_key
from certbus.limits.operators import OperatorSlots, Slot
from certconf.settings import CTLog
from ingestor.log import Kind
from ingestor.redis_retry import RedisRetry

LATE_SECS: Final = 0.3
MAX_LEAD_SECS: Final = 1.0
"""How far ahead a slot is reserved at most, because Redis answers late: others wait for it, too."""

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


class _Turn(asyncio.Future[None]):
    """A request that waits for a slot.

    Attributes:
        kind: API of its log.
        is_proof: whether it requests a proof.
    """

    kind: Kind
    is_proof: bool


class OperatorThrottle:
    """The slots of one operator in this process.

    Args:
        operator: its name.
        interval: configured seconds between two requests; 0: no limit.
        slots: reserves them.
        redis_retry: what to do while Redis is away.

    Attributes:
        operator: as given.
        interval: as given.
        current: seconds between two requests at present.
    """

    def __init__(
        self, operator: str, interval: float, slots: OperatorSlots, redis_retry: RedisRetry
    ) -> None:
        self.operator = operator
        self.interval = self.current = interval
        self._slots = slots
        self._redis_retry = redis_retry
        self._at_head: deque[_Turn] = deque()
        self._behind: deque[_Turn] = deque()
        self._reserving: set[asyncio.Task[None]] = set()  # at least one for each turn that waits
        self._asleep: Counter[Kind] = Counter()  # those of them that wait for the end of a pause
        self._passed_over = 0  # slots for logs at their head while others waited
        self._answered = 0  # answers other than 429 that Redis does not know of yet
        self._counts_until = 0.0  # loop time
        self._paused_until = dict.fromkeys(Kind, 0.0)  # loop time
        self._in_a_row: Counter[Kind] = Counter()  # answers since the last long pause
        self._lead = 0.0  # seconds that the next slot must be ahead, because Redis answers late

    def budget(self, kind: Kind) -> RequestBudget:
        """Return whether the operator counts requests to its logs of one API."""
        if asyncio.get_running_loop().time() < self._counts_until:
            return RequestBudget.LIMITED
        is_unlimited = self._in_a_row[kind] >= UNLIMITED_AFTER
        return RequestBudget.UNLIMITED if is_unlimited else RequestBudget.UNKNOWN

    async def acquire(
        self, kind: Kind, *, is_behind: bool, purpose: Purpose = Purpose.OTHER
    ) -> None:
        """Wait for a slot.

        Args:
            kind: API of the log.
            is_behind: whether the log catches up.
            purpose: proofs are first in their class: entries that were read wait for them.
        """
        if not self.interval:
            if self._redis_retry.problem is not None:
                await self._redis_retry(self._slots.now)  # nothing could be published
            return
        turn = _Turn()
        turn.kind, turn.is_proof = kind, purpose is Purpose.PROOF
        waiting = self._behind if is_behind else self._at_head
        proofs = next((n for n, each in enumerate(waiting) if not each.is_proof), len(waiting))
        waiting.insert(proofs if turn.is_proof else len(waiting), turn)
        # A reservation serves the first request when its slot comes, so it survives this request.
        reserving = asyncio.create_task(self._assign())
        self._reserving.add(reserving)
        reserving.add_done_callback(self._reserving.discard)
        try:
            await turn
        finally:
            if turn in waiting:  # it got no slot
                waiting.remove(turn)

    def answered(self, kind: Kind) -> None:
        """Count an answer other than 429 of a log of one API."""
        self._answered += 1
        self._in_a_row[kind] += 1

    async def record_429(self, kind: Kind, log_id: str, pause: float, *, requested: bool) -> None:
        """Record a 429: it slows the operator down, or pauses its logs of one API.

        Args:
            kind: API of the log.
            log_id: the log that answered.
            pause: seconds that it pauses.
            requested: whether the answer had a Retry-After.
        """
        loop = asyncio.get_running_loop()
        if requested and pause >= LONG_PAUSE_SECS:
            self._counts_until = loop.time() + COUNTS_SECS
            self._in_a_row.clear()
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
            api=kind.value,
        )
        if paused := await self._redis_retry(record):
            self._paused_until[kind] = loop.time() + paused

    async def _assign(self) -> None:
        """Reserve a slot, and assign it when it comes; again if it cannot be used."""
        try:
            while (kind := self._wanted()) is not None:
                if await self._met(kind) and (turn := self._next()) is not None:
                    turn.set_result(None)
                    return
        except Exception as error:  # noqa: BLE001  (a request raises it)
            waiting = self._waiting()
            for turn in sorted(waiting, key=lambda turn: self._is_paused(turn.kind))[:1]:
                turn.set_exception(error)

    def _waiting(self) -> list[_Turn]:
        return [turn for turn in (*self._at_head, *self._behind) if not turn.done()]

    def _wanted(self) -> Kind | None:
        """Return the API to reserve a slot for, or whose pause to wait for.

        There is a reservation for each request that may be sent, and one that waits for each that
        may not. None: this one is not needed.
        """
        free, paused = list[Kind](), Counter[Kind]()
        for turn in self._waiting():
            if self._is_paused(turn.kind):
                paused[turn.kind] += 1
            else:
                free.append(turn.kind)
        awake = sum(not task.done() for task in self._reserving) - self._asleep.total()
        if awake <= len(free):
            return free[0]
        return next((kind for kind, count in paused.items() if self._asleep[kind] < count), None)

    def _is_paused(self, kind: Kind) -> bool:
        return self._paused_until[kind] > asyncio.get_running_loop().time()

    async def _met(self, kind: Kind) -> bool:
        """Wait for the next free slot; return whether it was met in time."""
        loop = asyncio.get_running_loop()
        if self._is_paused(kind):
            self._asleep[kind] += 1
            try:
                await asyncio.sleep(self._paused_until[kind] - loop.time())
            finally:
                self._asleep[kind] -= 1
            return False
        answered, self._answered = self._answered, 0

        async def reserve() -> tuple[float, Slot]:
            requested = loop.time()
            slot = await self._slots.reserve(
                self.operator, self.interval, answered, kind.value, self._lead
            )
            spent = loop.time() - requested
            self._lead = min(spent, MAX_LEAD_SECS) if spent > LATE_SECS / 2 else 0.0
            return requested + slot.wait, slot

        due, slot = await self._redis_retry(reserve)
        self.current = slot.interval
        self._counts_until = max(self._counts_until, loop.time() + slot.counts)
        for api in Kind:
            if seconds := slot.paused if api is kind else slot.other_paused:
                self._paused_until[api] = loop.time() + seconds
        if slot.paused:
            return False
        await asyncio.sleep(due - loop.time())
        return loop.time() - due <= LATE_SECS

    def _next(self) -> _Turn | None:
        """Return the request that gets the slot; None if none waits that may be sent."""
        at_head, behind = self._first(self._at_head), self._first(self._behind)
        if behind is not None and (at_head is None or self._passed_over >= CATCH_UP_SHARE - 1):
            self._passed_over = 0
            self._behind.remove(behind)
            return behind
        self._passed_over = self._passed_over + 1 if behind is not None else 0
        if at_head is not None:
            self._at_head.remove(at_head)
        return at_head

    def _first(self, waiting: deque[_Turn]) -> _Turn | None:
        """Return the first request to a log whose API is not paused."""
        free = (turn for turn in waiting if not turn.done() and not self._is_paused(turn.kind))
        return next(free, None)
