"""The table of `continuity`: what each place and each view come to."""

import pytest

from certbus.ids import EntryId
from certbus.streams.continuity import (
    KNOWN,
    NOTHING,
    OLDEST,
    Action,
    ForkSearch,
    Link,
    LostRange,
    LostRanges,
    ReaderPosition,
    Trail,
    View,
    decide,
    first_of,
)


def at(ms: int) -> EntryId:
    return EntryId(ms, 0)


def link(ms: int, prev: int, what: str = "log:0") -> Link:
    return Link(at(ms), at(prev), what)


def view(
    last: int,
    here: Link | None = None,
    after: Link | None = None,
    first: int | None = 10,
    now: int | None = None,
) -> View:
    return View("one", None if first is None else at(first), at(last), here, after, now)


EMPTY = ReaderPosition(NOTHING, None, "one")
BEHIND = ReaderPosition(at(20), None, "one", link(20, 10))
CURSOR = ReaderPosition(at(20), 3)
WHOLE = ReaderPosition(at(20))  # as in a heartbeat
MOMENT = ReaderPosition(at(20), is_moment=True)


@pytest.mark.parametrize(
    ("place", "shown", "action", "gap"),
    [
        (OLDEST, view(50, None, link(30, 20)), Action.OLDEST, None),
        (BEHIND, View(None, None, NOTHING), Action.WAIT, None),
        (BEHIND, View("two", at(90), at(90)), Action.OLDEST, "reset"),
        (EMPTY, View("two", at(90), at(90)), Action.OLDEST, "reset"),
        (ReaderPosition(at(9), 0), view(50, None, link(10, 0)), Action.OLDEST, "reset"),
        (ReaderPosition(at(9)), view(50, None, link(10, 0)), Action.OLDEST, "reset"),
        (BEHIND, view(50, link(20, 10), link(30, 20)), Action.INSIDE, None),
        (CURSOR, view(50, link(20, 10)), Action.INSIDE, None),
        (BEHIND, view(50, link(20, 10, "log:9")), Action.BACK, "lost"),
        (BEHIND, view(50, link(20, 11)), Action.BACK, "lost"),
        (BEHIND, view(19), Action.BACK, "lost"),
        (CURSOR, view(19), Action.END, "future"),
        (MOMENT, view(19), Action.END, "future"),
        (CURSOR, view(19, now=20), Action.END, "future"),
        (CURSOR, view(19, now=19), Action.OLDEST, "lost"),
        (WHOLE, view(19, now=19), Action.OLDEST, "lost"),
        (MOMENT, view(19, now=19), Action.END, "future"),
        (MOMENT, view(19, now=20), Action.END, None),
        (MOMENT, view(0, first=None, now=20), Action.END, "future"),
        (ReaderPosition(at(10**14), 0), view(19, now=19), Action.END, "future"),
        (BEHIND, view(19, now=19), Action.BACK, "lost"),
        (CURSOR, view(50, None, link(30, 19), now=19), Action.EARLIER, "unknown"),
        (BEHIND, view(20), Action.END, None),
        (WHOLE, view(20), Action.END, None),
        (CURSOR, view(20), Action.END, "trimmed"),
        (BEHIND, view(21), Action.END, None),
        (ReaderPosition(at(20), 3, "one"), view(21), Action.END, None),
        (WHOLE, view(21), Action.END, "trimmed"),
        (MOMENT, view(21), Action.END, "trimmed"),
        (EMPTY, view(0, first=None), Action.END, None),
        (EMPTY, view(30, None, link(30, 0)), Action.NEXT, None),
        (EMPTY, view(30, None, link(30, 29)), Action.NEXT, "trimmed"),
        (BEHIND, view(50, None, link(30, 20)), Action.NEXT, None),
        (WHOLE, view(50, None, link(30, 20)), Action.NEXT, None),
        (CURSOR, view(50, None, link(30, 20)), Action.NEXT, "trimmed"),
        (BEHIND, view(50, None, link(30, 29)), Action.NEXT, "trimmed"),
        (MOMENT, view(50, None, link(30, 29)), Action.NEXT, "trimmed"),
        (BEHIND, view(50, None, link(30, 19)), Action.BACK, "lost"),
        (MOMENT, view(50, None, link(30, 19)), Action.NEXT, None),
        (CURSOR, view(50, None, link(30, 19)), Action.EARLIER, "unknown"),
        (WHOLE, view(50, None, link(30, 19)), Action.EARLIER, "unknown"),
    ],
)
def test_the_table(place: ReaderPosition, shown: View, action: Action, gap: str | None) -> None:
    assert decide(place, shown) == (action, gap)


