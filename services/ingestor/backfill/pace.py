"""The pace of a backfill: the request slots of an operator, with the lowest priority.

Slots in Redis are served in the order of their reservations. So the wait for a slot shows how many
others have reserved one. A backfill then waits `SLOT_SHARE` - 1 times as long before its next
request: it takes at most one slot in `SLOT_SHARE`, the others keep the rest.
"""

import asyncio
import time
from typing import Final

from certbus.limits.operators import RFC6962, SLOWEST_SECS, OperatorSlots, Slot
from ingestor.client.throttle import OperatorThrottle, Purpose
from ingestor.log import Kind
from ingestor.redis_retry import RedisRetry

SLOT_SHARE: Final = 10

_MAX_PAUSE_SECS: Final = 30.0
_GROWTH: Final = 1.25  # of the interval, after each 429


class SharedSlots(OperatorSlots):
    """The slots in Redis.

    Attributes:
        pause: seconds to wait before the next reservation.
    """

    pause = 0.0

    async def reserve(
        self,
        operator: str,
        interval: float,
        answered: int = 0,
        api: str = RFC6962,
        lead: float = 0.0,
    ) -> Slot:
        """Reserve the next free slot, and note how long others make it wait."""
        slot = await super().reserve(operator, interval, answered, api, lead)
        others = slot.wait - max(lead, slot.interval)
        self.pause = min((SLOT_SHARE - 1) * others, _MAX_PAUSE_SECS) if others > 0 else 0.0
        return slot


class LocalSlots(SharedSlots):
    """The slots of one process without Redis."""

    def __init__(self) -> None:
        self._next = 0.0
        self._interval = 0.0

    async def now(self) -> float:
        """Return the time of this host, seconds since the epoch."""
        return time.time()

    async def reserve(
        self,
        operator: str,  # noqa: ARG002
        interval: float,
        answered: int = 0,  # noqa: ARG002
        api: str = RFC6962,  # noqa: ARG002
        lead: float = 0.0,  # noqa: ARG002
    ) -> Slot:
        """Reserve the next free slot."""
        now = asyncio.get_running_loop().time()
        self._interval = max(self._interval, interval)
        at = max(self._next, now)
        self._next = at + self._interval
        return Slot(at - now, self._interval)

    async def record_429(
        self,
        operator: str,  # noqa: ARG002
        log_id: str,  # noqa: ARG002
        seconds: float,  # noqa: ARG002
        interval: float = 0.001,
        *,
        answered: int = 0,  # noqa: ARG002
        requested: bool = True,  # noqa: ARG002
        api: str = RFC6962,  # noqa: ARG002
    ) -> float:
        """Lengthen the interval; the log itself pauses."""
        self._interval = min(self._interval * _GROWTH, max(interval, SLOWEST_SECS))
        return 0.0


class LowestPriority(OperatorThrottle):
    """The slots of one operator, of which others get most.

    Args:
        operator: its name.
        interval: configured seconds between two requests; 0: no limit.
        slots: reserves them.
        redis_retry: what to do while Redis is away.
    """

    def __init__(
        self, operator: str, interval: float, slots: SharedSlots, redis_retry: RedisRetry
    ) -> None:
        super().__init__(operator, interval, slots, redis_retry)
        self._shared = slots

    async def acquire(
        self, kind: Kind, *, is_behind: bool, purpose: Purpose = Purpose.OTHER
    ) -> None:
        """Wait for a slot."""
        await asyncio.sleep(self._shared.pause)
        await super().acquire(kind, is_behind=is_behind, purpose=purpose)
