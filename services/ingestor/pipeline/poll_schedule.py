"""When to poll: each log of a worker in its own phase of the interval, idle logs less often.

If all logs were polled at once, their entries would arrive in one burst, and the last certificate
of a burst waits until all others are parsed and sent. Phases that are a golden section apart are
spread evenly over the interval for any number of logs, and none moves when one is added.

Most logs of a list take no more entries. The interval doubles after every `POLLS_PER_STEP` polls
without growth, up to `MAX_FACTOR` intervals. So an entry waits for at most about an eighth of the
idle time before it.
"""

import math
from collections.abc import Iterator
from itertools import count

POLLS_PER_STEP = 8
MAX_FACTOR = 32

_GOLDEN_SECTION = (math.sqrt(5) - 1) / 2


def poll_phases() -> Iterator[float]:
    """Yield phases, as fractions of an interval."""
    return (n * _GOLDEN_SECTION % 1 for n in count())


def next_poll(last: float, interval: float, phase: float) -> float:
    """Return the time of the next poll: in the log's phase, nearest to one interval later.

    Args:
        last: time of the last poll, seconds of a monotonic clock.
        interval: seconds from poll to poll.
        phase: of the log, as a fraction of the interval.
    """
    due = last + interval
    late = (due - phase * interval) % interval
    return due - late if late < interval / 2 else due - late + interval


class IdleBackoff:
    """The number of polls for which a log has not grown."""

    def __init__(self) -> None:
        self._size = -1
        self._polls = 0

    def record(self, size: int) -> None:
        """Record the size of the tree that the log has shown."""
        self._polls = 0 if size > self._size else self._polls + 1
        # The log has not grown when a replica that was behind has caught up.
        self._size = max(self._size, size)

    def interval(self, shortest: float) -> float:
        """Return the seconds to the next poll; `shortest` are those of a log that grows."""
        return shortest * min(1 << min(self._polls // POLLS_PER_STEP, 32), MAX_FACTOR)
