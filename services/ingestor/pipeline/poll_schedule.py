"""When to poll the tree head of one log. No I/O, no clock.

A log is polled when a new tree head is likely. Some logs publish one each second, others one an
hour. `PollSchedule` learns the time between two of them:

    before a quarter of recent gaps ended      no poll, if they are several intervals long
    up to twice the longest recent gap         a poll each interval, or 1/100 of the silence so far
    after that                                 a poll each interval, or 1/80 of the silence so far
    before the log has grown                   a poll each interval, or 1/4 of the silence so far
    before it has grown twice                  a poll each interval, or 1/20 of its first gap

If the first polls after two such waits in a row find a larger tree, they may have come late: the
next waits are shorter, until there are polls before growth again.

A log whose operator counts requests is not polled before a whole page is likely to be new, and then
each 1/8 of the silence: that spends the fewest requests an entry. Each log is polled at least every
`MAX_SECS`.

If all logs were polled at once, their entries would arrive in one burst. So polls that are one
interval apart have a phase of their own: phases that are a golden section apart are spread evenly
for any number of logs, and none moves when one is added.
"""

import math
from collections import deque
from collections.abc import Iterator
from itertools import count

MAX_SECS = 300.0
MAX_GAPS = 8
MIN_GAPS = 2
"""Gaps that are remembered, and after how many they count."""

MAX_FILL_SECS = 60.0
"""The longest wait for a page to be full."""

_EARLY = 0.85  # at most, of the gap that a quarter of the recent ones do not exceed
_MIN_EARLY = 0.25
_EARLIER = 0.7  # the factor of the next waits after one that may have been too long
_LATER = 1.1  # and after one that was not
_LIKELY_PART = 1 / 100
_UNLIKELY_PART = 1 / 80
_COUNTED_PART = 1 / 8  # of the silence, if the operator counts requests
_FIRST_PART = 1 / 4
_FIRST_GAP_PART = 1 / 20  # of the only gap that is known
_LONG_GAP = 3  # intervals: the wait for a shorter gap saves no poll
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
        worthwhile: number of new entries for which a poll is worth a request.
    """

    def __init__(self, interval: float, phase: float) -> None:
        self.due = 0.0
        self.worthwhile = 1
        self._interval = interval
        self._phase = phase
        self._size = -1
        self._grown: float | None = None
        self._has_grown = False  # since the first poll
        self._first: tuple[float, int] | None = None  # time and size of the first poll
        self._gaps: deque[float] = deque(maxlen=MAX_GAPS)
        self._early = _EARLY
        self._late = 0  # first polls after a wait in a row that found a larger tree
        self._has_waited = False  # for a part of a gap, before the poll that is due

    def poll_now(self) -> None:
        """Make a poll due: an attempt to read the log has failed."""
        self.due = 0.0

    def record(self, size: int, now: float, *, punctual: bool) -> None:
        """Record a poll; a smaller size, of a replica that is behind, is no growth.

        Args:
            size: of the tree that the log has shown.
            now: time of the poll.
            punctual: whether it was sent when it was due, so that it measures a gap.
        """
        self._first = self._first or (now, size)
        if self._has_waited:
            self._late = self._late + 1 if size > self._size else 0
            self._early *= _EARLIER if self._late > 1 else 1 if self._late else _LATER
            self._early = min(max(self._early, _MIN_EARLY), _EARLY)
        if size > self._size:
            self._has_grown = self._grown is not None
            if self._grown is not None and punctual:
                self._gaps.append(now - self._grown)
            self._size, self._grown = size, now
        silence = now - (now if self._grown is None else self._grown)
        self.due = min(self._next(now, silence), now + max(MAX_SECS, self._interval))

    def _next(self, now: float, silence: float) -> float:
        gaps = sorted(self._gaps) if len(self._gaps) >= MIN_GAPS else []
        step = max(self._interval, self._silence_step(silence, gaps[-1] if gaps else None))
        gap = gaps[len(gaps) // 4] if gaps else 0.0
        early = self._early * gap - silence if gap >= _LONG_GAP * self._interval else 0.0
        self._has_waited = early > step
        wait = max(early, self._fill_secs(now) - silence)
        if wait > step:
            return now + wait
        due = now + step
        return in_phase(due, self._interval, self._phase) if step == self._interval else due

    def _silence_step(self, silence: float, longest: float | None) -> float:
        """Return the seconds to the next poll by the silence so far."""
        if not self._has_grown:
            return silence * _FIRST_PART
        if self.worthwhile > 1:
            return silence * _COUNTED_PART
        if longest is None:
            first = self._gaps[0] if self._gaps else 0.0
            return max(first * _FIRST_GAP_PART, silence * _UNLIKELY_PART)
        return silence * (_LIKELY_PART if silence <= 2 * longest else _UNLIKELY_PART)

    def _fill_secs(self, now: float) -> float:
        """Return the time in which the log grows by `worthwhile` entries, about."""
        if self.worthwhile <= 1 or self._first is None or now <= self._first[0]:
            return 0.0
        rate = (self._size - self._first[1]) / (now - self._first[0])
        return min(self.worthwhile / rate, MAX_FILL_SECS) if rate > 0 else 0.0
