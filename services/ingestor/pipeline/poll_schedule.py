"""When to poll the tree head of one log. No I/O, no clock.

A log is polled when a new tree head is likely. Some logs publish one each second, others one an
hour. `PollSchedule` learns the time between two of them. Polls are at least an interval apart:

    before a part of recent gaps ended         no poll, if they are several intervals long; the part
                                               is smaller, the more the gaps differ
    up to twice the longest recent gap         a poll each 1/100 of the silence so far
    after that                                 each 1/80 of the silence
    before the log has grown twice             each 1/20 of its first gap
    before the log has grown                   each 1/16 of the silence

A gap is measured only if a poll has shown that the log did not grow for a part of it. Otherwise it
may have been shorter; then twice the age of the tree head is an estimate. If the first polls after
two waits in a row find a larger tree, they may have come late: the next waits are shorter, until
there are polls before growth again.

Some operators count requests: after about 100 they refuse all others for a minute. Nothing shows
that before (`RequestBudget`), so the polls of a log save requests according to what is known:

    unlimited   as above
    unknown     each 1/8 of the silence before the log has grown; and if the gaps are several
                intervals long, not before a page is likely to be full, for at most 15 intervals
    limited     not before a whole page is likely to be new, and then each 1/8 of the silence

Each log is polled at least every `MAX_SECS`.

If all logs were polled at once, their entries would arrive in one burst. So polls that are one
interval apart have a phase of their own: phases that are a golden section apart are spread evenly
for any number of logs, and none moves when one is added.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from ingestor.client.throttle import RequestBudget

MAX_SECS = 300.0
MAX_GAPS = 8
MIN_GAPS = 2
"""Gaps that are remembered, and after how many they count."""

MAX_FILL_SECS = 60.0
MAX_UNKNOWN_FILL = 15
"""The longest wait for a page to be full: if requests are limited; else intervals."""

_EARLY = 0.85  # at most, of the gap that a quarter of the recent ones do not exceed
_MIN_EARLY = 0.25
_EARLIER = 0.7  # the factor of the next waits after one that may have been too long
_LATER = 1.1  # and after one that was not
_LIKELY_PART = 1 / 100
_UNLIKELY_PART = 1 / 80
_LIMITED_PART = 1 / 8
_FIRST_PARTS = {
    RequestBudget.UNLIMITED: 1 / 16,
    RequestBudget.UNKNOWN: 1 / 8,
    RequestBudget.LIMITED: 1 / 4,
}
_FIRST_GAP_PART = 1 / 20  # of the only gap that is known
_LONG_GAP = 3  # intervals: the wait for a shorter gap saves no poll
_MAX_AGE = 60
"""Intervals: age of the first tree head shown, as far as it counts; its clock may be wrong."""

_GOLDEN_SECTION = (math.sqrt(5) - 1) / 2


def poll_phases() -> Iterator[float]:
    """Yield phases, as fractions of an interval."""
    return (n * _GOLDEN_SECTION % 1 for n in count())


def in_phase(due: float, interval: float, phase: float) -> float:
    """Return the time nearest to `due` in a phase.

    Args:
        due: seconds of a monotonic clock.
        interval: seconds from one time in that phase to the next.
        phase: as a fraction of the interval.
    """
    late = (due - phase * interval) % interval
    return due - late if late < interval / 2 else due - late + interval


class PollSchedule:
    """The polls of one log. Times are seconds of a monotonic clock.

    Args:
        interval: shortest time from poll to poll, seconds.
        phase: of the polls, as a fraction of the interval.

    Attributes:
        due: time of the next poll.
        budget: of the log's operator.
        page: entries of a full page, as far as is known.
    """

    def __init__(self, interval: float, phase: float) -> None:
        self.due = 0.0
        self.budget = RequestBudget.UNKNOWN
        self.page = 256
        self._interval = interval
        self._phase = phase
        self._size = -1
        self._grown: float | None = None
        self._has_grown = False  # since the first poll
        self._first: tuple[float, int] | None = None  # time and size of the first poll
        self._gaps: deque[float] = deque(maxlen=MAX_GAPS)
        self._was_silent = False  # whether a poll has found no growth since the last
        self._rate = 0.0  # entries a second in the last gap
        self._early = _EARLY
        self._late = 0  # first polls after a wait in a row that found a larger tree
        self._has_waited = False  # for a part of a gap, before the poll that is due

    def poll_now(self) -> None:
        """Make a poll due: an attempt to read the log has failed."""
        self.due = 0.0

    @property
    def long_gaps(self) -> tuple[float, ...]:
        """Seconds between the newest tree heads, oldest first; empty if they save no poll."""
        return tuple(self._gaps) if self._is_long(_typical(sorted(self._gaps))) else ()

    def assume(self, gaps: Iterable[float]) -> None:
        """Begin with gaps that an earlier owner of the log has seen."""
        self._gaps.extend(gap for gap in gaps if self._is_long(gap))

    def record(self, size: int, now: float, *, punctual: bool, age: float = 0.0) -> None:
        """Record a poll; a smaller size, of a replica that is behind, is no growth.

        Args:
            size: of the tree that the log has shown.
            now: when the poll was sent.
            punctual: whether it was sent when it was due, so that it measures a gap.
            age: seconds since the log has signed the tree head, 0 if its clock is ahead. That of
                the first one counts as silence: a log that has moved here has not just grown.
        """
        self._first = self._first or (now, size)
        if self._has_waited:
            self._late = self._late + 1 if size > self._size else 0
            self._early *= _EARLIER if self._late > 1 else 1 if self._late else _LATER
            self._early = min(max(self._early, _MIN_EARLY), _EARLY)
        if size > self._size:
            self._has_grown = self._grown is not None or bool(self._gaps)
            if self._grown is not None and now > self._grown:
                gap = now - self._grown
                self._rate = (size - self._size) / gap
                if punctual:
                    self._gaps.append(gap if self._was_silent else min(gap, 2 * age))
            self._was_silent = False
            self._grown = now - (min(age, _MAX_AGE * self._interval) if self._size < 0 else 0.0)
            self._size = size
        else:
            self._was_silent = True
        silence = now - (now if self._grown is None else self._grown)
        self.due = min(self._next(now, silence), now + max(MAX_SECS, self._interval))

    def _next(self, now: float, silence: float) -> float:
        gaps = sorted(self._gaps) if len(self._gaps) >= MIN_GAPS else []
        step = max(self._interval, self._silence_step(silence, gaps[-1] if gaps else None))
        is_long = self._is_long(_typical(gaps))
        early = 0.0
        if is_long:
            irregular = gaps[0] / gaps[-1] if self._is_unlimited else 1.0
            early = self._early * irregular * gaps[len(gaps) // 4]
        fill = self._fill_secs(now, is_long=is_long)
        self._has_waited = early > fill and early - silence > step
        wait = max(early, fill) - silence
        if wait > step:
            return now + wait
        due = now + step
        return in_phase(due, self._interval, self._phase) if step == self._interval else due

    def _is_long(self, gap: float) -> bool:
        return gap >= _LONG_GAP * self._interval

    @property
    def _is_unlimited(self) -> bool:
        return self.budget is RequestBudget.UNLIMITED

    def _silence_step(self, silence: float, longest: float | None) -> float:
        """Return the seconds to the next poll by the silence so far."""
        if not self._has_grown:
            return silence * _FIRST_PARTS[self.budget]
        if self.budget is RequestBudget.LIMITED:
            return silence * _LIMITED_PART
        if longest is None:
            return max(max(self._gaps, default=0.0) * _FIRST_GAP_PART, silence * _UNLIKELY_PART)
        return silence * (_LIKELY_PART if silence <= 2 * longest else _UNLIKELY_PART)

    def _fill_secs(self, now: float, *, is_long: bool) -> float:
        """Return the time in which the log grows by a page, about, if polls wait for one."""
        first, is_limited = self._first, self.budget is RequestBudget.LIMITED
        saves = is_limited or (is_long and not self._is_unlimited)
        if not saves or first is None or now <= first[0]:
            return 0.0
        rate = max(self._rate, (self._size - first[1]) / (now - first[0]))
        most = MAX_FILL_SECS if is_limited else MAX_UNKNOWN_FILL * self._interval
        return min(self.page / rate, most) if rate > 0 else 0.0


def _typical(gaps: Sequence[float]) -> float:
    """Return the mean of sorted gaps without the longest of several, 0 without any."""
    usual = gaps[:-1] or gaps
    return sum(usual) / len(usual) if usual else 0.0
