"""A follower without Redis: a log without proofs that is read twice, and clocks that are set."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from certbus.logs.leases import Handover, SkipAhead
from ctparse.entry import Entry, Rejected
from ctparse.tree_head import TreeHead
from ingestor.client.errors import ConnectionFailed, LogError
from ingestor.pipeline.catch_up import CatchUpLimits
from ingestor.pipeline.follower import Follower, PollSettings, Requests
from ingestor.pipeline.prefetch import FetchedBytes, InFlight
from ingestor.window import VerifiedWindow
from tests.ingestor.client.available import available, policy
from tests.ingestor.verification.memory_log import NOT_FOUND, Checked, entry
from tests.waiting import until

if TYPE_CHECKING:
    from ingestor.client.interface import LogClient
    from ingestor.pipeline.publish import WindowPublisher

SIZE = 40
MANY = 12
"""Failures in a row: more than those after which the first pass begins again."""


class Client:
    """Returns the tree heads and entries of a `MemoryLog`.

    Attributes:
        size: of its tree heads.
        shows: returns the tree head to show instead; None: it shows one of `size`.
        fails: returns whether the request with this number, of these entries, fails.
        wrong: index of the entry that is not the one in the tree.
        unparsed: index of the entry whose leaf is unknown.
        requests: for entries, so far.
    """

    tile = None
    has_partial_tiles = False
    missing_issuers = 0

    def __init__(self, checked: Checked) -> None:
        self.size = SIZE
        self.shows: Callable[[], TreeHead | None] = lambda: None
        self.fails: Callable[[int, range], bool] = lambda _number, _entries: False
        self.wrong: int | None = None
        self.unparsed: int | None = None
        self.requests = 0
        self._checked = checked

    async def tree_head(self) -> TreeHead:
        self._checked.now += 10  # enough refusals, over enough time
        return self.shows() or self._checked.log.head(self.size)

    async def entries(self, start: int, end: int) -> list[Entry | Rejected]:
        self.requests += 1
        await asyncio.sleep(0)
        if self.fails(self.requests, range(start, end)):
            raise ConnectionFailed("log", "url", "time-out")
        return [
            Rejected(index, "unparsed", b"")
            if index == self.unparsed
            else entry(index, other=index == self.wrong)
            for index in range(start, end)
        ]

    def lacking(self) -> Sequence[LogError]:
        return ()


class Publisher:
    """Publishes into nothing.

    Attributes:
        next: index of the next entry.
        newest: when it was last called, seconds since the epoch.
        skips: what was skipped.
    """

    barren = None
    counts = SimpleNamespace(published=0, duplicates=0)

    def __init__(self) -> None:
        self.next = 0
        self.newest: float | None = None
        self.skips: list[SkipAhead] = []
        self.rewound = asyncio.Event()

    async def handover(self) -> Handover:
        return Handover()

    async def publish(self, window: VerifiedWindow) -> None:
        assert window.first == self.next
        self.next += len(window.entries)
        self.newest = time.time()

    async def skip_ahead(self, skip: SkipAhead) -> None:
        self.skips.append(skip)
        self.next = skip.end

    async def check_position(self) -> None:
        pass


class Following:
    """A follower, and what it uses."""

    def __init__(self, max_lag_secs: float = 0.0, *, refuses: bool = True) -> None:
        self.checked = checked = Checked()
        checked.log.refusal = NOT_FOUND if refuses else None
        self.client = Client(checked)
        self.publisher = Publisher()
        self.availability = available(policy(unhealthy=5, healthy=2))
        self.follower = Follower(
            checked.of,
            cast("LogClient", self.client),
            cast("WindowPublisher", self.publisher),
            checked.verifier,
            self.availability,
            PollSettings(
                batch_size=2, interval=0.001, phase=0.0, limits=CatchUpLimits(secs=max_lag_secs)
            ),
            Requests(InFlight(4), FetchedBytes()),
        )

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Follow the log until a condition holds."""
        task = asyncio.create_task(self.follower.run())
        try:
            await until(lambda: task.done() or condition(), what)
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> Following:
    monkeypatch.setattr("ingestor.pipeline.prefetch.MAX_LOG_BYTES", 1)  # each answer is a run
    monkeypatch.setattr("ingestor.pipeline.prefetch.RUN_BYTES", 1)
    return Following()


