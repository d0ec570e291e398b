"""How fast a counter grows, over the last seconds. Pure: no I/O, no clock."""

from collections import deque
from typing import Final

WINDOW: Final = 10.0
"""Seconds that a rate looks back: several polls of a log, whose batches come in bursts."""


class Rate:
    """The rate of one counter."""

    def __init__(self) -> None:
        self.per_second = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self, now: float, count: int) -> None:
        """Note the counter's value at `now`, seconds of a clock that never goes back."""
        self._seen.append((now, count))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        self.per_second = (count - before) / (now - then) if now > then else 0.0
