"""The circuit breaker of one log: whether the log may be requested. Pure: no I/O, no clock.

    closed      requested as usual. After each failure it pauses, longer each time; `unhealthy`
                failures in a row open the circuit
    open        not requested until `retry_at`, then half-open
    half-open   each request is sent once: `healthy` successes in a row close the circuit, a
                failure opens it again, for longer

A log may also request a pause (Retry-After), in any state.
"""

import msgspec

from certbus.logs.circuit_state import CircuitStatus, State
from ingestor.backoff import Backoff

MAX_PAUSE_SECS = 3600.0
"""A log may request a pause; a hostile or broken one must not stop requests for ever."""


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
    """The circuit of one log. Times are seconds since the epoch: other workers continue with them.

    Args:
        rules: when it opens and closes.

    Attributes:
        status: the stored state.
    """

    def __init__(self, rules: CircuitPolicy) -> None:
        self.status = CircuitStatus()
        self._rules = rules
        self._successes = 0  # since it is half-open

    def restore(self, status: CircuitStatus) -> None:
        """Continue with the state of another worker."""
        self.status = status
        self._successes = 0

    @property
    def closed(self) -> bool:
        """Whether requests are sent as usual."""
        return self.status.state == "closed"

    def wait(self, now: float) -> float:
        """Return the seconds until the log may be requested."""
        if self.status.retry_at is None:
            return 0.0
        return min(max(self.status.retry_at / 1000 - now, 0.0), MAX_PAUSE_SECS)

    def open_until(self, now: float, seconds: float) -> None:
        """Pause for as long as the log requests."""
        self._retry_at(now + min(seconds, MAX_PAUSE_SECS))

    def half_open(self) -> None:
        """End the pause of an open circuit."""
        if self.status.state == "open":
            self._become("half-open")
            self._successes = 0

    def failed(self, now: float) -> None:
        """Record that the log could not be read."""
        failures = self.status.failures + 1
        self.status = msgspec.structs.replace(self.status, failures=failures)
        if not self.closed or failures >= self._rules.unhealthy:
            self._become("open")
        delay = self._rules.closed if self.closed else self._rules.open
        self._retry_at(now + delay(failures - 1))

    def succeeded(self, now: float) -> None:
        """Record that the log could be read."""
        if self.status.state == "half-open":
            self._successes += 1
            if self._successes < self._rules.healthy:
                return
        pauses = self.wait(now) > 0  # another request was refused since this one was sent
        self.status = CircuitStatus(retry_at=self.status.retry_at if pauses else None)

    def _become(self, state: State) -> None:
        self.status = msgspec.structs.replace(self.status, state=state)

    def _retry_at(self, moment: float) -> None:
        at = max(int(moment * 1000), self.status.retry_at or 0)
        self.status = msgspec.structs.replace(self.status, retry_at=at)
