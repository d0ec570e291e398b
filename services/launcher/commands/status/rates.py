"""How fast counters grow, by what is seen of them now and then. Pure."""

from collections import deque
from collections.abc import Mapping


class Rates:
    """Rates of any number of counters, over the last seconds.

    Args:
        seconds: that it looks back.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, Mapping[str, float]]] = deque()

    def after(self, now: float, counts: Mapping[str, float]) -> dict[str, float]:
        """The growth of each a second, now that they stand so.

        One that was not there before, or is less than it was (Redis was emptied, or its process is
        another), does not grow.
        """
        self._seen.append((now, counts))
        while now - self._seen[0][0] > self._seconds:
            self._seen.popleft()
        then, before = self._seen[0]
        if now <= then:
            return dict.fromkeys(counts, 0.0)
        return {
            name: max(count - before.get(name, count), 0.0) / (now - then)
            for name, count in counts.items()
        }
