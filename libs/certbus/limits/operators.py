"""Request slots of log operators: one request at a time, whichever ingestor sends it.

A slot is a moment. A caller reserves the next one that is free, an interval after the one before,
and learns how long it has to wait: one call, no polling, first come, first served. A slot that is
not used is lost. So no operator receives two requests within the interval, except for how late
callers use their slots.

The interval follows the operator's answers. It is the configured one until a quarter of the last 20
answers (at most a minute old) are 429; then it grows by a quarter, once a second at most, up to a
second or the configured value if that is longer. After five seconds without a 429 it shrinks by a
tenth each second. A Redis that lost the state starts again at the configured interval.

A log that answers 429 is paused by its owner. When a second log of the same operator answers 429
with a Retry-After while the first one still waits, the operator's logs of this API pause for all
ingestors until the later one ends, at most `MAX_PAUSE_SECS`: one log alone cannot stop the others.
Those of the other API continue, until one of them answers 429, too: operators serve tiles from
other systems than get-entries. An operator of which a log has requested a pause of 10 s or more is
taken to count requests, for half an hour: its logs then poll as seldom as whole pages of entries
are likely to be new.
"""

from typing import Final

import msgspec

from certbus.store import Store, script

MAX_PAUSE_SECS: Final = 300.0
SLOWEST_SECS: Final = 1.0
"""The longest interval that 429 answers lead to."""

RFC6962: Final = "rfc6962"


class Slot(msgspec.Struct, frozen=True):
    """A reserved moment.

    Attributes:
        wait: seconds until it comes.
        interval: seconds between two slots at present.
        counts: seconds for which the operator is taken to count requests.
        paused: seconds for which its logs of this API pause; then no slot is reserved.
        other_paused: seconds for which those of the other API pause.
    """

    wait: float
    interval: float
    counts: float = 0.0
    paused: float = 0.0
    other_paused: float = 0.0


class OperatorSlots(Store):
    """The slots of all operators, in Redis."""

    _reserve = script("lua/operator_slots.lua", "limits/lua/reserve_request_slot.lua")
    _refused = script("lua/operator_slots.lua", "limits/lua/record_rate_limited.lua")

    async def reserve(
        self,
        operator: str,
        interval: float,
        answered: int = 0,
        api: str = RFC6962,
        lead: float = 0.0,
    ) -> Slot:
        """Reserve the next free slot, even if Redis is full.

        Args:
            operator: its name; case, punctuation and repeated blanks do not matter.
            interval: the configured seconds between two slots, above 0.
            answered: answers other than 429 since the last call for this log.
            api: of the log: `rfc6962` or `static-ct`.
            lead: seconds that the slot is ahead at least, for a caller that Redis answers late.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached; a slot may have been reserved.
        """
        times = await self._reserve(
            keys=[self._keys.operator(operator)],
            args=[
                *_interval_ms(interval),
                int(MAX_PAUSE_SECS * 1000),
                answered,
                api,
                int(lead * 1_000_000),
            ],
        )
        return Slot(*(us / 1_000_000 for us in times))

    async def record_429(
        self,
        operator: str,
        log_id: str,
        seconds: float,
        interval: float = 0.001,
        *,
        answered: int = 0,
        requested: bool = True,
        api: str = RFC6962,
    ) -> float:
        """Record that a log has answered 429.

        Args:
            operator: who runs it.
            log_id: the log.
            seconds: that the log pauses.
            interval: as for `reserve`.
            answered: as for `reserve`.
            requested: whether the answer had a Retry-After.
            api: as for `reserve`.

        Returns:
            Seconds for which this makes all logs of the operator and API pause; 0: it does not.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        reply = await self._refused(
            keys=[self._keys.operator(operator)],
            args=[
                log_id,
                int(seconds * 1000),
                int(requested),
                int(MAX_PAUSE_SECS * 1000),
                *_interval_ms(interval),
                answered,
                api,
            ],
        )
        return int(reply) / 1_000_000


def _interval_ms(interval: float) -> tuple[str, str]:
    """The shortest and the longest interval, in milliseconds."""
    return f"{interval * 1000:.3f}", f"{max(interval, SLOWEST_SECS) * 1000:.3f}"
