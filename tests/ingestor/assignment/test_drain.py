"""When a retired log is drained, by the clock of Redis, which may be wrong."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from certbus.logs.registry import Retirement
from ingestor.assignment.assigned_log import AssignedLog, Load
from ingestor.log import READ_MARGIN_SECS, Drain, Kind, Log
from ingestor.loglists.retirement import drain_deadline

NOW = 1_800_000_000.0
DAY = 86_400.0
MMD = 60.0
LOG = Log(id="11" * 32, name="Log", url="https://log.example/", kind=Kind.RFC6962, mmd=MMD)


class Clock:
    """The monotonic clock of this process, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def draining(since: float, at: float) -> AssignedLog:
    """A log that was retired at `at`, is caught up, and is read successfully from now on."""
    log = drain_deadline(LOG, Retirement("list", "because", since, at))
    health = SimpleNamespace(successes=0, tree_size=10)
    follower: Any = SimpleNamespace(log=log, health=health, publisher=SimpleNamespace(next=10))
    return AssignedLog(follower, None, Load())  # type: ignore[arg-type]


def unreadable(since: float, at: float) -> AssignedLog:
    """The same log, with an entry that cannot be read."""
    assigned = draining(since, at)
    assigned.follower.publisher.next = 9
    return assigned


def test_a_log_is_drained_after_two_successes_once_it_is_due(clock: Clock) -> None:
    assigned = draining(NOW, NOW)
    assigned.follower.health.successes = 5
    assert not assigned.is_drained(NOW)
    clock.seconds = MMD
    assert not assigned.is_drained(NOW + MMD)
    assigned.follower.health.successes = 7
    assert assigned.is_drained(NOW + MMD)


def test_a_log_that_cannot_be_read_is_dropped_at_its_deadline(clock: Clock) -> None:
    assigned = unreadable(NOW, NOW)
    assert assigned.follower.log.drain == Drain(NOW + MMD, NOW + MMD + READ_MARGIN_SECS)
    assert not assigned.is_drained(NOW)
    clock.seconds = MMD + READ_MARGIN_SECS
    assert assigned.is_drained(NOW + clock.seconds)


def test_times_stored_while_the_clock_was_ahead_delay_no_drain(clock: Clock) -> None:
    ahead = NOW + 365 * DAY
    caught_up, stuck = draining(ahead, ahead), unreadable(ahead, ahead)
    assert not caught_up.is_drained(NOW)
    assert not stuck.is_drained(NOW)
    clock.seconds = MMD
    assert not caught_up.is_drained(NOW + MMD)
    caught_up.follower.health.successes = 2
    assert caught_up.is_drained(NOW + MMD)
    assert not stuck.is_drained(NOW + MMD)
    clock.seconds = MMD + READ_MARGIN_SECS
    assert stuck.is_drained(NOW + clock.seconds)


def test_a_clock_that_jumps_ahead_drops_no_log_early(clock: Clock) -> None:
    assigned = unreadable(NOW, NOW)
    assert not assigned.is_drained(NOW)
    clock.seconds = 1.0
    assert not assigned.is_drained(NOW + 365 * DAY)
    clock.seconds = 2.0
    assert not assigned.is_drained(NOW + 2)


def test_a_clock_that_is_set_back_delays_a_drain_by_its_own_length_only(clock: Clock) -> None:
    assigned = unreadable(NOW, NOW)
    assert not assigned.is_drained(NOW)
    assert not assigned.is_drained(NOW - 365 * DAY)
    clock.seconds = MMD + READ_MARGIN_SECS
    assert assigned.is_drained(NOW - 365 * DAY + clock.seconds)
