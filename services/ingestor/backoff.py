"""How long to wait before the next attempt, wherever something is attempted again."""

import random

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Exponential delays with jitter, so that many clients of one server do not return together.

    Attributes:
        initial: seconds after the first failure, at most.
        maximum: seconds never exceeded.
    """

    initial: float
    maximum: float

    def __call__(self, attempt: int) -> float:
        """Seconds to wait: between half of the exponential delay and all of it.

        Args:
            attempt: how many attempts have failed since the last success, from 0.
        """
        # 2**32 is beyond any sensible maximum, and keeps the power of a long outage small.
        delay = min(self.maximum, self.initial * 2.0 ** min(attempt, 32))
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  (no secret depends on it)


REDIS = Backoff(0.1, 2.0)
"""While Redis is away. Everything waits for it, and it is ours."""

LOG_LIST = Backoff(5.0, 600.0)
"""While a log list cannot be read."""