async def test_failures_at_different_entries_do_not_add_up(following: Following) -> None:
    """Nor do they open the circuit: then each request would be sent once, after long pauses."""
    states: set[str] = set()

    def fails(number: int, _entries: range) -> bool:
        states.add(following.availability.status.state)
        return number % 4 == 0

    following.client.fails = fails
    await following.until(lambda: following.publisher.next == SIZE, "all entries")
    assert states == {"closed"}


@pytest.mark.parametrize("failure", ["unreadable", "wrong", "unparsed"])
async def test_each_failure_at_the_same_entry_makes_the_pause_longer(
    following: Following, failure: str
) -> None:
    """Also after the first pass has begun again, and read the entries before it."""
    match failure:
        case "wrong":
            following.client.wrong = SIZE - 2
        case "unparsed":
            following.client.unparsed = SIZE - 2
        case _:  # unreadable
            following.client.fails = lambda _number, entries: SIZE - 2 in entries
    await following.until(
        lambda: following.availability.status.failures > MANY, "failures without progress"
    )
    assert following.publisher.next == 0
    assert following.client.requests > SIZE


async def test_one_bad_tree_head_in_the_first_pass_accuses_no_entries(following: Following) -> None:
    follower, failed, shown = following.follower, list[int](), list[TreeHead]()

    def fails(number: int, _entries: range) -> bool:
        """Fail once, half-way through the first pass: then a tree head is requested."""
        if follower.verifier.reads_twice and follower._prefetch.next >= SIZE // 2 and not failed:
            failed.append(number)
            return True
        return False

    def shows() -> TreeHead | None:
        if failed and not shown:
            shown.append(following.checked.log.head(SIZE, signed=False))
            return shown[0]
        return None

    following.client.fails, following.client.shows = fails, shows
    await following.until(lambda: following.publisher.next == SIZE, "all entries")
    assert len(shown) == 1
    assert following.checked.store.kinds == ["bad_signature"]


@pytest.mark.parametrize(("failure", "state"), [("wrong", "lying"), ("unparsed", "unproven")])
async def test_a_replica_that_is_behind_ends_no_alert(
    following: Following, failure: str, state: str
) -> None:
    """Neither a violation nor a missing proof: the entries after its tree are still withheld."""
    client, follower, polls = following.client, following.follower, 0
    following.checked.log.refusal = None
    client.size = SIZE // 2
    await following.until(lambda: following.publisher.next == SIZE // 2, "the first half")
    setattr(client, failure, SIZE // 2)
    successes = set[int]()

    def shows() -> TreeHead | None:
        nonlocal polls
        polls += 1
        client.size = SIZE if polls % 2 else SIZE // 2
        if follower.verifier.alerts.counts:
            successes.add(follower.health.successes)
        return None

    client.shows = shows
    await following.until(lambda: polls > 2 * MANY, "tree heads")
    assert following.availability.status.state != "closed"
    assert follower.verifier.state == state
    assert sum(follower.verifier.alerts.counts.values()) == 1
    assert len(successes) == 1


async def test_two_roots_of_one_size_are_noticed_while_entries_are_read(
    following: Following,
) -> None:
    """Also if neither of the two tree heads is ever the one to reach."""
    log, polls, until_shown = following.checked.log, 0, asyncio.Event()
    log.refusal = None
    heads = [log.head(10), log.head(30), log.head(30, tree=1)]
    read = following.client.entries

    def shows() -> TreeHead:
        nonlocal polls
        polls += 1
        if polls > len(heads):
            until_shown.set()
        return heads[polls - 1] if polls <= len(heads) else log.head(SIZE)

    async def entries(start: int, end: int) -> list[Entry | Rejected]:
        if start >= 4:
            await until_shown.wait()
        return await read(start, end)

    following.client.shows = shows
    in_flight = following.follower._requests.in_flight
    in_flight.limit = in_flight.most = SIZE  # so that tree heads are polled while entries are read
    following.client.entries = entries  # type: ignore[method-assign]
    await following.until(lambda: following.publisher.next == SIZE, "all entries")
    problem = "tree heads of 30 and 30 entries are not of one tree"
    assert ("split", problem, (30, 30)) in following.checked.store.changes
    assert following.follower.verifier.state == "proven"


async def test_a_clock_that_is_set_forward_skips_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    following = Following(max_lag_secs=3600, refuses=False)
    following.client.size = SIZE // 2
    set_forward = time.time() + 2 * 3600

    def has_all() -> bool:
        if following.publisher.next == following.client.size < SIZE:
            monkeypatch.setattr(time, "time", lambda: set_forward)
            following.client.size = SIZE
        return following.publisher.next == SIZE

    await following.until(has_all, "all entries")
    assert following.publisher.skips == []
