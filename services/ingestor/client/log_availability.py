"""The availability of one log: waits while its circuit is open, and stores what changes.

Of an outage, three events are logged: its first failure, the opening of the circuit, and the first
success after it. If outages repeat, one in `LOG_INTERVAL_SECS` is logged. Redis counts all failures
and stores the circuit, for the log's next worker and for the status of the cluster.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from certbus.ids import new_event
from certbus.logs.circuit_state import CircuitStore
from ingestor.client.circuit_breaker import CircuitBreaker
from ingestor.client.errors import LogError, ProofUnavailable, Throttled
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

LOG_INTERVAL_SECS = 60.0
"""For which another outage is not logged, unless it lasts."""

_log = structlog.get_logger(__name__)


class LogAvailability:
    """Decides when one log is retried. The follower's task owns it.

    Args:
        log: the log.
        circuit: its circuit, which its requests respect.
        circuits: stores it.
        redis_retry: repeats Redis calls while Redis is away.
        clock: seconds since the epoch.

    Attributes:
        circuit: as given.
        errors: failures since this process began to follow the log.
        last_error: the last one; empty if there was none.
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
        self._logged = False  # whether the outage was logged
        self._silent_until = 0.0
        self._limit_silent_until = 0.0

    async def load(self) -> None:
        """Continue with the circuit of the log's last worker."""
        self.circuit.restore(await self._redis_retry(self._circuits.load, self._log.id))

    async def can_poll(self) -> None:
        """Wait until the log may be requested."""
        before = self.circuit.status
        while (wait := self.circuit.wait(self._clock())) > 0:  # noqa: ASYNC110  (for the clock)
            await asyncio.sleep(wait)
        self.circuit.half_open()
        if self.circuit.status != before:
            await self._save()

    async def record_rate_limit(self, error: LogError) -> None:
        """Count a 429 and wait until the log may be requested again.

        A log that limits the rate is healthy: its circuit does not change.

        Args:
            error: a 429, or `Throttled`, which is not counted: no request was sent.
        """
        if not isinstance(error, Throttled):
            self.errors += 1
            self.last_error = error.summary
            now = self._clock()
            if now >= self._limit_silent_until:
                self._limit_silent_until = now + LOG_INTERVAL_SECS
                _log.warning(
                    "log rate limited",
                    log=self._log.name,
                    url=error.url,
                    problem=error.problem,
                    pause_secs=round(self.circuit.wait(now), 1),
                )
            await self._count(error)
        while (wait := self.circuit.wait(self._clock())) > 0:  # noqa: ASYNC110  (for the clock)
            await asyncio.sleep(wait)

    async def record_failure(self, error: LogError) -> None:
        """Record that the log could not be read."""
        if error.is_rate_limit:
            await self.record_rate_limit(error)
            return
        now = self._clock()
        was_open = not self.circuit.closed
        self.circuit.failed(now)
        self.errors += 1
        self.last_error = error.summary
        wait = round(self.circuit.wait(now), 1)
        if isinstance(error, ProofUnavailable):
            pass  # the verifier reports it if it lasts
        elif self._down_since is None:
            self._down_since = now
            self._log_outage(error, now, wait)
        elif not self.circuit.closed and not was_open:
            self._logged = True
            _log.warning(
                "circuit opened",
                log=self._log.name,
                url=error.url,
                problem=error.problem,
                failures=self.circuit.status.failures,
                next_attempt_secs=wait,
            )
        await self._count(error)

    async def noted(self, error: LogError) -> None:
        """Record a problem of a log that can be read."""
        self.last_error = error.summary
        now = self._clock()
        if now >= self._silent_until:
            self._silent_until = now + LOG_INTERVAL_SECS
            _log.warning("log degraded", log=self._log.name, url=error.url, problem=error.problem)
        await self._redis_retry(self._circuits.noted, self._log.id, error.summary)

    async def record_progress(self) -> None:
        """Record that entries of the log were published."""
        before = self.circuit.status
        self.circuit.succeeded(self._clock())
        if self.circuit.status != before:
            await self._save()

    async def record_idle(self, tree_size: int) -> None:
        """Record that all entries up to a tree head were published."""
        await self.record_progress()
        if self._down_since is not None and self.circuit.closed:
            down = round(self._clock() - self._down_since, 1)
            self._down_since = None
            if self._logged:
                _log.info("log recovered", log=self._log.name, down_secs=down, tree_size=tree_size)
            self._logged = False

    def _log_outage(self, error: LogError, now: float, wait: float) -> None:
        if now < self._silent_until:
            return
        self._logged, self._silent_until = True, now + LOG_INTERVAL_SECS
        _log.warning(
            "log unavailable",
            log=self._log.name,
            url=error.url,
            problem=error.problem,
            next_attempt_secs=wait,
        )

    async def _count(self, error: LogError) -> None:
        count, status = self._circuits.failed, self.circuit.status
        event = new_event()  # counted once, however often Redis is called
        await self._redis_retry(count, self._log.id, status, error.summary, event)

    async def _save(self) -> None:
        status = self.circuit.status
        await self._redis_retry(self._circuits.save, self._log.id, status)
