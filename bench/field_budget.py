"""What a request budget makes unavoidable: the backlog of a client that knows all of it.

It knows when heads are shown, sends one request for each head that it needs and one for each page,
and neither before it must: a page is read when its entries would otherwise count as owed, or is
full by then. Its answers take no time. What it leaves unread, no client reads that keeps to the
budget and cannot know when heads are shown.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from simlog.field.heads import ShownHead
from simlog.profile import Budget, Profile


class _Client:
    """That client, and one log's position in it by log."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._used = 0
        self._resumes = 0.0

    def request(self, now: float) -> bool:
        """Send a request; return whether it was answered."""
        if now < self._resumes:
            return False
        if self._used >= self._budget.requests:
            self._used, self._resumes = 0, now + self._budget.pause
            return False
        self._used += 1
        return True


def unavoidable(
    profiles: Mapping[str, Profile],
    heads: Mapping[str, Sequence[ShownHead]],
    span: tuple[float, float],
    grace: float,
    measured: float,
) -> float:
    """Return the share of an operator's entries that its budget leaves unread.

    Args:
        profiles: of the operator's logs, by name.
        heads: that the logs have shown.
        span: begin and end of the run, seconds since the epoch.
        grace: seconds for which a head has been shown before its entries count as owed.
        measured: seconds at the end over which the share is averaged.
    """
    budgets = [limit for p in profiles.values() for limit in p.limits if isinstance(limit, Budget)]
    if not budgets:
        return 0.0
    begin, end = span
    client = _Client(budgets[0])
    start = {name: heads[name][0].size for name in profiles}
    position = dict(start)
    ratios = []
    now = begin
    while now < end:
        owed = {name: _size(heads[name], now - grace, start[name]) for name in profiles}
        soon = {name: _size(heads[name], now + 1 - grace, start[name]) for name in profiles}
        for name, profile in profiles.items():
            if not any(isinstance(limit, Budget) for limit in profile.limits):
                position[name] = soon[name]
            elif position[name] < soon[name] and client.request(now):
                shown = _size(heads[name], now, start[name])
                page = profile.page
                while position[name] < soon[name] and client.request(now):
                    position[name] = min(shown, position[name] - position[name] % page + page)
        if now >= end - measured:
            entries = sum(owed[name] - start[name] for name in profiles)
            behind = sum(max(0, owed[name] - position[name]) for name in profiles)
            ratios.append(behind / entries if entries else 0.0)
        now += 1.0
    return fmean(ratios)


def _size(shown: Sequence[ShownHead], now: float, start: int) -> int:
    """The largest head that was shown by then."""
    return max((head.size for head in shown if head.at <= 1000 * now), default=start)
