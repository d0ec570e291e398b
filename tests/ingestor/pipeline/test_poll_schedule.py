"""Tree heads are polled when a new one is likely, each log in its own phase."""

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.client.throttle import RequestBudget
from ingestor.pipeline.poll_schedule import MAX_SECS, PollSchedule, in_phase, poll_phases


def unlimited(interval: float = 1.0) -> PollSchedule:
    """The schedule of a log whose operator does not count requests."""
    schedule = PollSchedule(interval, 0.0)
    schedule.budget = RequestBudget.UNLIMITED
    return schedule


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
    schedule, now, found = unlimited(interval), 0.0, []
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
    schedule, now, waits = unlimited(), 0.0, []
    for size in range(30):
        schedule.record(size, now, punctual=True, age=10.0)
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
    schedule, other = unlimited(), unlimited()
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


def requests(budget: RequestBudget, rate: float, gap: float, secs: float) -> tuple[int, int]:
    """The polls of a log with pages of 256, and its requests for entries, one after each growth.

    Args:
        budget: of its operator.
        rate: entries a second.
        gap: seconds between two tree heads.
        secs: for which it is followed.
    """
    schedule, now, polled, read, at = PollSchedule(1.0, 0.0), 0.0, 0, 0, 0
    schedule.budget, schedule.page = budget, 256
    while now < secs:
        size = int(rate * (now // gap) * gap)
        schedule.record(size, now, punctual=True, age=now % gap)
        polled += 1
        read += -(-size // 256) - at // 256 if size > at else 0
        at, now = size, schedule.due
    return polled, read


def test_an_operator_that_counts_requests_is_polled_for_whole_pages() -> None:
    """20 entries a second, a tree head every 5 s."""
    polled, _ = requests(RequestBudget.LIMITED, 20, 5, 600)
    assert 600 * 20 / polled >= 200


def test_requests_are_saved_until_it_is_known_whether_they_are_counted() -> None:
    """A slow log and one that publishes seldom together, for a minute: 100 are not reached."""
    for budget, least, most in (
        (RequestBudget.UNKNOWN, 20, 95),
        (RequestBudget.UNLIMITED, 100, 200),
    ):
        slow, seldom = requests(budget, 18, 5, 63), requests(budget, 160, 43, 63)
        assert least <= sum(slow) + sum(seldom) <= most


@pytest.mark.parametrize(("rate", "gap"), [(90.0, 30.0), (60.0, 5.0), (50.0, 1.0), (15.0, 1.0)])
def test_a_log_of_which_each_head_fills_pages_is_polled_as_often_as_any(
    rate: float, gap: float
) -> None:
    unknown, unlimited = (
        sum(requests(budget, rate, gap, 600))
        for budget in (RequestBudget.UNKNOWN, RequestBudget.UNLIMITED)
    )
    assert unknown >= 0.4 * unlimited


def test_a_head_for_each_poll_is_no_long_gap() -> None:
    """After a silence the log signs a tree head for each request: polls are not spared for long."""
    schedule, now, polled = PollSchedule(1.0, 0.0), 0.0, 0
    schedule.page = 256
    while now < 120:
        schedule.record(max(0, int(50 * (now - 20))), now, punctual=True, age=0.01)
        polled, now = polled + (now > 60), schedule.due
    assert polled > 50


def test_a_log_that_moves_here_is_polled_by_the_age_of_its_tree_head() -> None:
    schedule = PollSchedule(1.0, 0.0)
    schedule.record(7, 100.0, punctual=True, age=40.0)
    assert schedule.due == pytest.approx(105.0)
    known = PollSchedule(1.0, 0.0)
    known.assume((30.0, 50.0, 0.1))
    assert known.long_gaps == (30.0, 50.0)
    known.record(7, 100.0, punctual=True, age=40.0)
    assert known.due < 102.0, "a tree head is likely"
    skewed = PollSchedule(1.0, 0.0)
    skewed.record(7, 100.0, punctual=True, age=1e9)
    assert skewed.due < 110.0
