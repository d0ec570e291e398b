"""How long to wait before the next attempt."""

import random


def jittered(attempt: int, initial: float, maximum: float) -> float:
    """Exponential backoff with jitter, so that many clients of one log do not return together.

    Args:
        attempt: how many attempts have failed since the last success, from 0.
        initial: seconds after the first failure.
        maximum: seconds never exceeded.

    Returns:
        Seconds to wait: between half of the exponential delay and all of it.
    """
    # 2**32 is beyond any sensible maximum, and keeps the power of a long outage small.
    delay = min(maximum, initial * 2.0 ** min(attempt, 32))
    return delay * random.uniform(0.5, 1.0)  # noqa: S311  (no secret depends on it)
