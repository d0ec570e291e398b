"""How the circuit breaker of each log stands: kept with the log, for its next owner and to be seen.

What opens and closes a circuit is the ingestor's part; a worker that takes a log goes on with what
the one before it had learned, so a log that is down is not asked more often because it moved.
"""

from typing import Any, Literal

import msgspec
from redis.asyncio import Redis

from certbus.clock import now_ms
from certbus.keys import Keys

State = Literal["closed", "half-open", "open"]
"""Asked as usual; asked a little, to find out; not asked until `retry_at`."""

_FIELDS = ("circuit", "failures", "retry_at")


class CircuitStatus(msgspec.Struct, frozen=True):
    """One log's circuit.

    Attributes:
        state: see `State`.
        failures: in a row.
        retry_at: the log is not asked before, milliseconds since the epoch; None: at any time.
    """

    state: State = "closed"
    failures: int = 0
    retry_at: int | None = None


class Circuits:
    """Reads and writes them.

    Args:
        client: the primary.
        keys: names of the keys.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys

    async def load(self, log_id: str) -> CircuitStatus:
        """Read how a log's circuit stands; closed, if nothing readable is known."""
        values: list[Any] = await self._redis.hmget(self._keys.log(log_id), _FIELDS)
        state, failures, retry_at = (value and value.decode() for value in values)
        known = {"state": state or "closed", "failures": failures or 0, "retry_at": retry_at}
        try:
            return msgspec.convert(known, CircuitStatus, strict=False)
        except msgspec.ValidationError:
            return CircuitStatus()

    async def save(self, log_id: str, status: CircuitStatus) -> None:
        """Write down how a log's circuit stands."""
        key = self._keys.log(log_id)
        async with self._redis.pipeline(transaction=True) as transaction:
            self._put(transaction, key, status, {})
            await transaction.execute()

    async def failed(self, log_id: str, status: CircuitStatus, reason: str) -> None:
        """Count one failure of a log, and write down what it has led to.

        Args:
            log_id: the log.
            status: of its circuit now.
            reason: what is wrong; one line for a person.
        """
        key = self._keys.log(log_id)
        told = {"last_error": reason[:500], "last_error_at": now_ms()}
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hincrby(key, "errors", 1)
            self._put(transaction, key, status, told)
            await transaction.execute()

    def _put(self, pipeline: Any, key: str, status: CircuitStatus, more: dict[str, Any]) -> None:
        said = {"circuit": status.state, "failures": status.failures, **more}
        if status.retry_at is None:
            pipeline.hdel(key, "retry_at")
        else:
            said["retry_at"] = status.retry_at
        pipeline.hset(key, mapping=said)
