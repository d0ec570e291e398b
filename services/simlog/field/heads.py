"""When one log signs a tree head, and which head it shows."""

from collections import deque
from collections.abc import Callable

import msgspec

from simlog.ctlog.log import Head
from simlog.profile import Heads
from simlog.seeded import choose, uniform

MAX_SHOWN = 100_000
"""Heads that are kept for `/heads`: a day of one a second."""


class ShownHead(msgspec.Struct, frozen=True, array_like=True):
    """A tree head as clients could read it.

    Attributes:
        at: when it was shown first, milliseconds since the epoch.
        size: entries that it covers.
        timestamp: that it states, milliseconds since the epoch.
    """

    at: int
    size: int
    timestamp: int


class HeadSchedule:
    """The tree heads of one log, advanced by `World.advance`.

    Attributes:
        shown: every head that was shown, oldest first; for `/heads`.
    """

    def __init__(self, heads: Heads, seed: int, log: str, zero: float) -> None:
        self._heads = heads
        self._seed = seed
        self._label = f"heads {log}"
        self._draws = 0
        first = heads.first
        if first is None:
            first = heads.interval.at(self._luck()) * self._luck()
        self._next = zero + first
        self._signed: deque[tuple[float, Head]] = deque()
        self._past: deque[tuple[float, Head]] = deque()
        self._older_at = zero + (heads.older_every or 0.0)
        self.shown: deque[ShownHead] = deque(maxlen=MAX_SHOWN)

    def advance(self, now: float, sign: Callable[[int], Head]) -> Head | None:
        """Sign a head if one is due, and return the head that is shown from now on, if it is new.

        Args:
            now: seconds since the epoch.
            sign: makes a head over the whole tree with that timestamp (milliseconds).
        """
        if self._heads.per_request:
            head = sign(int(1000 * now))
            self._record(now, head)
            return head
        if now >= self._next:
            self._signed.append((now + self._heads.age.at(self._luck()), sign(int(1000 * now))))
            self._next = now + self._heads.interval.at(self._luck())
        newest: Head | None = None
        while self._signed and self._signed[0][0] <= now:
            _, newest = self._signed.popleft()
            self._record(now, newest)
        return newest

    def start(self, now: float, head: Head) -> None:
        """Show a first head, over what the log holds at time zero."""
        self._record(now, head)

    def _record(self, now: float, head: Head) -> None:
        if not self.shown or self.shown[-1].size != head.size:
            self.shown.append(ShownHead(int(1000 * now), head.size, head.timestamp))
        self._past.append((now, head))
        while len(self._past) > 2 and self._past[1][0] <= now - self._heads.older_by:
            self._past.popleft()

    def older(self, now: float) -> Head | None:
        """Return the head of a replica that is behind, when one answers this request."""
        every = self._heads.older_every
        if every is None or now < self._older_at or len(self._past) < 2:
            return None
        self._older_at = now + every * (0.5 + self._luck())
        return self._past[0][1]

    def _luck(self) -> float:
        self._draws += 1
        return uniform(choose(self._seed, self._label, self._draws, 4))
