"""When to poll the tree head of one log. No I/O, no clock.

A log is polled when a new tree head is likely. Some logs publish one each second, others one an
hour. `PollSchedule` learns the time between two of them:

    before a quarter of recent gaps ended      no poll
    up to twice the longest recent gap         a poll each interval, or 1/40 of the silence so far
    after that, and before the first head      a poll each interval, or 1/8 of the silence so far

A log whose operator has refused requests for long is not polled before a whole page is likely to be
new, and then each 1/8 of the silence: that spends the fewest requests an entry. Each log is polled
at least every `MAX_SECS`.

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
MIN_GAPS = 3
"""Gaps that are remembered, and after how many they count."""

MAX_FILL_SECS = 60.0
"""The longest wait for a page to be full."""

_EARLY = 0.85  # of the gap that a quarter of the recent ones do not exceed
_LIKELY_PART = 1 / 40
_UNLIKELY_PART = 1 / 8
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
        if size > self._size:
            self._has_grown = self._grown is not None
            if self._grown is not None and punctual:
                self._gaps.append(now - self._grown)
            self._size, self._grown = size, now
        silence = now - (now if self._grown is None else self._grown)
        self.due = min(self._next(now, silence), now + max(MAX_SECS, self._interval))

    def _next(self, now: float, silence: float) -> float:
        gaps = sorted(self._gaps) if len(self._gaps) >= MIN_GAPS else []
        is_likely = self._has_grown and (not gaps or silence <= 2 * gaps[-1])
        is_likely = is_likely and self.worthwhile <= 1
        step = max(self._interval, silence * (_LIKELY_PART if is_likely else _UNLIKELY_PART))
        early = _EARLY * gaps[len(gaps) // 4] - silence if gaps else 0.0
        wait = max(early, self._fill_secs(now) - silence)
        if wait > step:
            return now + wait
        due = now + step
        return in_phase(due, self._interval, self._phase) if step == self._interval else due

    def _fill_secs(self, now: float) -> float:
        """Return the time in which the log grows by `worthwhile` entries, about."""
        if self.worthwhile <= 1 or self._first is None or now <= self._first[0]:
            return 0.0
        rate = (self._size - self._first[1]) / (now - self._first[0])
        return min(self.worthwhile / rate, MAX_FILL_SECS) if rate > 0 else 0.0
