"""A log that this worker follows: what it costs, whether it is drained, what Redis has of it."""

import asyncio
import math
import time
from collections.abc import Iterable, Mapping

import msgspec

from certbus.cluster import ClusterRegistry, Rate
from certbus.cluster_health import RATES
from certbus.logs.leases import Lease
from ingestor.log import READ_MARGIN_SECS, Log
from ingestor.pipeline.follower import Follower
from ingestor.pipeline.publish import EntryCounts

IDLE_LOAD = 1.0
"""Milliseconds of CPU a second that any log costs: its polls."""

LOAD_MEMORY_SECS = 60.0
"""Time constant of the mean load: long against bursts, as of a log that is throttled or catches up,
and short against a day."""

# Milliseconds of CPU an entry; docs/performance.md has the measurements.
_PUBLISHED_COST = 0.05
_DUPLICATE_COST = 0.015
# Logs answer every second; successes and tree heads are stored less often.
_STATUS_INTERVAL_SECS = 5.0
# By which the clock of Redis may be ahead of that of this process before it is not followed.
_MAX_CLOCK_STEP_SECS = 5.0
# Limits of an ordinary log: milliseconds a second, and milliseconds an entry. Ordinary entries take
# about 0.1 ms.
_COSTLY_MS_PER_SECOND = 200.0
_COSTLY_MS_PER_ENTRY = 5.0


class Load:
    """The CPU time that one log costs, estimated from its entries. No I/O, no clock.

    CPU time cannot be measured for one task of many. The cost of a log is proportional to its
    entries; a new certificate costs as much as some duplicates.

    Args:
        known: its load when another worker had the log.

    Attributes:
        value: milliseconds of CPU a second.
    """

    def __init__(self, known: float = IDLE_LOAD) -> None:
        self.value = max(known, IDLE_LOAD)
        self._done = 0.0
        self._at: float | None = None

    def observe(self, now: float, counts: EntryCounts) -> None:
        """Add what was done until `now`, seconds of a monotonic clock."""
        read = counts.published + counts.rejected  # a rejected entry was parsed, up to its error
        done = read * _PUBLISHED_COST + counts.duplicates * _DUPLICATE_COST
        if self._at is not None and now > self._at:
            spent = now - self._at
            rate = IDLE_LOAD + (done - self._done) / spent
            self.value += (rate - self.value) * (1 - math.exp(-spent / LOAD_MEMORY_SECS))
        self._done, self._at = done, now


class StoredStatus(msgspec.Struct):
    """What Redis has of a log's status, as far as this worker has written it.

    Attributes:
        fields: of the hash of the log.
        successes: of the follower's health.
        at: loop time at which what changes with each poll was last written.
    """

    fields: dict[str, str | int] = {}
    successes: int = 0
    at: float = 0.0


class DrainProgress(msgspec.Struct):
    """How far this worker has drained a log.

    Attributes:
        began: time of Redis when it began, seconds since the epoch.
        began_monotonic: the same by the monotonic clock of this process.
        successes_when_due: of the follower's health, when the log was first due to be drained.
    """

    began: float
    began_monotonic: float
    successes_when_due: int | None = None


