"""Logs are polled once an interval, spread over it, and less often while they are quiet."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.pipeline.poll_schedule import (
    MAX_FACTOR,
    POLLS_PER_STEP,
    IdleBackoff,
    next_poll,
    poll_phases,
)


@pytest.mark.parametrize("logs", [2, 4, 10, 50])
def test_moments_are_spread(logs: int) -> None:
    found = sorted(islice(poll_phases(), logs))
    gaps = [late - early for early, late in zip(found, [*found[1:], found[0] + 1], strict=True)]
    assert min(gaps) > 0.38 / logs
    assert max(gaps) < 2.3 / logs


@given(
    last=st.floats(0, 1e6),
    interval=st.floats(0.05, 60),
    moment=st.floats(0, 1, exclude_max=True),
)
def test_the_next_poll_is_an_interval_away_and_at_its_moment(
    last: float, interval: float, moment: float
) -> None:
    due = next_poll(last, interval, moment)
    assert interval * 0.499 <= due - last <= interval * 1.501
    again = next_poll(due, interval, moment)
    assert again - due == pytest.approx(interval, rel=1e-3, abs=1e-6)


def test_a_log_that_does_not_grow_is_polled_less_often() -> None:
    quiet = IdleBackoff()
    intervals = []
    for _ in range(100):
        quiet.record(7)
        intervals.append(quiet.interval(0.5))
    assert intervals[:POLLS_PER_STEP] == [0.5] * POLLS_PER_STEP
    assert intervals == sorted(intervals)
    assert intervals[-1] == 0.5 * MAX_FACTOR
    quiet.record(8)
    assert quiet.interval(0.5) == 0.5


def test_a_replica_that_is_behind_is_no_growth() -> None:
    quiet = IdleBackoff()
    for _ in range(100):
        quiet.record(7)
        quiet.record(6)
    assert quiet.interval(1) == MAX_FACTOR


@given(silence=st.floats(1, 1e5))
def test_an_entry_waits_for_a_part_of_the_silence_before_it(silence: float) -> None:
    quiet, now, interval = IdleBackoff(), 0.0, 0.0
    while now < silence:
        quiet.record(0)
        interval = quiet.interval(1)
        now += interval
    assert now - silence <= max(1, min(silence / POLLS_PER_STEP * 2, MAX_FACTOR))
