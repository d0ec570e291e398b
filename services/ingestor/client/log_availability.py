"""The circuit of one log at work: waits while it is open, and writes down what changes.

Of an outage, its first failure is worth a line in the log, that its circuit opens, and the first
success after it; of a log that fails now and then, one outage in `TOLD` is. All failures are
counted in Redis, with the circuit, for the log's next owner and for whoever looks.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog

from certbus.ids import new_event
from certbus.logs.circuit_state import CircuitStore
from ingestor.client.circuit_breaker import CircuitBreaker
from ingestor.client.errors import LogError, ProofUnavailable
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

TOLD = 60.0
"""Seconds for which nothing is said of another outage, unless it lasts."""

_log = structlog.get_logger(__name__)


class LogAvailability:
    """Decides when one log is tried again.

    Args:
        log: the log.
        circuit: its circuit, which its requests go by.
        circuits: where it is written down.
        redis_retry: what to do while Redis is away.
        clock: seconds since the epoch.

    Attributes:
        circuit: as given.
        errors: failures since this process follows the log.
        last_error: the last one, if there was one.
    """

    def __init__(
        self,
        log: Log,
        circuit: CircuitBreaker,
        circuits: CircuitStore,
        redis_retry: RedisRetry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.circuit = circuit
        self.errors = 0
        self.last_error = ""
        self._log = log
        self._circuits = circuits
        self._redis_retry = redis_retry
        self._clock = clock
        self._down_since: float | None = None
        self._told = False  # that it is down
        self._quiet_until = 0.0

    async def load(self) -> None:
        """Go on from where the log's last owner was."""
        self.circuit.restore(await self._redis_retry(partial(self._circuits.load, self._log.id)))

    async def can_poll(self) -> None:
        """Wait until the log may be tried."""
        before = self.circuit.status
        while (wait := self.circuit.wait(self._clock())) > 0:  # noqa: ASYNC110  (for the clock)
            await asyncio.sleep(wait)
        self.circuit.half_open()
        if self.circuit.status != before:
            await self._save()

    async def record_failure(self, error: LogError) -> None:
        """The log could not be read."""
        now = self._clock()
        was_open = not self.circuit.closed
        self.circuit.failed(now)
        self.errors += 1
        self.last_error = error.summary
        wait = round(self.circuit.wait(now), 1)
        if isinstance(error, ProofUnavailable):
            pass  # that is told, by the guard, when it lasts
        elif self._down_since is None:
            self._down_since = now
            self._tell_down(error, now, wait)
        elif not self.circuit.closed and not was_open:
            self._told = True
            _log.warning(
                "circuit opened",
                log=self._log.name,
                url=error.url,
                problem=error.problem,
                failures=self.circuit.status.failures,
                next_attempt_secs=wait,
            )
        failed = partial(self._circuits.failed, self._log.id)
        event = new_event()  # it is counted once, however often Redis has to be asked
        await self._redis_retry(partial(failed, self.circuit.status, error.summary, event))

    async def noted(self, error: LogError) -> None:
        """Something is wrong with the log, which can be read all the same."""
        self.last_error = error.summary
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + TOLD
            _log.warning("log degraded", log=self._log.name, url=error.url, problem=error.problem)
        await self._redis_retry(partial(self._circuits.noted, self._log.id, error.summary))

    async def record_progress(self) -> None:
        """The log could be read, and something of it was published."""
        before = self.circuit.status
        self.circuit.succeeded(self._clock())
        if self.circuit.status != before:
            await self._save()

    async def record_idle(self, tree_size: int) -> None:
        """The log could be read, to the head of that tree."""
        await self.record_progress()
        if self._down_since is not None and self.circuit.closed:
            down = round(self._clock() - self._down_since, 1)
            self._down_since = None
            if self._told:
                _log.info("log recovered", log=self._log.name, down_secs=down, tree_size=tree_size)
            self._told = False

    def _tell_down(self, error: LogError, now: float, wait: float) -> None:
        if now < self._quiet_until:
            return
        self._told, self._quiet_until = True, now + TOLD
        _log.warning(
            "log unavailable",
            log=self._log.name,
            url=error.url,
            problem=error.problem,
            next_attempt_secs=wait,
        )

    async def _save(self) -> None:
        status = self.circuit.status
        await self._redis_retry(partial(self._circuits.save, self._log.id, status))