class AssignedLog(msgspec.Struct):
    """A log that this worker follows. The worker's tasks own it, not the follower's task.

    Attributes:
        follower: follows it.
        task: runs the follower.
        load: CPU time that it costs.
        published_rate: certificates published.
        cost_rate: milliseconds spent on writing messages of its entries.
        entry_rate: entries processed.
        stored: what Redis has of its status.
        drain: set while the log is drained.
    """

    follower: Follower
    task: asyncio.Task[None]
    load: Load
    published_rate: Rate = msgspec.field(default_factory=Rate)
    cost_rate: Rate = msgspec.field(default_factory=Rate)
    entry_rate: Rate = msgspec.field(default_factory=Rate)
    stored: StoredStatus = msgspec.field(default_factory=StoredStatus)
    drain: DrainProgress | None = None

    @property
    def log(self) -> Log:
        """The log, with the settings that its follower was made with."""
        return self.follower.log

    @property
    def lease(self) -> Lease:
        """The current lease; the publisher may have restored it."""
        return self.follower.publisher.lease

    def observe(self, now: float) -> None:
        """Update load and rates at `now`, seconds of a monotonic clock."""
        publisher = self.follower.publisher
        counts = publisher.counts
        self.load.observe(now, counts)
        self.published_rate.observe(now, counts.published)
        self.cost_rate.observe(now, int(publisher.spent * 1000))
        self.entry_rate.observe(now, counts.published + counts.duplicates + counts.rejected)

    @property
    def is_costly(self) -> bool:
        """Whether the log takes much CPU time, and much for each entry.

        A log that catches up may take all CPU time there is, for ordinary entries.
        """
        cost = self.cost_rate.per_second
        entries = self.entry_rate.per_second
        return cost > _COSTLY_MS_PER_SECOND and cost > _COSTLY_MS_PER_ENTRY * entries

    def is_drained(self, now: float) -> bool:
        """Return whether the log is retired and all its entries are published.

        The times of the retirement are stored, and the clock of Redis may have been wrong when
        they were, or may be now. So they are bounded by how long this worker has been draining.

        Args:
            now: time of Redis, seconds since the epoch.
        """
        log, health = self.log, self.follower.health
        if log.drain is None:
            return False
        drain = self.drain
        if drain is None or now < drain.began:  # the clock of Redis was set back
            drain = self.drain = DrainProgress(now, time.monotonic())
        elapsed = time.monotonic() - drain.began_monotonic
        now = min(now, drain.began + elapsed + _MAX_CLOCK_STEP_SECS)
        if now < min(log.drain.due, drain.began + log.mmd):
            return False
        if drain.successes_when_due is None:
            drain.successes_when_due = health.successes
        # Of two tree heads that were reached since then, the second was requested since then.
        reached = health.successes >= drain.successes_when_due + 2
        caught_up = self.follower.publisher.next >= health.tree_size
        deadline = min(log.drain.deadline, drain.began + log.mmd + READ_MARGIN_SECS)
        return (reached and caught_up) or now >= deadline

    def forget_stored(self) -> None:
        """Write the whole status again: Redis may have lost it."""
        self.stored = StoredStatus(successes=self.stored.successes)

    async def publish_status(self, cluster: ClusterRegistry) -> None:
        """Write to Redis what has changed of the log's status since the last call."""
        follower, stored = self.follower, self.stored
        publisher, health = follower.publisher, follower.health
        now = asyncio.get_running_loop().time()
        is_due = now - stored.at >= _STATUS_INTERVAL_SECS
        fields: dict[str, str | int] = {
            "integrity": follower.verifier.state,
            "limited_by": follower.limited_by,
        }
        if publisher.barren is not None:
            fields["barren"] = publisher.barren
        if follower.page is not None:
            fields["page"] = follower.page
        if follower.gaps:
            fields["gaps"] = " ".join(f"{gap:.1f}" for gap in follower.gaps)
        # At once if it shows that entries are missing, otherwise not at each poll.
        missing = health.tree_size > max(publisher.next, int(stored.fields.get("newest", 0)))
        if missing or (is_due and health.tree_size):
            fields |= {"newest": health.tree_size, "newest_timestamp": health.tree_timestamp}
        changed = dict(fields.items() - stored.fields.items())
        succeeded = is_due and health.successes != stored.successes
        if not changed and not succeeded:
            return
        await cluster.record_status(self.log.id, changed, succeeded=succeeded)
        stored.fields |= fields
        if succeeded:
            stored.successes = health.successes
        if is_due:
            stored.at = now


def sum_counters(
    assigned: Iterable[AssignedLog], loads: Mapping[str, float]
) -> dict[str, str | float]:
    """Return the fields of a worker's heartbeat; counters since it took each log.

    Args:
        assigned: the logs that it follows.
        loads: the loads of these, and of those that it is about to follow.
    """
    logs = list(assigned)
    counts = [log.follower.publisher.counts for log in logs]
    rates = {log.follower.log.id: round(log.published_rate.per_second, 2) for log in logs}
    return {
        "logs": len(logs),
        "loads": msgspec.json.encode({log: round(cost, 2) for log, cost in loads.items()}).decode(),
        RATES: msgspec.json.encode(rates).decode(),
        "published": sum(each.published for each in counts),
        "duplicates": sum(each.duplicates for each in counts),
        "rejected": sum(each.rejected for each in counts),
        "problems": sum(each.problems for each in counts),
        "errors": sum(log.follower.availability.errors for log in logs),
    }
