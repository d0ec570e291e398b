"""The availability of one log: whether it may be requested, and when again after a failure.

    closed      requested as usual. After each failure the log pauses, longer each time; `unhealthy`
                failures in a row open the circuit
    open        not requested until `retry_at`, then half-open
    half-open   each request is sent once: `healthy` successes in a row close the circuit, a
                failure opens it again, for longer

A 429 or a Retry-After pauses the log in any state. A log that limits the rate is healthy, so a 429
changes no state.

Of an outage, three events are logged: its first failure, the opening of the circuit, and the first
success after it. If outages repeat, one in `LOG_INTERVAL_SECS` is logged. An outage of proofs alone
is logged once it opens the circuit. Redis counts all failures and stores the circuit, for the log's
next worker and for the status of the cluster.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Final, TypeVar

import httpx
import msgspec
import structlog

from certbus.ids import new_event
from certbus.logs.circuit_state import CircuitStatus, CircuitStore
from certconf.settings import CTLog
from ingestor.backoff import Backoff
from ingestor.client.errors import (
    ConnectionFailed,
    LogError,
    ProofUnavailable,
    Throttled,
    UnexpectedStatus,
)
from ingestor.client.throttle import OperatorThrottle, Purpose, RequestBudget
from ingestor.log import Log
from ingestor.redis_retry import RedisRetry

T = TypeVar("T")

MAX_PAUSE_SECS: Final = 3600.0
"""A log may request a pause; a hostile or broken one must not stop requests for ever."""

PAUSE_SECS: Final = 5.0
"""How long a log pauses that answered 429 without a Retry-After."""

MAX_RESERVED: Final = 3
"""Slots that one log reserves at the same time for entries. With one, each slot would come an
interval after the process has noticed the last one, which a busy process does late. With many,
other logs wait."""

LOG_INTERVAL_SECS: Final = 60.0
"""For which another outage is not logged, unless it lasts."""

_log = structlog.get_logger(__name__)


class CircuitPolicy(msgspec.Struct, frozen=True):
    """When requests are repeated, and circuits open and close.

    Attributes:
        attempts: requests sent for one answer, at least 1, while the circuit is closed.
        unhealthy: failures in a row that open it.
        healthy: successes in a row that close it.
        closed: delays between attempts, and after failures that do not open it.
        open: delays after those that do.
    """

    attempts: int
    unhealthy: int
    healthy: int
    closed: Backoff
    open: Backoff


def circuit_policy(settings: CTLog) -> CircuitPolicy:
    """Return the policy that is configured (`ct_log.retry_*`, `ct_log.*_threshold`)."""
    initial = settings.retry_initial_delay_ms / 1000
    return CircuitPolicy(
        attempts=max(1, settings.retry_max_attempts),
        unhealthy=settings.unhealthy_threshold,
        healthy=settings.healthy_threshold,
        closed=Backoff(initial, settings.retry_max_delay_ms / 1000),
        open=Backoff(initial, settings.health_check_interval_secs),
    )


class LogAvailability:
    """Decides when one log is requested.

    The follower's task owns it; all requests of the log call `acquire`, `record_answer`, `repeat`.

    Args:
        log: the log.
        policy: see above.
        operator: the slots of its operator.
        circuits: stores the circuit; None: it begins closed, and nothing is stored.
        redis_retry: repeats Redis calls while Redis is away.
        waited: receives the seconds that were spent waiting for a slot.
        clock: seconds since the epoch: other workers continue with the times of a circuit.
        monotonic: seconds; pauses of this worker end by it, also when the host's clock is set.

    Attributes:
        status: the stored state of the circuit.
        errors: failures since this process began to follow the log.
        last_error: the last one; empty if there was none.
        is_behind: whether the log catches up; its follower sets it.
        waiting: number of requests that wait for a slot.
    """

    def __init__(
        self,
        log: Log,
        policy: CircuitPolicy,
        operator: OperatorThrottle,
        circuits: CircuitStore | None = None,
        redis_retry: RedisRetry | None = None,
        waited: Callable[[float], None] = lambda _seconds: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.status = CircuitStatus()
        self.errors = 0
        self.last_error = ""
        self.is_behind = False
        self.waiting = 0
        self._log = log
        self._policy = policy
        self._operator = operator
        self._circuits = circuits
        self._redis_retry = redis_retry or RedisRetry()
        self._waited = waited
        self._clock = clock
        self._monotonic = monotonic
        self._paused_until = -math.inf  # by `monotonic`, as all times below
        self._reserving = asyncio.Semaphore(MAX_RESERVED)  # which is fair
        self._successes = 0  # since the circuit is half-open
        self._down_since: float | None = None
        self._logged = False  # whether the outage was logged
        self._silent_until = -math.inf
        self._limit_silent_until = -math.inf

    @property
    def is_closed(self) -> bool:
        """Whether requests are sent as usual."""
        return self.status.state == "closed"

    @property
    def pause(self) -> float:
        """Seconds until the log may be requested."""
        return max(self._paused_until - self._monotonic(), 0.0)

    @property
    def is_at_configured_interval(self) -> bool:
        """Whether the configured interval, and no 429, spaces the requests to the operator."""
        return 0 < self._operator.current <= self._operator.interval

    @property
    def budget(self) -> RequestBudget:
        """Whether the operator counts requests to logs of this API."""
        return self._operator.budget(self._log.kind)

    async def acquire(self, url: str, *, purpose: Purpose = Purpose.OTHER) -> None:
        """Wait until `url` may be requested.

        At most `MAX_RESERVED` pages wait for slots. Tree heads and proofs, which are few, do not
        wait for the pages of their log.

        Raises:
            Throttled: the log pauses.
        """
        self._refuse(url)
        if not self._operator.interval:
            await self._operator.acquire(self._log.kind, is_behind=self.is_behind, purpose=purpose)
            return
        began = asyncio.get_running_loop().time()
        self.waiting += 1
        try:
            async with self._reserving if purpose is Purpose.ENTRIES else nullcontext():
                self._refuse(url)
                await self._operator.acquire(
                    self._log.kind, is_behind=self.is_behind, purpose=purpose
                )
        finally:
            self.waiting -= 1
        self._waited(asyncio.get_running_loop().time() - began)
        self._refuse(url)

    async def record_answer(self, error: UnexpectedStatus | None = None) -> None:
        """Count an answer; pause the log as it requests, and slow its operator down after a 429."""
        if error is None or not error.is_rate_limit:
            self._operator.answered(self._log.kind)
        if error is None or (error.retry_after is None and not error.is_rate_limit):
            return
        pause = PAUSE_SECS if error.retry_after is None else error.retry_after
        self._pause_for(min(pause, MAX_PAUSE_SECS))
        if error.is_rate_limit:
            requested = error.retry_after is not None
            await self._operator.record_429(
                self._log.kind, self._log.id, pause, requested=requested
            )

    async def repeat(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send a request until it is answered, as often as the policy permits.

        A request that meets a 429 is sent again after the pause, and does not count.

        Raises:
            LogError: the error of the last attempt.
        """
        attempts = self._policy.attempts if self.is_closed else 1
        failures = 0
        while True:
            try:
                return await send()
            except LogError as error:
                if error.is_rate_limit:
                    await self._record_rate_limit(error)
                    continue
                failures += 1
                if failures >= attempts or not _may_succeed_soon(error):
                    raise
            await asyncio.sleep(self._policy.closed(failures - 1))

    async def load(self) -> None:
        """Continue with the circuit of the log's last worker."""
        if self._circuits is not None:
            self.restore(await self._redis_retry(self._circuits.load, self._log.id))

    def restore(self, status: CircuitStatus) -> None:
        """Continue with a stored circuit."""
        self.status, self._successes = status, 0
        remains = 0.0 if status.retry_at is None else status.retry_at / 1000 - self._clock()
        self._paused_until = self._monotonic() + min(remains, MAX_PAUSE_SECS)

    async def can_poll(self) -> None:
        """Wait until the log may be requested. An open circuit is then half-open."""
        before = self.status
        await self._wait()
        if self.status.state == "open":
            self.status = msgspec.structs.replace(self.status, state="half-open", retry_at=None)
            self._successes = 0
        await self._save(before)

    async def record_failure(self, error: LogError) -> None:
        """Record that the log could not be read."""
        if error.is_rate_limit:
            await self._record_rate_limit(error)
            return
        was_open = not self.is_closed
        self._fail()
        now, wait = self._monotonic(), round(self.pause, 1)
        if isinstance(error, ProofUnavailable) and (error.certain or self.is_closed):
            pass  # the verifier reports it once it is certain; an outage never is
        elif self._down_since is None:
            self._down_since = now
            self._log_outage(error, now, wait)
        elif not self.is_closed and not was_open:
            self._logged = True
            _log.warning(
                "circuit opened",
                log=self._log.name,
                url=error.url,
                problem=error.problem,
                failures=self.status.failures,
                next_attempt_secs=wait,
            )
        await self._count(error)

    async def noted(self, error: LogError) -> None:
        """Record a problem of a log that can be read."""
        self.last_error = error.summary
        now = self._monotonic()
        if now >= self._silent_until:
            self._silent_until = now + LOG_INTERVAL_SECS
            _log.warning("log degraded", log=self._log.name, url=error.url, problem=error.problem)
        if self._circuits is not None:
            await self._redis_retry(self._circuits.noted, self._log.id, error.summary)

    async def record_progress(self) -> None:
        """Record that entries were published, or read for the first of two times."""
        before = self.status
        if before.state == "half-open":
            self._successes += 1
            if self._successes < self._policy.healthy:
                return
        # A pause that remains is of another request, refused since this one was sent.
        self.status = CircuitStatus(retry_at=before.retry_at if self.pause > 0 else None)
        await self._save(before)

    async def record_idle(self, tree_size: int) -> None:
        """Record that all entries up to a tree head were published."""
        await self.record_progress()
        if self._down_since is not None and self.is_closed:
            down = round(self._monotonic() - self._down_since, 1)
            self._down_since = None
            if self._logged:
                _log.info("log recovered", log=self._log.name, down_secs=down, tree_size=tree_size)
            self._logged = False

    async def _record_rate_limit(self, error: LogError) -> None:
        """Count a 429 and wait until the log may be requested again.

        `Throttled` is not counted: no request was sent.
        """
        if not isinstance(error, Throttled):
            now = self._monotonic()
            if now >= self._limit_silent_until:
                self._limit_silent_until = now + LOG_INTERVAL_SECS
                _log.warning(
                    "log rate limited",
                    log=self._log.name,
                    url=error.url,
                    problem=error.problem,
                    pause_secs=round(self.pause, 1),
                )
            await self._count(error)
        await self._wait()

    async def _wait(self) -> None:
        while (pause := self.pause) > 0:  # noqa: ASYNC110  (for the clock)
            await asyncio.sleep(pause)

    def _refuse(self, url: str) -> None:
        if (pause := self.pause) > 0:
            raise Throttled(self._log.name, url, f"paused for {pause:.1f} s more")

    def _fail(self) -> None:
        failures = self.status.failures + 1
        self.status = msgspec.structs.replace(self.status, failures=failures)
        if not self.is_closed or failures >= self._policy.unhealthy:
            self.status = msgspec.structs.replace(self.status, state="open")
        delay = self._policy.closed if self.is_closed else self._policy.open
        self._pause_for(delay(failures - 1))

    def _pause_for(self, seconds: float) -> None:
        """Pause, at least until the end of a pause that has begun."""
        self._paused_until = max(self._monotonic() + seconds, self._paused_until)
        at = int((self._clock() + self.pause) * 1000)
        self.status = msgspec.structs.replace(self.status, retry_at=at)

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
        self.errors += 1
        self.last_error = error.summary
        if self._circuits is not None:
            event = new_event()  # counted once, however often Redis is called
            count, status = self._circuits.failed, self.status
            await self._redis_retry(count, self._log.id, status, error.summary, event)

    async def _save(self, before: CircuitStatus) -> None:
        """Store the circuit, if it has changed."""
        if self._circuits is not None and self.status != before:
            await self._redis_retry(self._circuits.save, self._log.id, self.status)


def _may_succeed_soon(error: LogError) -> bool:
    """Whether the same request may well succeed soon: the log was busy or the network broke."""
    match error:
        case ConnectionFailed():
            return True
        case UnexpectedStatus(retry_after=wait) if wait is not None:
            return False
        case UnexpectedStatus(status=status):
            return status >= httpx.codes.INTERNAL_SERVER_ERROR
        case _:
            return False