@pytest.mark.parametrize("place", [CURSOR, WHOLE, MOMENT])
@pytest.mark.parametrize(
    ("lost", "action", "gap"),
    [
        (LostRange(at(15), at(25), emptied=False, fork=at(15)), Action.BACK, "lost"),
        (LostRange(at(15), at(25), emptied=True, fork=None), Action.OLDEST, "reset"),
        (LostRange(at(20), at(25), emptied=True, fork=None), Action.NEXT, None),
        (LostRange(at(15), at(19), emptied=True, fork=None), Action.NEXT, None),
    ],
)
def test_an_id_that_the_reader_has_seen_lost(
    place: ReaderPosition, lost: LostRange, action: Action, gap: str | None
) -> None:
    losses = LostRanges()
    losses.add(lost)
    if gap is None and place is not MOMENT:
        action, gap = Action.EARLIER, "unknown"
    assert decide(place, view(50, None, link(30, 19)), losses) == (action, gap)


def test_a_lost_id_that_redis_gave_again_names_the_newer_batch() -> None:
    losses = LostRanges()
    losses.add(LostRange(at(15), at(25), emptied=False, fork=at(15)))
    assert decide(CURSOR, view(50, link(20, 10)), losses) == (Action.INSIDE, None)


@pytest.mark.parametrize("kept", range(11))
@pytest.mark.parametrize("trimmed", [0, 3, 10])
def test_the_fork_is_found_in_few_questions(kept: int, trimmed: int) -> None:
    links = [link(ms, ms - 1) for ms in range(1, 11)]
    retained = links[trimmed:kept]
    oldest = retained[0].id if retained else None
    search, questions = ForkSearch(links, oldest), 0
    while search.question is not None:
        questions += 1
        search.answer(has=search.question in retained)
    assert search.found == (retained[-1] if retained else None)
    assert questions <= 4


def test_a_trail_is_bounded_and_rewinds() -> None:
    trail = Trail(EMPTY)
    for ms in range(1, KNOWN + 100):
        trail.advance(link(ms, ms - 1), "one")
    assert len(trail.links) == KNOWN
    fork = trail.links[-10]
    trail.rewind(fork, "one")
    assert trail.place == ReaderPosition(fork.id, None, "one", fork)
    assert trail.links[-1] == fork
    lost = trail.losses.find(at(KNOWN + 99))
    assert lost is not None
    assert lost.fork == fork.id
    assert trail.losses.find(fork.id) is None
    trail.rewind(None, "one")
    assert trail.place == OLDEST
    lost = trail.losses.find(fork.id)
    assert lost is not None
    assert lost.fork is None


def test_the_record_of_losses_is_bounded() -> None:
    losses = LostRanges()
    for ms in range(0, 1000, 10):
        losses.add(LostRange(at(ms), at(ms + 5), emptied=False, fork=None))
    assert losses.find(at(5)) is None
    assert losses.find(at(995)) is not None


def test_a_new_epoch_records_the_ids_of_the_one_before() -> None:
    trail = Trail(EMPTY)
    trail.advance(link(20, 10), "one")
    trail.start_epoch("two", at(10))
    assert trail.place == ReaderPosition(NOTHING, None, "two")
    for ms, emptied in ((9, None), (10, True), (20, True), (21, None)):
        lost = trail.losses.find(at(ms))
        assert (lost and lost.emptied) == emptied


def test_an_epoch_that_an_older_release_began_shows_its_first_batch_while_it_is_retained() -> None:
    assert first_of(at(10), link(30, 20)) == at(10)
    assert first_of(None, link(10, 0)) == at(10)
    assert first_of(None, link(30, 20)) is None
    assert first_of(None, None) is None
