"""The stored state of the circuit breaker of each log, for its next owner and for `status`.

The ingestor opens and closes circuits. A worker that takes a log continues with the stored state,
so a log that is down gets no more requests because it moved.
"""

import time
from collections.abc import Callable
from typing import Literal

import msgspec
from redis.asyncio import Redis

from certbus.clock import to_ms
from certbus.keys import Keys
from certbus.store import (
    MAX_TEXT_CHARS,
    Change,
    Store,
    counted_once,
    read_struct,
    round_trip,
    texts,
)

State = Literal["closed", "half-open", "open"]
"""Requests as usual; a few requests as a probe; no requests until `retry_at`."""

_MAX_PAUSE_MS = 3600 * 1000
"""The longest pause of a circuit, if its length is not stored, as by the previous release."""


class CircuitStatus(msgspec.Struct, frozen=True):
    """One log's circuit.

    Attributes:
        state: see `State`.
        failures: in a row.
        retry_at: time of the next request, milliseconds since the epoch by the clock of this
            process; None: at any time. Redis stores it by its own clock.
    """

    state: State = msgspec.field(default="closed", name="circuit")
    failures: int = 0
    retry_at: int | None = None


class _Stored(CircuitStatus, frozen=True):
    """A circuit in Redis.

    Attributes:
        pause: milliseconds from when it was stored to `retry_at`: no owner waits longer, also if
            the clock of Redis was set back since.
    """

    pause: int = msgspec.field(default=_MAX_PAUSE_MS, name="retry_pause")


class CircuitStore(Store):
    """The circuits in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
        clock: seconds since the epoch, of this process.
    """

    def __init__(self, client: Redis, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        super().__init__(client, keys)
        self._clock = clock

    async def load(self, log_id: str) -> CircuitStatus:
        """Read the circuit of a log; closed, if nothing readable is stored."""
        names = _Stored.__struct_encode_fields__
        commands = ("TIME",), ("HMGET", self._keys.log(log_id), *names)
        now, values = await round_trip(self._redis, commands)
        stored = read_struct(_Stored, texts(names, values))
        retry_at = stored.retry_at
        if retry_at is not None:
            pause = min(retry_at - to_ms(now), stored.pause, _MAX_PAUSE_MS)
            retry_at = int(self._clock() * 1000) + pause
        return CircuitStatus(stored.state, stored.failures, retry_at)

    async def save(self, log_id: str, status: CircuitStatus) -> None:
        """Store the circuit of a log."""
        await self._update(self._keys.log(log_id), *self._changes(status))

    async def failed(
        self, log_id: str, status: CircuitStatus, reason: str, event: str = ""
    ) -> None:
        """Count one failure of a log, and store its circuit.

        Args:
            log_id: the log.
            status: of its circuit after the failure.
            reason: what is wrong, one line.
            event: identifies the failure: it is counted once, however often this is repeated.
        """
        await self._update(
            self._keys.log(log_id),
            counted_once("error_event", event),
            ("add", "errors", 1),
            *last_error(reason),
            *self._changes(status),
        )

    async def noted(self, log_id: str, reason: str) -> None:
        """Store what is wrong with a log that can still be read."""
        await self._update(self._keys.log(log_id), *last_error(reason))

    def _changes(self, status: CircuitStatus) -> tuple[Change, ...]:
        """Return the changes that store a circuit."""
        pause: tuple[Change, ...] = ("delete", "retry_at", ""), ("delete", "retry_pause", "")
        if status.retry_at is not None:
            length = status.retry_at - int(self._clock() * 1000)
            pause = ("time", "retry_at", length), ("set", "retry_pause", max(length, 0))
        return ("set", "circuit", status.state), ("set", "failures", status.failures), *pause


def last_error(reason: str) -> tuple[Change, ...]:
    """Return the changes that store what is wrong with a log; none for an empty reason."""
    if not reason:
        return ()
    return ("set", "last_error", reason[:MAX_TEXT_CHARS]), ("time", "last_error_at", 0)
