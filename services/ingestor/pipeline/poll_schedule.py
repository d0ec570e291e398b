"""When to poll: each log of a worker at a moment of its own, and idle ones less often.

Logs that are polled at the same moment make a burst of what each had to give, and the last
certificate of a burst waits for all the others to be read and sent. Moments a golden section apart
are spread evenly over the interval however many there are, and never move when one joins.

Most logs of a list take nothing any more. The interval doubles after every `PATIENCE` polls that
found no growth, so it follows how long the log has been quiet: an entry waits for about an eighth
of the silence before it, at most, and never longer than `LONGEST` intervals.
"""

import math
from collections.abc import Iterator
from itertools import count

PATIENCE = 8
LONGEST = 32

_GOLDEN = (math.sqrt(5) - 1) / 2


def poll_phases() -> Iterator[float]:
    """Moments of an interval, as parts of it."""
    return (n * _GOLDEN % 1 for n in count())


def next_poll(asked: float, interval: float, moment: float) -> float:
    """When to poll next.

    Args:
        asked: when the log was polled last, on a clock of seconds.
        interval: seconds from poll to poll.
        moment: the log's, as a part of the interval.

    Returns:
        The log's own moment that is nearest to an interval later, on the same clock.
    """
    due = asked + interval
    late = (due - moment * interval) % interval
    return due - late if late < interval / 2 else due - late + interval


class IdleBackoff:
    """How long a log has not grown, in polls."""

    def __init__(self) -> None:
        self._size = -1
        self._polls = 0

    def record(self, size: int) -> None:
        """The log has shown a tree of that size."""
        self._polls = 0 if size > self._size else self._polls + 1
        # A replica that is behind has not grown when it has caught up.
        self._size = max(self._size, size)

    def interval(self, least: float) -> float:
        """Seconds to the next poll, where `least` are those of a log that grows."""
        return least * min(1 << min(self._polls // PATIENCE, 32), LONGEST)
