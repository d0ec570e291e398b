"""Which logs each worker should hold. No I/O, no clock.

Every worker computes the same plan from the same heartbeats:

    takeovers   free logs, the heaviest first, each to the worker with the smallest load
    releases    when one load is far from the mean: the fewest logs that even the loads out

A worker's load includes the logs that it is about to take, so no log is released to close a gap
that is being closed already. Between `_UNEVEN`, where moves begin, and `_EVEN`, where they end,
nothing moves. A log moves only if the gap exceeds its load by a quarter: loads vary without moving
logs to and fro.

The plan assumes that all workers know the same logs. `OrphanTracker` finds the logs that no
worker takes where configurations differ.
"""

from collections.abc import Collection, Mapping

Loads = Mapping[str, Mapping[str, float]]
"""Worker -> the logs it holds -> the load of each, in milliseconds of CPU a second."""

ORPHAN_AFTER_SECS = 15.0
"""For which a log is left to other workers: several times the TTL of a dead worker's lease."""

PIN_SECS = 600.0
"""For which a worker keeps an orphan beyond its share."""

# Fractions of the mean load.
_UNEVEN = 0.25
_EVEN = 0.2
_MIN_GAP = 1.25  # times the load of a log that moves


def plan_takeovers(held: Loads, free: Mapping[str, float], worker: str) -> list[str]:
    """Return which of the free logs `worker` should take.

    Args:
        held: by each live worker, `worker` among them.
        free: the other logs and their loads.
        worker: the worker that calls this.
    """
    return [log for log, taker in _assigned(held, free).items() if taker == worker]


def plan_releases(held: Loads, free: Mapping[str, float], worker: str) -> list[str]:
    """Return which of its logs `worker` should release; arguments as for `plan_takeovers`."""
    shares = {name: dict(logs) for name, logs in held.items()}
    for log, taker in _assigned(held, free).items():
        shares[taker][log] = free[log]
    sums = {name: sum(logs.values()) for name, logs in shares.items()}
    mean = sum(sums.values()) / len(sums)
    if max(sums.values()) <= mean * (1 + _UNEVEN) and min(sums.values()) >= mean * (1 - _UNEVEN):
        return []
    moved: list[str] = []
    while (move := _move(shares, sums, mean * _EVEN, held)) is not None:
        log, giver, taker = move
        cost = shares[giver].pop(log)
        shares[taker][log] = cost
        sums[giver] -= cost
        sums[taker] += cost
        if giver == worker:
            moved.append(log)
    return [log for log in moved if log not in shares[worker]]


def _assigned(held: Loads, free: Mapping[str, float]) -> dict[str, str]:
    """Return which worker takes each free log."""
    sums = {name: sum(logs.values()) for name, logs in held.items()}
    assigned = {}
    for log in sorted(free, key=lambda log: (-free[log], log)):
        taker = min(sums, key=lambda name: (sums[name], name))
        assigned[log] = taker
        sums[taker] += free[log]
    return assigned


def _move(
    shares: Mapping[str, Mapping[str, float]],
    sums: Mapping[str, float],
    even: float,
    held: Loads,
) -> tuple[str, str, str] | None:
    """Return the next log to move, its giver and its taker; None if no move evens the loads."""
    taker = min(sums, key=lambda name: (sums[name], name))
    for giver in sorted(sums, key=lambda name: (-sums[name], name)):
        gap = sums[giver] - sums[taker]
        if gap <= even:
            return None
        movable = _movable(shares[giver], gap, held[giver])
        if movable:
            # Half of the gap would close it with one move.
            log = min(movable, key=lambda log: (abs(shares[giver][log] - gap / 2), log))
            return log, giver, taker
    return None


def _movable(share: Mapping[str, float], gap: float, holds: Collection[str]) -> list[str]:
    return [log for log, cost in share.items() if 0 < cost * _MIN_GAP <= gap and log in holds]


class OrphanTracker:
    """The logs that no worker takes, as one worker sees them.

    Where configurations differ, the plan may assign a log to a worker that does not know it. So a
    worker takes a log that has been free for `ORPHAN_AFTER_SECS`, and keeps it for `PIN_SECS`.
    After that it releases the log again if the plan assigns it to another worker.
    """

    def __init__(self) -> None:
        self._free_since: dict[str, float] = {}
        self._pinned_until: dict[str, float] = {}

    def overdue(self, free: Collection[str], now: float) -> list[str]:
        """Return the logs that have been free for too long.

        Args:
            free: ids of all logs that are free now.
            now: seconds of a monotonic clock.
        """
        self._free_since = {log_id: self._free_since.get(log_id, now) for log_id in free}
        return [
            log_id for log_id, since in self._free_since.items() if now - since > ORPHAN_AFTER_SECS
        ]

    def pin(self, log_id: str, now: float) -> None:
        """Keep an orphan that this worker has taken at `now`."""
        self._pinned_until[log_id] = now + PIN_SECS

    def pinned(self, held: Collection[str], now: float) -> set[str]:
        """Return which of the logs held do not count against the share."""
        self._pinned_until = {
            log_id: until
            for log_id, until in self._pinned_until.items()
            if until > now and log_id in held
        }
        return set(self._pinned_until)
