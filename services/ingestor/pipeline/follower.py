"""The loop of one log: tree head -> windows -> publish, again and again.

It runs under one lease, from the index Redis gave with it, until the lease is lost or the task is
cancelled. A log that cannot be read is tried again for ever, when its circuit breaker says so.
"""

import asyncio
import shlex
import time
from collections.abc import Sequence
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
from ingestor.pipeline.prefetch import Window, prefetch_windows
from ingestor.pipeline.publish import PositionChanged, WindowPublisher
from ingestor.pipeline.window_size import WindowSize
from ingestor.verification.entry_proofs import Growth, parts
from ingestor.verification.verifier import Verifier

# Failures in a row after which an entry may be one that can never be read.
_HOPEFUL = 4
_LATER = "; its entries are read from a tile of a larger tree, when the log has one"

_log = structlog.get_logger(__name__)


class PollSettings(msgspec.Struct, frozen=True):
    """How a log is read.

    Attributes:
        batch_size: entries asked for at once.
        concurrency: windows fetched at the same time.
        poll: seconds from one tree head to the next, while it grows.
        moment: when in these seconds, as a part of them.
    """

    batch_size: int
    concurrency: int
    poll: float
    moment: float


class LogHealth(msgspec.Struct):
    """How the log has been answering.

    Attributes:
        successes: how often everything up to the head was published.
        tree_size: of the newest tree head that the log has shown, and signed.
        begun: when this process began to follow it, seconds since the epoch.
        caught_up: when everything up to the tree head was last published; 0 if never.
    """

    successes: int = 0
    tree_size: int = 0
    begun: float = msgspec.field(default_factory=time.time)
    caught_up: float = 0.0


class Lag(msgspec.Struct, frozen=True):
    """How far Redis is behind a log.

    Attributes:
        entries: that the log has and Redis has not.
        seconds: at most so old are they, 0 if there are none.
    """

    entries: int
    seconds: float


class Backlog(msgspec.Struct, frozen=True):
    """Entries that could not be read.

    Attributes:
        first: the first of them.
        end: what follows the last that was asked for with it.
        times: how often, in a row.
    """

    first: int = -1
    end: int = -1
    times: int = 0


