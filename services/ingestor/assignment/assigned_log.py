"""A log that this worker follows, and what the directory has been told of it."""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from certbus.cluster import ClusterRegistry
from certbus.cluster_health import RATES
from certbus.logs.leases import Lease
from ingestor.assignment.load import Load
from ingestor.pipeline.follower import Follower
from ingestor.rate import Rate

# Logs answer every second; that they do is worth a write less often.
_SUCCESS_EVERY = 5.0
# What a log costs that costs too much: milliseconds a second, and milliseconds an entry. Ordinary
# entries take some 0.1 ms.
_COSTLY = 200.0
_COSTLY_ENTRY = 5.0


class AssignedLog(msgspec.Struct):
    """A log this worker follows.

    Attributes:
        follower: what follows it.
        task: in which it does.
        load: what it costs.
        rate: certificates of it that are published.
        cost: milliseconds that are spent on writing messages of its entries.
        handled: its entries.
        successes: how many of its successes the directory has been told.
        told_at: loop time when it was last told of a success.
        integrity: what it has been told of what is proven.
        newest: likewise, of the log's size while that is more than was published.
        barren: what it has been told of entries that were all rejected.
        reached: its successes when it was first due to be drained.
    """

    follower: Follower
    task: asyncio.Task[None]
    load: Load
    rate: Rate = msgspec.field(default_factory=Rate)
    cost: Rate = msgspec.field(default_factory=Rate)
    handled: Rate = msgspec.field(default_factory=Rate)
    successes: int = 0
    told_at: float = 0.0
    integrity: str = ""
    newest: int = 0
    barren: int | None = None
    reached: int | None = None

    @property
    def lease(self) -> Lease:
        """The lease as it is now; it may have been restored."""
        return self.follower.pipeline.lease

    def observe(self, now: float) -> None:
        """Learn from what was done until now, seconds of a clock that never goes back."""
        tally = self.follower.pipeline.tally
        self.load.observe(now, tally)
        self.rate.observe(now, tally.published)
        self.cost.observe(now, int(self.follower.pipeline.spent * 1000))
        self.handled.observe(now, tally.published + tally.duplicates + tally.rejected)

    @property
    def is_costly(self) -> bool:
        """Whether the log takes much time, and takes it for entries that cost unusually much.

        A log that is caught up with may take all the time that there is, for ordinary entries.
        """
        spent = self.cost.per_second
        return spent > _COSTLY and spent > _COSTLY_ENTRY * self.handled.per_second

    def is_drained(self, now: float) -> bool:
        """Whether the log is over, and everything it has is published.

        Args:
            now: seconds since the epoch.
        """
        drain, health = self.follower.log.drain, self.follower.health
        if drain is None or now < drain.due:
            return False
        if self.reached is None:
            self.reached = health.successes
        # Of two tree heads that were reached since then, the second was asked for since then.
        caught_up = self.follower.pipeline.next >= health.tree_size
        return (health.successes >= self.reached + 2 and caught_up) or now >= drain.deadline

    def heartbeat(self) -> None:
        """Redis may have lost what it was told: tell all of it again."""
        self.integrity, self.newest, self.barren, self.told_at = "", 0, None, 0.0

    async def publish_status(self, directory: ClusterRegistry) -> None:
        """Tell the directory how the log has been answering since the last report."""
        health, log_id = self.follower.health, self.follower.log.id
        now = asyncio.get_running_loop().time()
        state = self.follower.guard.state
        if state != self.integrity:
            await directory.record_integrity(log_id, state)
            self.integrity = state
        if health.tree_size != self.newest and health.tree_size > self.follower.pipeline.next:
            await directory.record_tree_size(log_id, health.tree_size)
            self.newest = health.tree_size
        barren = self.follower.pipeline.barren
        if barren != self.barren and barren is not None:
            await directory.log_barren(log_id, barren)
            self.barren = barren
        if health.successes != self.successes and now - self.told_at >= _SUCCESS_EVERY:
            await directory.record_success(log_id)
            self.successes, self.told_at = health.successes, now


def sum_counters(
    followed: Iterable[AssignedLog], loads: Mapping[str, float]
) -> dict[str, str | float]:
    """What a worker says of itself in its heartbeat; counters since it took each log.

    Args:
        followed: the logs that it follows.
        loads: what these cost, and those that it is about to follow.
    """
    held = list(followed)
    tallies = [log.follower.pipeline.tally for log in held]
    rates = {log.follower.log.id: round(log.rate.per_second, 2) for log in held}
    return {
        "logs": len(held),
        "loads": msgspec.json.encode({log: round(cost, 2) for log, cost in loads.items()}).decode(),
        RATES: msgspec.json.encode(rates).decode(),
        "published": sum(tally.published for tally in tallies),
        "duplicates": sum(tally.duplicates for tally in tallies),
        "rejected": sum(tally.rejected for tally in tallies),
        "problems": sum(tally.problems for tally in tallies),
        "errors": sum(log.follower.breaker.errors for log in held),
    }
