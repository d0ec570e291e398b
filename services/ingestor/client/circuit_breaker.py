"""The circuit breaker of one log: whether it may be asked. Pure: no I/O, no clock.

    closed      asked as usual. After each failure it is left alone, longer each time;
                `unhealthy` failures in a row open it
    open        not asked until `retry_at`, then half-open
    half-open   asked, every request once, to find out: `healthy` successes in a row close it, a
                failure opens it again, for longer

A log may also ask to be left alone itself (Retry-After), in any state.
"""

import msgspec

from certbus.logs.circuit_state import CircuitStatus, State
from ingestor.backoff import Backoff

MAX_PAUSE = 3600.0
"""Seconds. A log may request a pause; a hostile or broken one must not stop requests for ever."""


class CircuitPolicy(msgspec.Struct, frozen=True):
    """When it opens and closes (`ct_log.*_threshold`, `ct_log.retry_*`).

    Attributes:
        unhealthy: failures in a row that open it.
        healthy: successes in a row that close it.
        closed: delays after failures that do not open it.
        open: delays after those that do.
    """

    unhealthy: int
    healthy: int
    closed: Backoff
    open: Backoff


class CircuitBreaker:
    """The circuit of one log. Times are seconds since the epoch: other workers go on with them.

    Args:
        rules: when it opens and closes.

    Attributes:
        status: how it stands.
    """

    def __init__(self, rules: CircuitPolicy) -> None:
        self.status = CircuitStatus()
        self._rules = rules
        self._successes = 0  # since it is half-open

    def restore(self, status: CircuitStatus) -> None:
        """Go on from where another worker was."""
        self.status = status
        self._successes = 0

    @property
    def closed(self) -> bool:
        """Whether all is well, or nearly."""
        return self.status.state == "closed"

    def wait(self, now: float) -> float:
        """Seconds for which the log is to be left alone."""
        if self.status.retry_at is None:
            return 0.0
        return min(max(self.status.retry_at / 1000 - now, 0.0), MAX_PAUSE)

    def open_until(self, now: float, seconds: float) -> None:
        """The log has asked for it."""
        self._retry_at(now + min(seconds, MAX_PAUSE))

    def half_open(self) -> None:
        """The wait is over."""
        if self.status.state == "open":
            self._become("half-open")
            self._successes = 0

    def failed(self, now: float) -> None:
        """The log could not be read."""
        failures = self.status.failures + 1
        self.status = msgspec.structs.replace(self.status, failures=failures)
        if not self.closed or failures >= self._rules.unhealthy:
            self._become("open")
        delay = self._rules.closed if self.closed else self._rules.open
        self._retry_at(now + delay(failures - 1))

    def succeeded(self, now: float) -> None:
        """The log could be read."""
        if self.status.state == "half-open":
            self._successes += 1
            if self._successes < self._rules.healthy:
                return
        left_alone = self.wait(now) > 0  # another request was refused meanwhile
        self.status = CircuitStatus(retry_at=self.status.retry_at if left_alone else None)

    def _become(self, state: State) -> None:
        self.status = msgspec.structs.replace(self.status, state=state)

    def _retry_at(self, moment: float) -> None:
        at = max(int(moment * 1000), self.status.retry_at or 0)
        self.status = msgspec.structs.replace(self.status, retry_at=at)
