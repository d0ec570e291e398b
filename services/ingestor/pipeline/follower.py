"""The loop of one log: tree head -> fetch -> verify -> publish -> mark verified.

It runs under one lease, from the index that Redis returned with it, until the lease is lost or the
task is cancelled. A log that cannot be read is retried for ever, when its circuit breaker allows.

Tree heads are polled while entries are fetched, unless more than one round of requests is missing
below the largest one. Each head that was shown is reached in turn, so that what is published up to
it needs no proof, and the requests for a larger one are already in flight.
"""

import asyncio
import contextlib
import shlex
import time
from bisect import insort
from operator import attrgetter

import msgspec
import structlog

from certbus.cluster_health import BARREN
from certbus.logs.leases import SkipAhead
from ctparse.entry import Rejected
from ctparse.tree_head import TreeHead
from ingestor.client.errors import (
    IntegrityViolation,
    InvalidResponse,
    LogError,
    ProofUnavailable,
    TileGone,
)
from ingestor.client.interface import LogClient
from ingestor.client.log_availability import LogAvailability
from ingestor.log import Log
from ingestor.pipeline.catch_up import CatchUpLimits
from ingestor.pipeline.page_size import PageSize
from ingestor.pipeline.partial_tile import PartialTile
from ingestor.pipeline.poll_schedule import PollSchedule
from ingestor.pipeline.prefetch import FetchedBytes, InFlight, Prefetch
from ingestor.pipeline.publish import PositionChanged, WindowPublisher
from ingestor.verification.entry_proofs import split_at_unparsed
from ingestor.verification.verifier import Verifier
from ingestor.window import VerifiedWindow, Window

# Failures in a row after which entries may be unreadable for ever.
_HINT_AFTER_FAILURES = 4
_MAX_HEADS = 64
_BEHIND_CHECK_SECS = 0.5
JUDGE_SECS = 60.0
"""Between two polls of a log that is behind and may skip: a refused skip is tried again."""

LIMITED_AFTER_SECS = 60.0
"""For which a setting must keep a log behind before it is reported."""

_TILE_HINT = "; its entries are read from a tile of a larger tree, when the log has one"

_log = structlog.get_logger(__name__)


class PollSettings(msgspec.Struct, frozen=True):
    """How a log is read.

    Attributes:
        batch_size: entries a request.
        interval: shortest time from one poll of the tree head to the next, seconds.
        phase: of the polls, as a fraction of the interval.
        partial_tile_wait: seconds for which entries wait for their tile to be full.
        limits: how far the log may be behind.
    """

    batch_size: int
    interval: float
    phase: float
    partial_tile_wait: float = 0.0
    limits: CatchUpLimits = CatchUpLimits()


class Requests(msgspec.Struct, frozen=True):
    """What bounds the requests of one log.

    Attributes:
        in_flight: how many requests for entries are sent at the same time.
        fetched: shared with the other logs of the process.
    """

    in_flight: InFlight
    fetched: FetchedBytes


class LogHealth(msgspec.Struct):
    """How the log has been answering.

    Attributes:
        successes: times that all entries up to the tree head were published, or wait for their
            tile to be full, and no other head had been requested.
        tree_size: of the largest tree head that the log has shown and signed.
        tree_timestamp: the newest time at which it signed that size, ms since the epoch.
        begun: when this process began to follow it, seconds since the epoch.
        caught_up: when all entries up to a tree head were last published, seconds since the epoch;
            0 if never.
    """

    successes: int = 0
    tree_size: int = 0
    tree_timestamp: int = 0
    begun: float = msgspec.field(default_factory=time.time)
    caught_up: float = 0.0

    def record_head(self, head: TreeHead) -> None:
        """Note a tree head that the log has shown and signed; replicas may show older ones."""
        largest = max((self.tree_size, self.tree_timestamp), (head.size, head.timestamp))
        self.tree_size, self.tree_timestamp = largest


class Lag(msgspec.Struct, frozen=True):
    """How far Redis is behind a log.

    Attributes:
        entries: that the log has and Redis has not.
        seconds: maximum age of these entries; 0 if there are none.
    """

    entries: int
    seconds: float


