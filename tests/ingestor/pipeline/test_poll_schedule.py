"""Tree heads are polled when a new one is likely, each log in its own phase."""

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.pipeline.poll_schedule import MAX_SECS, PollSchedule, in_phase, poll_phases


@pytest.mark.parametrize("logs", [2, 4, 10, 50])
def test_phases_are_spread(logs: int) -> None:
    found = sorted(islice(poll_phases(), logs))
    gaps = [late - early for early, late in zip(found, [*found[1:], found[0] + 1], strict=True)]
    assert min(gaps) > 0.38 / logs
    assert max(gaps) < 2.3 / logs


@given(
    due=st.floats(0, 1e6),
    interval=st.floats(0.05, 60),
    phase=st.floats(0, 1, exclude_max=True),
)
def test_a_time_in_phase_is_at_most_half_an_interval_away(
    due: float, interval: float, phase: float
) -> None:
    found = in_phase(due, interval, phase)
    assert abs(found - due) <= interval * 0.501
    again = in_phase(found + interval, interval, phase)
    assert again - found == pytest.approx(interval, rel=1e-3, abs=1e-6)


def polls(gap: float, until: float, interval: float = 1.0) -> list[tuple[float, int]]:
    """The polls of a log that shows a larger tree every `gap` seconds: times and sizes."""
    schedule, now, found = PollSchedule(interval, 0.0), 0.0, []
    while now < until:
        size = int(now // gap)
        schedule.record(size, now, punctual=True)
        found.append((now, size))
        assert now < schedule.due <= now + MAX_SECS
        now = schedule.due
    return found


def test_a_log_that_grows_each_second_is_polled_each_second() -> None:
    assert 58 <= len(polls(1.0, 60)) <= 62


@pytest.mark.parametrize("gap", [20.0, 120.0, 1800.0])
def test_the_time_between_two_heads_is_learned(gap: float) -> None:
    """A log is polled seldom before a new head is likely, and often when it is."""
    late = [each for each in polls(gap, 12 * gap) if each[0] >= 4 * gap]
    assert len(late) / 8 < min(gap / 2, 40)
    waits = [
        now - size * gap
        for (now, size), (_, before) in zip(late[1:], late, strict=False)
        if size > before
    ]
    assert max(waits) <= max(1.5, gap / 20)


def test_a_log_that_shows_heads_at_odd_times_is_not_polled_late() -> None:
    """Each first poll after a wait finds a larger tree, so the waits become shorter."""
    schedule, now, waits = PollSchedule(1.0, 0.0), 0.0, []
    for size in range(30):
        schedule.record(size, now, punctual=True)
        waits.append(schedule.due - now)
        now = schedule.due if len(waits) > 3 else now + 20.0
    assert max(waits[4:]) > 10
    assert waits[-1] <= 2


def test_a_short_gap_saves_no_poll() -> None:
    times = [now for now, _ in polls(2.0, 60)]
    assert len(times) >= 58


def test_a_log_that_does_not_grow_is_polled_less_often_but_for_ever() -> None:
    times = [now for now, _ in polls(1e9, 1e5)]
    steps = [round(late - early, 6) for early, late in pairwise(times)]
    assert steps[:5] == [1.0] * 5
    assert steps == sorted(steps)
    assert steps[-1] == MAX_SECS


def test_a_replica_that_is_behind_is_no_growth() -> None:
    schedule, other = PollSchedule(1.0, 0.0), PollSchedule(1.0, 0.0)
    for now in range(100):
        schedule.record(7 - now % 2, now, punctual=True)
        other.record(7, now, punctual=True)
    assert schedule.due == other.due


def test_a_poll_that_was_late_teaches_no_gap() -> None:
    """A log with a backlog is not polled, so its growth measures no gap."""
    schedule = PollSchedule(1.0, 0.0)
    for size in range(5):
        schedule.record(size, 600.0 * size, punctual=False)
    assert schedule.due == 2401.0


def test_after_a_failure_a_poll_is_due() -> None:
    schedule = PollSchedule(1.0, 0.0)
    schedule.record(1, 100.0, punctual=True)
    schedule.poll_now()
    assert schedule.due <= 100.0


@given(silence=st.floats(1, 1e5))
def test_an_entry_waits_for_a_part_of_the_silence_before_it(silence: float) -> None:
    schedule, now = PollSchedule(1.0, 0.0), 0.0
    while now < silence:
        schedule.record(0, now, punctual=True)
        now = schedule.due
    assert now - silence <= max(1.5, min(silence / 3, MAX_SECS))


def test_an_operator_that_counts_requests_is_polled_for_whole_pages() -> None:
    """20 entries a second, a tree head every 5 s, pages of 256."""
    schedule, now, sizes = PollSchedule(1.0, 0.0), 0.0, []
    schedule.worthwhile = 256
    while now < 600:
        sizes.append(int(now // 5) * 100)
        schedule.record(sizes[-1], now, punctual=True)
        now = schedule.due
    grown = [late - early for early, late in pairwise(sizes[10:])]
    assert sum(grown) / len(grown) >= 200
