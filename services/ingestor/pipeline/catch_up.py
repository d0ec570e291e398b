"""When a log is so late that entries are skipped (`ct_log.max_catchup_lag_*`). No I/O.

Both bounds are judged when the log shows a larger tree head:

    entries    more entries than this are missing
    seconds    both the newest entry read and the last time at the log's head are older than this

A tree head that is published late, or once an hour, is no delay of this server: its entries are old
when they are shown, but the log was at its head a moment before. Reaching any head ends a delay.
"""

import msgspec


class CatchUpLimits(msgspec.Struct, frozen=True):
    """How far a log may be behind.

    Attributes:
        entries: most entries; 0 is no limit.
        secs: longest delay; 0 is no limit.
        overlap: entries before the tree head at which a log continues that skips.
    """

    entries: int = 0
    secs: float = 0.0
    overlap: int = 0

    @property
    def is_set(self) -> bool:
        """Whether a log may skip."""
        return bool(self.entries or self.secs)

    def exceeded(self, behind: int, entry_age: float | None, since_head: float) -> str | None:
        """Return which limit a log exceeds; None if it exceeds none.

        Args:
            behind: entries that are missing.
            entry_age: seconds since the log accepted the newest entry read; None if that is not
                known.
            since_head: seconds since all entries of a tree head were published, except those that
                wait for their tile, and another poll of the tree head was due.
        """
        if self.entries and behind > self.entries:
            return f"{behind} entries behind, max_catchup_lag_entries is {self.entries}"
        if not self.secs or behind <= 0 or entry_age is None:
            return None
        delay = min(entry_age, since_head)
        if delay > self.secs:
            return f"{delay:.0f} s behind, max_catchup_lag_secs is {self.secs:g}"
        return None
