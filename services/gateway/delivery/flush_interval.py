"""How often to flush. Pure.

A flush costs the same system call for each client whatever it carries, so the fewer flushes the
less work; but the less often, the later messages arrive. The pause after a flush is therefore a
multiple of what the flush took: next to nothing with a few clients, `LONGEST` with thousands.
"""

from typing import Final

RATIO: Final = 1.0
"""Pause for so many times what the flush took: flushing takes half of the time at most."""

LONGEST: Final = 0.020
"""Seconds. More would save little: at 500 clients a flush of 20 messages each spends two thirds
of its time copying bytes, which no pause makes fewer, and a burst that waits is only late."""


def flush_interval(spent: float) -> float:
    """Seconds to wait before the next flush.

    Args:
        spent: seconds that the last one worked.
    """
    return min(RATIO * spent, LONGEST)
