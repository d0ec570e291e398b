"""The stored state of the circuit breaker of each log, for its next owner and for `status`.

The ingestor opens and closes circuits. A worker that takes a log continues with the stored state,
so a log that is down gets no more requests because it moved.
"""

import time
from collections.abc import Callable
from typing import Literal

import msgspec
from redis.asyncio import Redis

from certbus.ids import new_event
from certbus.keys import Keys
from certbus.scripts import register_script

State = Literal["closed", "half-open", "open"]
"""Requests as usual; a few requests as a probe; no requests until `retry_at`."""

_FIELDS = ("circuit", "failures", "retry_at")

_MAX_PAUSE_MS = 3600 * 1000
"""The longest pause of a circuit. A stored one that ends later was stored before the clock of Redis
was set back."""


class CircuitStatus(msgspec.Struct, frozen=True):
    """One log's circuit.

    Attributes:
        state: see `State`.
        failures: in a row.
        retry_at: time of the next request, milliseconds since the epoch by the clock of this
            process; None: at any time. Redis stores it by its own clock.
    """

    state: State = "closed"
    failures: int = 0
    retry_at: int | None = None


class CircuitStore:
    """The circuits in Redis.

    Args:
        client: the primary.
        keys: names of the keys.
        clock: seconds since the epoch, of this process.
    """

    def __init__(self, client: Redis, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._redis = client
        self._keys = keys
        self._clock = clock
        self._update_fields = register_script(client, "lua/update_fields.lua")

    async def load(self, log_id: str) -> CircuitStatus:
        """Read the circuit of a log; closed, if nothing readable is stored."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.hmget(self._keys.log(log_id), _FIELDS)
            (seconds, microseconds), values = await pipeline.execute()
        state, failures, retry_at = (value and value.decode() for value in values)
        known = {"state": state or "closed", "failures": failures or 0, "retry_at": retry_at}
        try:
            stored = msgspec.convert(known, CircuitStatus, strict=False)
        except msgspec.ValidationError:
            return CircuitStatus()
        if stored.retry_at is None:
            return stored
        pause = min(stored.retry_at - (seconds * 1000 + microseconds // 1000), _MAX_PAUSE_MS)
        return msgspec.structs.replace(stored, retry_at=int(self._clock() * 1000) + pause)

    async def save(self, log_id: str, status: CircuitStatus) -> None:
        """Store the circuit of a log."""
        await self._update_fields(keys=[self._keys.log(log_id)], args=self._changes(status))

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
        changes: list[str | int] = [
            *("once", "error_event", event or new_event()),
            *("add", "errors", 1),
            *("set", "last_error", reason[:500]),
            *("time", "last_error_at", 0),
            *self._changes(status),
        ]
        await self._update_fields(keys=[self._keys.log(log_id)], args=changes)

    async def noted(self, log_id: str, reason: str) -> None:
        """Store what is wrong with a log that can still be read."""
        error: list[str | int] = ["set", "last_error", reason[:500], "time", "last_error_at", 0]
        await self._update_fields(keys=[self._keys.log(log_id)], args=error)

    def _changes(self, status: CircuitStatus) -> list[str | int]:
        """Return the changes of update_fields.lua that store a circuit."""
        pause: list[str | int] = ["delete", "retry_at", ""]
        if status.retry_at is not None:
            pause = ["time", "retry_at", status.retry_at - int(self._clock() * 1000)]
        return ["set", "circuit", status.state, "set", "failures", status.failures, *pause]
