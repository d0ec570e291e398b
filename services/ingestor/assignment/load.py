"""What following a log costs a worker, measured by what it does. Pure: no I/O, no clock.

CPU cannot be had for one task among many. What a log costs is proportional to its entries, and a
new certificate is worth some duplicates; docs/performance.md has the measurements behind that.
"""

import math

from ingestor.pipeline.publish import EntryCounts

IDLE_LOAD = 1.0
"""Milliseconds of CPU a second that any log costs: its polls."""

# Milliseconds an entry.
_PUBLISHED = 0.05
_DUPLICATE = 0.015
# Seconds that the mean reaches back, about: long against bursts, as of a log that waits for its
# operator's turn or catches up, and short against a day.
MEMORY = 60.0


class Load:
    """The load of one log.

    Args:
        known: what it was when another worker had the log.

    Attributes:
        value: milliseconds of CPU a second.
    """

    def __init__(self, known: float = IDLE_LOAD) -> None:
        self.value = max(known, IDLE_LOAD)
        self._done = 0.0
        self._at: float | None = None

    def observe(self, now: float, tally: EntryCounts) -> None:
        """Learn from what was done until now (seconds of any clock that only goes on)."""
        read = tally.published + tally.rejected  # a rejected one was parsed, as far as that went
        done = read * _PUBLISHED + tally.duplicates * _DUPLICATE
        if self._at is not None and now > self._at:
            spent = now - self._at
            rate = IDLE_LOAD + (done - self._done) / spent
            self.value += (rate - self.value) * (1 - math.exp(-spent / MEMORY))
        self._done, self._at = done, now
