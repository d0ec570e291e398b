"""Logs are polled once an interval, spread over it."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.follow.moment import moments, next_poll


@pytest.mark.parametrize("logs", [2, 4, 10, 50])
def test_moments_are_spread(logs: int) -> None:
    found = sorted(islice(moments(), logs))
    gaps = [late - early for early, late in zip(found, [*found[1:], found[0] + 1], strict=True)]
    assert min(gaps) > 0.38 / logs
    assert max(gaps) < 2.3 / logs


@given(
    asked=st.floats(0, 1e6),
    interval=st.floats(0.05, 60),
    moment=st.floats(0, 1, exclude_max=True),
)
def test_the_next_poll_is_an_interval_away_and_at_its_moment(
    asked: float, interval: float, moment: float
) -> None:
    due = next_poll(asked, interval, moment)
    assert interval * 0.499 <= due - asked <= interval * 1.501
    again = next_poll(due, interval, moment)
    assert again - due == pytest.approx(interval, rel=1e-3, abs=1e-6)
