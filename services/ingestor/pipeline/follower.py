"""The loop of one log: tree head -> fetch -> verify -> publish -> mark verified.

It runs under one lease, from the index that Redis returned with it, until the lease is lost or the
task is cancelled. A log that cannot be read is retried for ever, when its circuit breaker allows.
"""

import asyncio
import shlex
import time
from contextlib import aclosing

import msgspec
import structlog

from certbus.cluster_health import BARREN
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
from ingestor.pipeline.poll_schedule import IdleBackoff, next_poll
from ingestor.pipeline.prefetch import InFlight, prefetch_windows
from ingestor.pipeline.publish import PositionChanged, WindowPublisher
from ingestor.pipeline.window_size import WindowSize
from ingestor.verification.entry_proofs import split_at_unparsed
from ingestor.verification.verifier import Verifier
from ingestor.window import VerifiedWindow

# Failures in a row after which entries may be unreadable for ever.
_HINT_AFTER_FAILURES = 4
_TILE_HINT = "; its entries are read from a tile of a larger tree, when the log has one"

_log = structlog.get_logger(__name__)


class PollSettings(msgspec.Struct, frozen=True):
    """How a log is read.

    Attributes:
        batch_size: entries a request.
        concurrency: windows fetched at the same time.
        interval: seconds from one tree head to the next, while the log grows.
        phase: of the polls, as a fraction of the interval.
    """

    batch_size: int
    concurrency: int
    interval: float
    phase: float


class LogHealth(msgspec.Struct):
    """How the log has been answering.

    Attributes:
        successes: times that all entries up to the tree head were published.
        tree_size: of the largest tree head that the log has shown and signed.
        tree_timestamp: the newest time at which it signed that size, ms since the epoch.
        begun: when this process began to follow it, seconds since the epoch.
        caught_up: when all entries up to the tree head were last published, seconds since the
            epoch; 0 if never.
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
        availability: decides when to retry it.
        settings: how to read it.

    Attributes:
        log: the log.
        publisher: has the position.
        verifier: knows what is proven.
        availability: counts the failures.
        health: how the log has been answering.
    """

    def __init__(
        self,
        log: Log,
        client: LogClient,
        publisher: WindowPublisher,
        verifier: Verifier,
        availability: LogAvailability,
        settings: PollSettings,
    ) -> None:
        self.log = log
        self.publisher = publisher
        self.verifier = verifier
        self.availability = availability
        self.health = LogHealth()
        self._client = client
        self._settings = settings
        self._size = WindowSize(settings.batch_size, client.tile)
        self._in_flight = InFlight(settings.concurrency)
        self._unread = Backlog()

    @property
    def missing_issuers(self) -> int:
        """Number of issuers without which entries are published."""
        return self._client.missing_issuers

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
        loop = asyncio.get_running_loop()
        await self.availability.load()
        await self.verifier.load(self.publisher.next)
        idle = IdleBackoff()
        while True:
            await self.availability.can_poll()
            polled = loop.time()
            try:
                newest = await self._client.tree_head()
                if self.verifier.is_signed(newest):  # otherwise anyone may have made it
                    idle.record(newest.size)
                    self.health.record_head(newest)
                head = await self.verifier.select_tree_head(newest, self.publisher.next)
                await self._catch_up(head)
            except LogError as error:
                await self.availability.record_failure(error)
                if isinstance(error, IntegrityViolation):
                    await self.verifier.alerts.violation(error, self.publisher.next)
            except PositionChanged as changed:
                _log.info("log position changed", log=self.log.name, next=changed.next)
                await self.verifier.load(changed.next)
            else:
                await self._record_success(head)
                settings = self._settings
                due = next_poll(polled, idle.interval(settings.interval), settings.phase)
                await asyncio.sleep(due - loop.time())

    async def _catch_up(self, head: TreeHead) -> None:
        """Publish all entries up to `head`; a `TwoPassCheck` takes two passes."""
        while self.publisher.next < head.size:
            try:
                await self._pass(head)
            except (IntegrityViolation, ProofUnavailable):
                raise
            except LogError as error:
                if error.is_rate_limit:
                    raise
                self._record_unreadable(head)
                failures = self._unread.failures
                if isinstance(error, TileGone) or failures >= _HINT_AFTER_FAILURES:
                    self.verifier.mark_unreachable()
                error.problem += _TILE_HINT if isinstance(error, TileGone) else self._skip_hint
                raise

    async def _pass(self, head: TreeHead) -> None:
        """Fetch all entries up to `head`; verify, publish and mark each window in order."""
        runs = prefetch_windows(
            self._client,
            self.publisher.next,
            head.size,
            self._size,
            self._in_flight,
            self.availability.record_rate_limit,
        )
        async with aclosing(runs):
            async for run in runs:
                for windows in split_at_unparsed(run):
                    verified = await self.verifier.verify(windows, head)
                    for window in verified:
                        await self.publisher.publish(window)
                        self.verifier.mark_verified(window)
                        await self._check_rejections(window)
                    if verified:
                        await self._record_progress()

    async def _record_progress(self) -> None:
        """Report missing issuers, and note that the log could be read."""
        for error in self._client.lacking():
            if isinstance(error, IntegrityViolation):
                await self.verifier.alerts.violation(error, self.publisher.next)
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
        first = self.publisher.next
        if first != self._unread.first:
            self._unread = Backlog(first)
        if self._unread.failures > 0:
            self._size.record_unreadable()
        end = self._size.end(first, head.size)
        self._unread = Backlog(first, end, self._unread.failures + 1)

    @property
    def _skip_hint(self) -> str:
        """What an operator can do if entries remain unreadable."""
        first, end, failures = self._unread.first, self._unread.end, self._unread.failures
        if failures < _HINT_AFTER_FAILURES or end - first > self._size.least:
            return ""
        hint = self.log.skip_hint(end)
        return f" (entry {first}, {failures} times; if it never can be read, {hint})"

    async def _record_success(self, head: TreeHead) -> None:
        """Note that all entries up to `head` are published."""
        self.health.successes += 1
        self.health.caught_up = time.time()
        self.verifier.mark_caught_up()
        await self.availability.record_idle(head.size)


def _age(since: float | None) -> float | None:
    """Return the seconds since a time of the log, whose clock may be ahead."""
    return max(time.time() - since, 0.0) if since else None
