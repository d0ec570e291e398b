"""Logs that nobody takes, because those who have room do not know them. Pure: time is passed in.

Shares are worked out as if every worker knew the same logs. Where configurations differ, that may
leave a log to nobody: its share falls to a worker that has never heard of it. So a worker takes
what has been free for long beyond its share, and keeps it for a term; after that it tries again
whether somebody else wants it.
"""

from collections.abc import Collection

WAIT = 15.0
"""Seconds for which a log is left to others: several times what a dead worker's lease lasts."""

TERM = 600.0
"""Seconds for which a log is kept beyond the share."""


class OrphanTracker:
    """What one worker knows of such logs."""

    def __init__(self) -> None:
        self._free_since: dict[str, float] = {}
        self._kept_until: dict[str, float] = {}

    def overdue(self, free: Collection[str], now: float) -> list[str]:
        """Those of the logs that are free now which have been so for long.

        Args:
            free: ids of all logs that could be taken.
            now: seconds of any clock.
        """
        self._free_since = {log_id: self._free_since.get(log_id, now) for log_id in free}
        return [log_id for log_id, since in self._free_since.items() if now - since > WAIT]

    def pin(self, log_id: str, now: float) -> None:
        """Keep a log for a term that was taken because nobody else did."""
        self._kept_until[log_id] = now + TERM

    def pinned(self, held: Collection[str], now: float) -> set[str]:
        """Those of the logs held that do not count against the share."""
        self._kept_until = {
            log_id: until
            for log_id, until in self._kept_until.items()
            if until > now and log_id in held
        }
        return set(self._kept_until)