class Backlog(msgspec.Struct, frozen=True):
    """Entries that could not be read.

    Attributes:
        first: index of the first of them.
        end: index after the last that was requested with it.
        failures: attempts in a row.
    """

    first: int = -1
    end: int = -1
    failures: int = 0


class Follower:
    """Follows one log. Its task owns all attributes; other tasks only read them.

    Args:
        log: the log.
        client: reads it.
        publisher: publishes its windows.
        verifier: verifies its windows.
        availability: decides when to request it.
        settings: how to read it.
        requests: bounds its requests.

    Attributes:
        log: the log.
        publisher: has the position.
        verifier: knows what is proven.
        availability: counts the failures.
        health: how the log has been answering.
        limited_by: the setting that has kept it behind for `LIMITED_AFTER_SECS`; empty if none.
    """

    def __init__(
        self,
        log: Log,
        client: LogClient,
        publisher: WindowPublisher,
        verifier: Verifier,
        availability: LogAvailability,
        settings: PollSettings,
        requests: Requests,
    ) -> None:
        self.log = log
        self.publisher = publisher
        self.verifier = verifier
        self.availability = availability
        self.health = LogHealth()
        self._client = client
        self._page = PageSize(settings.batch_size, client.tile)
        self.limited_by = ""
        self._requests = requests
        self._prefetch = Prefetch(
            client,
            publisher.next,
            self._page,
            requests.in_flight,
            requests.fetched,
            lambda: availability.waiting,
        )
        self._limited_since: float | None = None
        self._polls = PollSchedule(settings.interval, settings.phase)
        self._poll: asyncio.Task[TreeHead] | None = None
        self._polled = 0.0  # when the last poll was sent, loop time
        self._target: TreeHead | None = None  # to reach; None at the head and after a failure
        self._later: list[TreeHead] = []  # larger ones that the log has shown, by size
        self._unread = Backlog()
        self._read_to = -1  # up to where a `TwoPassCheck` has read since the last published entry
        self._partial_tile = PartialTile(client.tile, settings.partial_tile_wait)
        self._limits = settings.limits
        self._judged = 0  # size of the largest tree head at which the delay was judged
        # Until when nothing was left to read and no poll was due, by the monotonic clock: a host's
        # clock that is set forward skips nothing.
        self._reached = time.monotonic()

    @property
    def missing_issuers(self) -> int:
        """Number of issuers without which entries are published."""
        return self._client.missing_issuers

    @property
    def page(self) -> int | None:
        """Entries of a full answer, if the log has shown that it gives fewer than configured."""
        return self._page.learned

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds between the newest tree heads, oldest first; empty if they are short."""
        return self._polls.long_gaps

    @property
    def lag(self) -> Lag:
        """How far Redis is behind the newest tree head."""
        entries = max(self.health.tree_size - self.publisher.next, 0)
        if not entries:
            return Lag(0, 0.0)
        # The log accepted the missing entries after the newest published one, and after the last
        # time that nothing was missing.
        since = max(self.publisher.newest or 0.0, self.health.caught_up) or self.health.begun
        return Lag(entries, max(time.time() - since, 0.0))

    @property
    def tree_head_age(self) -> float | None:
        """Seconds since the log signed the largest tree head shown; None before the first."""
        return _age(self.health.tree_timestamp / 1000)

    @property
    def ingest_delay(self) -> float | None:
        """Seconds since the log accepted the newest entry accounted for; None before the first."""
        return _age(self.publisher.newest)

    async def run(self) -> None:
        """Follow the log; never returns.

        Raises:
            LeaseLost: another worker owns the log.
        """
        await self.availability.load()
        await self.verifier.load(self.publisher.next)
        handover = await self.publisher.handover()
        if handover.since_success is not None:
            self._reached = time.monotonic() - handover.since_success
        if handover.page is not None:
            self._page.assume(handover.page)
        self._polls.assume(handover.gaps)
        try:
            await self.availability.can_poll()
            while True:
                try:
                    await self._step()
                except LogError as error:
                    self._polls.poll_now()
                    await self.availability.record_failure(error)
                    if isinstance(error, IntegrityViolation):
                        await self.verifier.alerts.report(error, self.publisher.next)
                    if self._prefetch.next > self.publisher.next and not self.verifier.reads_twice:
                        await self._restart()  # the first of two passes has ended with the failure
                    await self.availability.can_poll()
                except PositionChanged as changed:
                    _log.info("log position changed", log=self.log.name, next=changed.next)
                    await self.verifier.load(changed.next)
                    await self._restart()
        finally:
            await self._restart()

    async def _step(self) -> None:
        """Handle a tree head that has arrived, or else publish a run of entries.

        Raises:
            PositionChanged: Redis has lost entries.
        """
        loop = asyncio.get_running_loop()
        await self.publisher.check_position()
        if self._poll is not None and self._poll.done():
            poll, self._poll = self._poll, None
            await self._select(poll.result())
            return
        is_behind = self._prefetch.missing_requests > self._requests.in_flight.limit
        self.availability.is_behind = is_behind
        self._record_limit(loop.time(), self._limit() if is_behind else "")
        due = self._polls.due
        tile_due = self._partial_tile.due(self.publisher.next)
        if self._target is None and tile_due is not None and tile_due > self._polled:
            due = min(due, tile_due)
        judges = self._limits.is_set and loop.time() - self._polled >= JUDGE_SECS
        polls = self._poll is None and (self._target is None or not is_behind or judges)
        if polls and loop.time() >= due:
            self._polled = loop.time()
            self._poll = asyncio.create_task(self._request_head())
            self._poll.add_done_callback(lambda _: self._prefetch.interrupt())
        if self._target is None:
            if self._poll is not None:
                await asyncio.wait([self._poll])
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due - loop.time()):
                        await self.publisher.rewound.wait()
            return
        # Entries whose wait has ended are requested next; a deadline in the past would only spin.
        ends = [] if tile_due is None or tile_due <= loop.time() else [tile_due]
        if self._poll is None:
            ends.append(self._polls.due)
        deadline = min(ends, default=None)
        if is_behind:  # until it no longer is: then a poll may be due
            deadline = loop.time() + _BEHIND_CHECK_SECS
        await self._publish_next(self._target, deadline)

    def _limit(self) -> str:
        """Return the setting that bounds the requests of a log that is behind; empty if none."""
        waiting, in_flight = self.availability.waiting, self._prefetch.in_flight
        if self.availability.is_at_configured_interval and 2 * waiting > in_flight:
            return "ct_log.operator_rate_limits"
        return "ct_log.fetch_concurrency" if in_flight >= self._requests.in_flight.most else ""

    def _record_limit(self, now: float, setting: str) -> None:
        """Report the setting that keeps the log behind, once it has done so for a while."""
        if not setting:
            self._limited_since, self.limited_by = None, ""
        elif self._limited_since is None:
            self._limited_since = now
        elif not self.limited_by and now - self._limited_since >= LIMITED_AFTER_SECS:
            self.limited_by = setting
            _log.warning("log limited", log=self.log.name, setting=setting, behind=self.lag.entries)

    async def _request_head(self) -> TreeHead:
        """Poll the tree head; entries below it may be requested from then on."""
        sent = asyncio.get_running_loop().time()
        punctual = sent - self._polls.due <= 1.0
        head = await self._client.tree_head()
        if self.verifier.is_signed(head):  # otherwise anyone may have made it
            self._polls.budget = self.availability.budget
            if self._page.is_known:
                self._polls.page = self._page.size
            age = max(time.time() - head.timestamp / 1000, 0.0)
            self._polls.record(head.size, sent, punctual=punctual, age=age)
            self.health.record_head(head)
            if self._target is not None:
                self._prefetch.extend(self._readable(head.size))
        return head

    async def _select(self, head: TreeHead) -> None:
        """Choose what to reach, after the log has shown a head.

        Raises:
            LogError: the head must not be used.
        """
        await self._skip_ahead(head)
        target, self._target = self._target, None
        if target is not None and head.size > target.size and self.verifier.is_signed(head):
            await self.verifier.compare(head, self.publisher.next)
            self._target = target
            if len(self._later) >= _MAX_HEADS:
                self._later.pop()
            insort(self._later, head, key=attrgetter("size"))
            return
        target = await self.verifier.select_tree_head(head, self.publisher.next)
        await self._aim(target)

    async def _aim(self, target: TreeHead) -> None:
        """Reach a tree head, or those after it if there is nothing to read up to it."""
        while self.publisher.next >= self._end(target):
            if not self._is_withheld:
                # Entries that wait for their tile are no delay, nor is the time to the next poll.
                until_poll = max(self._polls.due - asyncio.get_running_loop().time(), 0.0)
                self._reached = time.monotonic() + until_poll
                if self.publisher.next >= target.size:
                    self.health.caught_up = time.time()
            while self._later and self._later[0].size <= self.publisher.next:
                self._later.pop(0)
            self._target = None
            if not self._later:
                if not self._is_withheld:
                    await self._record_success(target)
                return
            target = await self.verifier.select_tree_head(self._later.pop(0), self.publisher.next)
        self._target = target
        self._prefetch.extend(self._readable(target.size))

    @property
    def _is_withheld(self) -> bool:
        """Whether entries that the log has signed are withheld, also if a replica shows fewer."""
        alerts = self.verifier.alerts
        is_unproven = alerts.violating or alerts.unproven
        is_behind = self.publisher.next < self.health.tree_size
        return is_behind and is_unproven and self.verifier.is_blocking

    def _readable(self, size: int) -> int:
        """Return up to where to request entries, of a tree of `size` or of all trees shown.

        A piece of a tile is requested with the rest of the tile, if that exists by now.
        """
        if self.verifier.reads_twice or self._client.tile is None:
            return size
        now, shown = asyncio.get_running_loop().time(), max(self.health.tree_size, size)
        return self._partial_tile.limit(self.publisher.next, shown, now)

    def _end(self, target: TreeHead) -> int:
        """Return up to where to read now: `target`, or the last full tile before it."""
        return min(target.size, self._readable(target.size))

    async def _skip_ahead(self, head: TreeHead) -> None:
        """Skip entries if the log is further behind a new head than permitted.

        The log continues where a new one starts. Without a proof of that position nothing is
        skipped, unless unproven entries are published. Entries that a violation withholds are
        not skipped either: what the log signed and what it served are to be verified again.

        Raises:
            LogError: the log contradicts what it signed before.
        """
        if head.size <= self._judged or not self.verifier.is_signed(head):
            return
        self._judged = head.size
        first, end = self.publisher.next, head.size - self._limits.overlap
        since_head = time.monotonic() - self._reached
        reason = self._limits.exceeded(head.size - first, self.ingest_delay, since_head)
        if reason is None or end <= first:
            return
        if self.verifier.is_disputed(first):
            problem = f"a violation withholds the entries from {first} on"
            _log.warning("skip rejected", log=self.log.name, why=reason, problem=problem)
            return
        try:
            frontier = await self.verifier.prove_start(end, head)
        except ProofUnavailable as error:
            _log.warning("skip rejected", log=self.log.name, why=reason, problem=error.problem)
            return
        await self.publisher.skip_ahead(SkipAhead(first, end, reason, head, frontier))
        self._reached = time.monotonic()
        await self.verifier.load(end)
        await self._restart()

    async def _restart(self) -> None:
        """Drop what was fetched and shown; poll the tree head next."""
        self._target = None
        self._later.clear()
        self._polls.poll_now()
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
            self._poll = None
        await self._prefetch.restart(self.publisher.next)

    async def _publish_next(self, target: TreeHead, deadline: float | None) -> None:
        """Publish the next run below `target`, unless a poll is due or ends before it arrives."""
        readable = self._readable(target.size)
        self._prefetch.extend(readable)  # entries may have waited for their tile long enough
        end = min(target.size, readable)
        if self.publisher.next >= end:
            await self._aim(target)
            return
        try:
            run = await self._prefetch.run(end, deadline)
        except (IntegrityViolation, ProofUnavailable):  # of an issuer
            await self._restart()
            raise
        except LogError as error:
            self._target = None  # the replicas that answer may have a smaller tree
            self._record_unreadable(target)
            failures = self._unread.failures
            if isinstance(error, TileGone) or failures >= _HINT_AFTER_FAILURES:
                self.verifier.mark_unreachable()
                await self._restart()
            error.problem += _TILE_HINT if isinstance(error, TileGone) else self._skip_hint
            raise
        if not run:
            return
        try:
            await self._publish(run, target)
        except ProofUnavailable:
            if end < target.size:
                self._partial_tile.release()
                if self._end(target) > end:
                    self._prefetch.extend(self._readable(target.size))
                    return
            await self._restart()
            raise
        except IntegrityViolation:
            await self._restart()
            raise
        if self.publisher.next >= self._end(target):
            await self._aim(target)
        elif self._prefetch.next >= end:  # a `TwoPassCheck` has read all of it once
            await self._prefetch.restart(self.publisher.next)
            self._prefetch.extend(self._readable(target.size))

    async def _publish(self, run: list[Window], target: TreeHead) -> None:
        """Verify, publish and mark the windows of a run."""
        for windows in split_at_unparsed(run):
            verified = await self.verifier.verify(windows, target)
            for window in verified:
                await self.publisher.publish(window)
                self.verifier.mark_verified(window)
                await self._check_rejections(window)
            last = windows[-1]
            self._prefetch.take(last.first + len(last.entries))
            if verified:
                self._read_to = -1
            if verified or self._record_read():
                await self._record_progress()

    def _record_read(self) -> bool:
        """Return whether a `TwoPassCheck` has read entries that it had never read before.

        Entries read again are no progress: a log that fails again and again at the same entry, or
        at the end of the first pass, would be read from the beginning after short pauses for ever.
        """
        if self.verifier.alerts.violating or self._prefetch.next <= self._read_to:
            return False
        self._read_to = self._prefetch.next
        return True

    async def _record_progress(self) -> None:
        """Report missing issuers, and note that the log could be read."""
        for error in self._client.lacking():
            if isinstance(error, IntegrityViolation):
                await self.verifier.alerts.report(error, self.publisher.next)
            else:
                await self.availability.noted(error)
        await self.availability.record_progress()
        self._unread = Backlog()

    async def _check_rejections(self, window: VerifiedWindow) -> None:
        """Report a log whose entries are all rejected."""
        barren, counts = self.publisher.barren or 0, self.publisher.counts
        useless = barren >= BARREN or (barren > 0 and not counts.published + counts.duplicates)
        if not useless or not window.entries:
            return
        end, last = self.publisher.next, window.entries[-1]
        reason = f": {last.reason}" if isinstance(last, Rejected) else ""
        name = shlex.quote(self.log.name)
        problem = (
            f"entries {end - barren} to {end - 1} were all rejected{reason}; `certstream-server "
            f"rejected --log {name}` shows them; a log that cannot be read "
            f"is dropped by `certstream-server retire {name} --now`"
        )
        await self.availability.noted(InvalidResponse(self.log.name, self.log.base, problem))

    def _record_unreadable(self, head: TreeHead) -> None:
        """Count a failure to read the next entries; request fewer of them."""
        first = self._prefetch.next  # not the publisher's, in the first pass of a `TwoPassCheck`
        if first != self._unread.first:
            self._unread = Backlog(first)
        if self._unread.failures > 0:
            self._page.record_unreadable()
        end = self._page.end(first, head.size)
        self._unread = Backlog(first, end, self._unread.failures + 1)

    @property
    def _skip_hint(self) -> str:
        """What an operator can do if entries remain unreadable."""
        first, end, failures = self._unread.first, self._unread.end, self._unread.failures
        if failures < _HINT_AFTER_FAILURES or end - first > self._page.least:
            return ""
        hint = self.log.skip_hint(end)
        return f" (entry {first}, {failures} times; if it never can be read, {hint})"

    async def _record_success(self, head: TreeHead) -> None:
        """Note that all entries up to `head` are published, but those that wait for their tile."""
        # Of two successes, the second is of a tree head requested after the first (`is_drained`).
        self.health.successes += self._poll is None
        if self.publisher.next >= head.size:
            self.verifier.mark_caught_up()
        await self.availability.record_idle(head.size)


def _age(since: float | None) -> float | None:
    """Return the seconds since a time of the log, whose clock may be ahead."""
    return max(time.time() - since, 0.0) if since else None
