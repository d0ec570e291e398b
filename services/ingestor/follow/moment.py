"""When to poll: each log of a worker at a moment of its own.

Logs that are polled at the same moment make a burst of what each had to give, and the last
certificate of a burst waits for all the others to be read and sent. Moments a golden section apart
are spread evenly over the interval however many there are, and never move when one joins.
"""

import math
from collections.abc import Iterator
from itertools import count

_GOLDEN = (math.sqrt(5) - 1) / 2


def moments() -> Iterator[float]:
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
