"""When a circuit opens, closes, and lets a worker try."""

import pytest

from certbus.logs.circuit_state import CircuitStatus
from ingestor.backoff import Backoff
from ingestor.client.circuit_breaker import MAX_PAUSE_SECS, CircuitBreaker, CircuitPolicy

NOW = 1_800_000_000.0


@pytest.fixture
def circuit() -> CircuitBreaker:
    return CircuitBreaker(
        CircuitPolicy(unhealthy=3, healthy=2, closed=Backoff(1, 4), open=Backoff(1, 60))
    )


def state(circuit: CircuitBreaker) -> str:
    return circuit.status.state


def after(circuit: CircuitBreaker, failures: int, now: float = NOW) -> float:
    """Let it fail so often, each time when it may be tried; returns the time then."""
    for _ in range(failures):
        now += circuit.wait(now)
        circuit.half_open()
        circuit.failed(now)
    return now


def test_failures_in_a_row_open_it_and_each_makes_the_wait_longer(circuit: CircuitBreaker) -> None:
    now = NOW
    for failures, expected, longest in [
        (1, "closed", 1),
        (2, "closed", 2),
        (3, "open", 4),
        (4, "open", 8),
        (5, "open", 16),
        (6, "open", 32),
        (7, "open", 60),
        (8, "open", 60),
    ]:
        now = after(circuit, 1, now)
        assert (state(circuit), circuit.status.failures) == (expected, failures)
        assert longest / 2 - 0.001 <= circuit.wait(now) <= longest


def test_while_it_does_not_open_the_wait_is_bounded_by_itself() -> None:
    circuit = CircuitBreaker(
        CircuitPolicy(unhealthy=100, healthy=2, closed=Backoff(1, 4), open=Backoff(1, 60))
    )
    now = after(circuit, 50)
    assert circuit.closed
    assert circuit.wait(now) <= 4


def test_a_success_forgets_failures_before_it_opens(circuit: CircuitBreaker) -> None:
    now = after(circuit, 2)
    circuit.succeeded(now + circuit.wait(now))
    assert circuit.status == CircuitStatus()
    after(circuit, 2, now)
    assert circuit.closed


def test_it_closes_after_successes_while_half_open(circuit: CircuitBreaker) -> None:
    now = after(circuit, 3)
    now += circuit.wait(now)
    assert state(circuit) == "open"
    circuit.half_open()
    assert state(circuit) == "half-open"
    circuit.succeeded(now)
    assert (state(circuit), circuit.status.failures) == ("half-open", 3)
    circuit.succeeded(now)
    assert circuit.status == CircuitStatus()


def test_a_failure_while_half_open_opens_it_for_longer(circuit: CircuitBreaker) -> None:
    now = after(circuit, 3)
    now += circuit.wait(now)
    circuit.half_open()
    circuit.succeeded(now)
    circuit.failed(now)
    assert (state(circuit), circuit.status.failures) == ("open", 4)
    assert 4 - 0.001 <= circuit.wait(now) <= 8
    # Successes count from the last time that it was tried.
    circuit.half_open()
    circuit.succeeded(now)
    assert state(circuit) == "half-open"


def test_a_log_that_asks_to_be_left_alone_is(circuit: CircuitBreaker) -> None:
    circuit.open_until(NOW, 20)
    assert circuit.wait(NOW) == 20
    circuit.open_until(NOW, 5)
    assert circuit.wait(NOW) == 20
    circuit.failed(NOW)
    assert circuit.wait(NOW) == 20
    circuit.succeeded(NOW + 1)  # another request, sent before
    assert circuit.wait(NOW + 1) == 19
    assert circuit.status.failures == 0
    circuit.succeeded(NOW + 20)
    assert circuit.status == CircuitStatus()
    circuit.open_until(NOW, 1e9)
    assert circuit.wait(NOW) == MAX_PAUSE_SECS


def test_another_worker_goes_on_with_it(circuit: CircuitBreaker) -> None:
    now = after(circuit, 3)
    other = CircuitBreaker(
        CircuitPolicy(unhealthy=3, healthy=2, closed=Backoff(1, 4), open=Backoff(1, 60))
    )
    other.restore(circuit.status)
    assert other.wait(now) == circuit.wait(now)
    other.half_open()
    other.failed(now)
    assert (other.status.state, other.status.failures) == ("open", 4)


def test_no_clock_of_another_worker_stops_it_for_ever(circuit: CircuitBreaker) -> None:
    circuit.restore(CircuitStatus("open", 3, int((NOW + 1e9) * 1000)))
    assert circuit.wait(NOW) == MAX_PAUSE_SECS