class Follower:
    """Follows one log.

    Args:
        log: what is followed.
        client: reads it.
        pipeline: publishes it.
        guard: decides what of it may be published.
        breaker: decides when it is tried again.
        pace: how fast.

    Attributes:
        log: what is followed.
        pipeline: where it goes; knows how far.
        guard: knows what is proven.
        breaker: knows what has failed.
        health: how it has been answering.
    """

    def __init__(
        self,
        log: Log,
        client: LogClient,
        pipeline: WindowPublisher,
        guard: Verifier,
        breaker: LogAvailability,
        pace: PollSettings,
    ) -> None:
        self.log = log
        self.pipeline = pipeline
        self.guard = guard
        self.breaker = breaker
        self.health = LogHealth()
        self._client = client
        self._pace = pace
        self._size = WindowSize(pace.batch_size, client.tile)
        self._unread = Backlog()

    @property
    def missing_issuers(self) -> int:
        """How many issuers entries are published without."""
        return self._client.missing_issuers

    @property
    def lag(self) -> Lag:
        """How far Redis is behind the log, as far as the log has told."""
        entries = max(self.health.tree_size - self.pipeline.next, 0)
        if not entries:
            return Lag(0, 0.0)
        # What is missing was accepted after the newest entry that was published, and after the
        # moment when nothing was missing.
        since = max(self.pipeline.newest or 0.0, self.health.caught_up) or self.health.begun
        return Lag(entries, max(time.time() - since, 0.0))

    async def run(self) -> None:
        """Follow the log; never returns.

        Raises:
            LeaseLost: another worker owns the log.
        """
        loop = asyncio.get_running_loop()
        await self.breaker.load()
        await self.guard.load(self.pipeline.next)
        quiet = IdleBackoff()
        while True:
            await self.breaker.can_poll()
            asked = loop.time()
            try:
                newest = await self._client.tree_head()
                if self.guard.is_signed(newest):  # anybody can say any number
                    quiet.record(newest.size)
                    self.health.tree_size = newest.size
                head = await self.guard.select_tree_head(newest, self.pipeline.next)
                await self._catch_up(head)
            except LogError as error:
                await self.breaker.record_failure(error)
                if isinstance(error, IntegrityViolation):
                    await self.guard.alarms.violation(error, self.pipeline.next)
            except PositionChanged as moved:
                _log.info("redis goes on from another entry", log=self.log.name, next=moved.next)
                await self.guard.load(moved.next)
            else:
                await self._reached(head)
                due = next_poll(asked, quiet.interval(self._pace.poll), self._pace.moment)
                await asyncio.sleep(due - loop.time())

    async def _catch_up(self, head: TreeHead) -> None:
        """Publish everything up to `head`, in as many passes as it takes to prove it."""
        while self.pipeline.next < head.size:
            try:
                await self._pass(head)
            except (IntegrityViolation, ProofUnavailable):
                raise
            except LogError as error:
                self._unreadable(head)
                if isinstance(error, TileGone) or self._unread.times >= _HOPEFUL:
                    self.guard.unreachable()
                error.problem += _LATER if isinstance(error, TileGone) else self._way_out
                raise

    async def _pass(self, head: TreeHead) -> None:
        """Read everything up to `head`, and publish what of it is proven."""
        start, concurrency = self.pipeline.next, self._pace.concurrency
        ahead = prefetch_windows(self._client, start, head.size, self._size, concurrency)
        async with aclosing(ahead):
            async for run in ahead:
                for part in parts(run):
                    growths = await self.guard.verify(part, head)
                    if growths is not None:
                        await self._publish(part, head, growths)

    async def _publish(
        self, run: Sequence[Window], head: TreeHead, growths: Sequence[Growth | None]
    ) -> None:
        for window, growth in zip(run, growths, strict=True):
            await self.pipeline.publish(window.first, window.entries, head, growth)
            await self._look_at_yield(window)
        for error in self._client.lacking():
            await self._lacks(error)
        await self.breaker.record_progress()
        self._unread = Backlog()

    async def _lacks(self, error: LogError) -> None:
        """Something beside the entries is not available; they are published without it."""
        if isinstance(error, IntegrityViolation):
            await self.guard.alarms.violation(error, self.pipeline.next)
        else:
            await self.breaker.noted(error)

    async def _look_at_yield(self, window: Window) -> None:
        """Say what is wrong with a log whose entries are all rejected."""
        barren, tally = self.pipeline.barren or 0, self.pipeline.tally
        useless = barren >= BARREN or (barren > 0 and not tally.published + tally.duplicates)
        if not useless or not window.entries:
            return
        end, last = self.pipeline.next, window.entries[-1]
        why = f": {last.reason}" if isinstance(last, Rejected) else ""
        problem = (
            f"entries {end - barren} to {end - 1} were all rejected{why}; `certstream-server "
            f"rejected --log {shlex.quote(self.log.name)}` shows them; a log that cannot be read "
            f"is dropped by `certstream-server retire {shlex.quote(self.log.name)} --now`"
        )
        await self.breaker.noted(InvalidResponse(self.log.name, self.log.base, problem))

    def _unreadable(self, head: TreeHead) -> None:
        """Note that the entries to publish next cannot be read; ask for fewer of them."""
        first = self.pipeline.next
        if first != self._unread.first:
            self._unread = Backlog(first)
        if self._unread.times > 0:
            self._size.unreadable()
        end = self._size.end(first, head.size)
        self._unread = Backlog(first, end, self._unread.times + 1)

    @property
    def _way_out(self) -> str:
        """What an operator can do, if entries are unreadable for long."""
        first, end, times = self._unread.first, self._unread.end, self._unread.times
        if times < _HOPEFUL or end - first > self._size.least:
            return ""
        return (
            f" (entry {first}, {times} times; if it never can be read, {self.log.skip_hint(end)})"
        )

    async def _reached(self, head: TreeHead) -> None:
        """Note that everything up to `head` is published."""
        self.health.successes += 1
        self.health.caught_up = time.time()
        self.guard.mark_verified()
        await self.breaker.record_idle(head.size)
