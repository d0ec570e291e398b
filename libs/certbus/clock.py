"""This machine's time, in the unit that Redis holds times in."""

import time


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)
