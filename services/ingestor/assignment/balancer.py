"""Which logs each worker should hold, by what they cost. Pure: no I/O, no clock.

Every worker computes the same plan from the same heartbeats:

    takes   free logs, the heaviest first, each to whom has least then
    gives   when somebody has much more or much less than the mean: the fewest logs that even it out

What a worker has is counted with what it is about to take, so nothing is given up for a gap that
is being closed. Between `_UNEVEN`, which begins a move, and `_EVEN`, which ends it, nothing moves;
and no log moves unless the gap is wider than the log by a quarter: loads go up and down without
logs going to and fro.
"""

from collections.abc import Collection, Mapping

Loads = Mapping[str, Mapping[str, float]]
"""Worker -> the logs it holds -> what each costs, in milliseconds of CPU a second."""

# Parts of the mean load.
_UNEVEN = 0.25
_EVEN = 0.2
_WORTH_MOVING = 1.25


def plan_takeovers(held: Loads, free: Mapping[str, float], worker: str) -> list[str]:
    """Which of the logs that nobody holds `worker` should take.

    Args:
        held: by each live worker, `worker` among them.
        free: the others, and what they cost.
        worker: whose part is asked for.
    """
    return [log for log, taker in _assigned(held, free).items() if taker == worker]


def plan_releases(held: Loads, free: Mapping[str, float], worker: str) -> list[str]:
    """Which of its logs `worker` should give up. The arguments are those of `takes`."""
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
    """Who takes each free log."""
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
    """The next log to move, from whom and to whom; None if that would help nobody."""
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
    return [log for log, cost in share.items() if 0 < cost * _WORTH_MOVING <= gap and log in holds]
