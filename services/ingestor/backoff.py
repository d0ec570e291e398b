"""Delays between attempts."""

import random

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Exponential delays with jitter, so that the clients of one server do not retry together.

    Attributes:
        initial: maximum seconds after the first failure.
        maximum: maximum seconds after any failure.
    """

    initial: float
    maximum: float

    def __call__(self, attempt: int) -> float:
        """Return the seconds to wait: between half of the exponential delay and all of it.

        Args:
            attempt: number of failed attempts since the last success, minus one.
        """
        # 2**32 exceeds any sensible maximum; the bound keeps the power small in a long outage.
        delay = min(self.maximum, self.initial * 2.0 ** min(attempt, 32))
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  (no secret depends on it)


REDIS = Backoff(0.1, 2.0)
"""While Redis is unavailable: short, because every log waits for it."""

LOG_LIST = Backoff(5.0, 600.0)
"""While a log list cannot be read."""
