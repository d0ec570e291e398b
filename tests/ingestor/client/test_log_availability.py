"""When a circuit opens, closes, and lets a worker try."""

import asyncio

import pytest
from structlog.testing import capture_logs

from certbus.logs.circuit_state import CircuitStatus
from ingestor.backoff import Backoff
from ingestor.client.errors import (
    ConnectionFailed,
    InvalidResponse,
    ProofUnavailable,
    UnexpectedStatus,
)
from ingestor.client.log_availability import LOG_INTERVAL_SECS, MAX_PAUSE_SECS, LogAvailability
from tests.ingestor.client.available import available, policy

RULES = policy(unhealthy=3, healthy=2, closed=Backoff(1, 4), opened=Backoff(1, 60))
DOWN = ConnectionFailed("log", "http://test/", "no answer")


class Clock:
    """The clocks of a host, which move while the log waits.

    Attributes:
        now: seconds since the epoch.
        ahead: seconds by which the clock was set forward.
    """

    now = 1_800_000_000.0
    ahead = 0.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - self.ahead

    def set(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        self.now += seconds
        self.ahead += seconds

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    return clock


@pytest.fixture
def log(clock: Clock) -> LogAvailability:
    return available(RULES, clock, monotonic=clock.monotonic)


def state(log: LogAvailability) -> tuple[str, int]:
    return log.status.state, log.status.failures


def refused(seconds: float) -> UnexpectedStatus:
    return UnexpectedStatus("log", "http://test/", "busy", 429, seconds)


async def fail(log: LogAvailability, times: int) -> None:
    """Let it fail, each time when it may be requested."""
    for _ in range(times):
        await log.can_poll()
        await log.record_failure(DOWN)


async def test_failures_in_a_row_open_it_and_each_makes_the_wait_longer(
    log: LogAvailability,
) -> None:
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
        await fail(log, 1)
        assert state(log) == (expected, failures)
        assert longest / 2 - 0.001 <= log.pause <= longest


async def test_while_it_does_not_open_the_wait_is_bounded(clock: Clock) -> None:
    rules = policy(unhealthy=100, closed=Backoff(1, 4), opened=Backoff(1, 60))
    log = available(rules, clock, monotonic=clock.monotonic)
    await fail(log, 50)
    assert log.is_closed
    assert log.pause <= 4


async def test_a_success_forgets_failures_before_it_opens(
    log: LogAvailability, clock: Clock
) -> None:
    await fail(log, 2)
    clock.now += log.pause
    await log.record_progress()
    assert log.status == CircuitStatus()
    await fail(log, 2)
    assert log.is_closed


async def test_it_closes_after_successes_while_half_open(log: LogAvailability) -> None:
    await fail(log, 3)
    assert state(log) == ("open", 3)
    await log.can_poll()
    assert state(log) == ("half-open", 3)
    await log.record_progress()
    assert state(log) == ("half-open", 3)
    await log.record_progress()
    assert log.status == CircuitStatus()


async def test_a_failure_while_half_open_opens_it_for_longer(log: LogAvailability) -> None:
    await fail(log, 3)
    await log.can_poll()
    await log.record_progress()
    await log.record_failure(DOWN)
    assert state(log) == ("open", 4)
    assert 4 - 0.001 <= log.pause <= 8
    # Successes count from the last time that it was tried.
    await log.can_poll()
    await log.record_progress()
    assert log.status.state == "half-open"


async def test_a_pause_that_the_log_requests_is_kept(log: LogAvailability, clock: Clock) -> None:
    await log.record_answer(refused(20))
    assert log.pause == pytest.approx(20, abs=0.01)
    await log.record_answer(refused(5))
    assert log.pause == pytest.approx(20, abs=0.01)
    await log.record_failure(DOWN)
    assert log.pause == pytest.approx(20, abs=0.01)
    clock.now += 1
    await log.record_progress()  # of another request, sent before
    assert log.pause == pytest.approx(19, abs=0.01)
    assert log.status.failures == 0
    clock.now += 19.01
    await log.record_progress()
    assert log.status == CircuitStatus()
    await log.record_answer(refused(1e9))
    assert log.pause == MAX_PAUSE_SECS


async def test_a_429_is_an_error_but_opens_nothing(log: LogAvailability) -> None:
    for _ in range(5):
        await log.record_answer(refused(1))
        await log.record_failure(refused(1))
    assert (log.status.state, log.status.failures, log.errors) == ("closed", 0, 5)


@pytest.mark.parametrize(
    ("answers", "sent"),
    [
        ([DOWN, DOWN, b"x"], 3),
        ([DOWN, DOWN, DOWN, b"x"], 3),
        ([UnexpectedStatus("log", "url", "503", 503, None), b"x"], 2),
        ([UnexpectedStatus("log", "url", "503", 503, 7.0), b"x"], 1),
        ([UnexpectedStatus("log", "url", "404", 404, None), b"x"], 1),
        ([InvalidResponse("log", "url", "no JSON"), b"x"], 1),
        ([*[refused(1)] * 20, DOWN, DOWN, b"x"], 23),
    ],
)
async def test_what_may_succeed_soon_is_repeated_and_a_429_without_end(
    log: LogAvailability, answers: list[Exception | bytes], sent: int
) -> None:
    left = answers.copy()

    async def send() -> bytes:
        answer = left.pop(0)
        if isinstance(answer, bytes):
            return answer
        raise answer

    expected = answers[sent - 1]
    if isinstance(expected, bytes):
        assert await log.repeat(send) == expected
    else:
        with pytest.raises(type(expected)):
            await log.repeat(send)
    assert len(answers) - len(left) == sent


async def test_another_worker_continues_with_it(log: LogAvailability, clock: Clock) -> None:
    await fail(log, 3)
    other = available(RULES, clock, monotonic=clock.monotonic)
    other.restore(log.status)
    assert other.pause == pytest.approx(log.pause, abs=0.01)
    await other.can_poll()
    await other.record_failure(DOWN)
    assert state(other) == ("open", 4)


def test_no_clock_of_another_worker_stops_it_for_ever(log: LogAvailability, clock: Clock) -> None:
    log.restore(CircuitStatus("open", 3, int((clock.now + 1e9) * 1000)))
    assert log.pause == MAX_PAUSE_SECS


@pytest.mark.parametrize("hours", [-8, 8])
async def test_a_clock_that_is_set_ends_no_pause_and_makes_none_longer(
    log: LogAvailability, clock: Clock, hours: int
) -> None:
    for _ in range(5):
        await log.record_failure(DOWN)
        pause = log.pause
        clock.set(hours * 3600)
        assert log.pause == pytest.approx(pause, abs=0.01)
        assert log.pause <= 16
        before = clock.monotonic()
        await log.can_poll()
        assert clock.monotonic() - before == pytest.approx(pause, abs=0.01)
    assert log.status == CircuitStatus("half-open", 5)  # its next owner does not wait either


async def test_outages_are_logged_again_after_the_clock_was_set_back(
    log: LogAvailability, clock: Clock
) -> None:
    with capture_logs() as events:
        await log.noted(DOWN)
        clock.set(-8 * 3600)
        clock.now += LOG_INTERVAL_SECS
        await log.noted(DOWN)
    assert [event["event"] for event in events] == ["log degraded"] * 2


@pytest.mark.parametrize(("certain", "expected"), [(False, ["log unavailable"]), (True, [])])
async def test_proofs_that_fail_are_logged_when_the_circuit_opens(
    log: LogAvailability, certain: bool, expected: list[str]
) -> None:
    """The verifier reports those that the log refuses for certain, and no others."""
    error = ProofUnavailable("log", "http://test/", "no proof (HTTP 503)", certain=certain)
    with capture_logs() as events:
        for _ in range(RULES.unhealthy - 1):
            await log.record_failure(error)
        assert events == []
        for _ in range(5):
            await log.record_failure(error)
    assert [event["event"] for event in events] == expected
