"""What follows a position: one state machine for everything that reads a stream in order. Pure.

The live reader, rings, history, replays and `tail --redis` all use it. It decides what follows a
batch after any event in Redis: batches trimmed, the last second lost, all data lost, a fail-over to
a primary whose clock is behind, or a restored copy.

**What Redis shows.** `head.epoch` is random and made with the data, so another one means that
Redis was emptied. `head.first` is the id of the epoch's first batch, `head.last` that of its newest
one, over all streams. Each batch names in `prev` the batch published before it, in whatever
stream: a chain that begins at 0-0. A `View` is what Redis showed of one stream at one moment.

**States.** A `ReaderPosition` is in one of these states:

    oldest      the reader has nothing and needs everything retained
    empty       it has everything of an epoch in which nothing was published: exactly after 0-0
    behind      it has everything up to a whole batch, which it read in a known epoch
    cursor      a client has everything up to a message, or up to a batch; the epoch of the id is
                not known
    moment      a client needs what is newer than a time; no batch need have its id

**Transitions.** `decide` compares a position with a view. The first matching line applies; E is the
position's entry id, N the first retained batch above E, *known* the states empty and behind:

    position                               the reader continues          reason of the gap
    oldest                                 at the oldest batch           -
    known, and Redis shows no epoch        after Redis has an epoch      -
    known, of another epoch                at the oldest batch           reset
    E below head.first                     at the oldest batch           reset
    E is retained, and the same batch      after E's message             -
    E is retained, but another batch       back to the fork              lost
    E in a range recorded as emptied       at the oldest batch           reset
    E in a range recorded as lost          back to the fork              lost
    E above head.last, known               back to the fork              lost
    E above head.last and TIME, no moment  at the oldest batch           lost
    E above head.last, not TIME, a moment  with what is published next   -
    E above head.last                      with what is published next   future
    no N, E is head.last, a whole batch    with what is published next   -
    no N, known                            with what is published next   -
    no N                                   with what is published next   trimmed
    N.prev = E, a whole batch              at N                          -
    N.prev >= E                            at N                          trimmed
    N.prev < E, known                      back to the fork              lost
    N.prev < E, moment                     at N                          -
    N.prev < E, cursor                     a minute before E             unknown

*Back to the fork*: to the newest batch that this reader has read and Redis still has. A `Trail`
keeps the newest `KNOWN` links that were read of a stream; `ForkSearch` finds the newest one that
the stream still has, in about log2(KNOWN) reads. Without one, the reader continues at the oldest
retained batch: messages may come twice, as the gap states, but none is left out. The range between
the fork and the reader is recorded (`LostRanges`), so a client with a cursor in it returns to the
same fork later.

*A minute before E*: at the moment `REPEATED_MS` before the id. Redis has lost E, and this reader
has not seen that. What Redis published after the loss may have ids below E, if its clock was behind
by then: of a primary that takes over, by less than what it lacked. None of it is left out unless
Redis lost more than this time. It is left out, after a gap, where the stream has nothing above E
yet: nothing shows then that the clock was behind.

*With what is published next*: after `head.last` of this view, in its epoch. The end of a ring was
read at another moment, and may be after batches that this view does not have. A known position
without N needs no gap yet: `prev` of the batch that follows shows whether some were trimmed.

*Above TIME*, by less than a year: Redis issued the id while its clock was ahead, and has lost it.
What it issued after that has lower ids, so it is not known which of these the client has. While
clocks are right, an id above `head.last` is below TIME: then nothing was published since the loss.
A moment there gets no gap if the epoch has a batch: nothing was published since the moment.

**Limits.** In the states empty and behind, each message that Redis retains is read, or a gap comes
first. A cursor carries no epoch, so an id of a former epoch that is
between two ids of this one is `unknown`: a gap again. An id that Redis has given twice, before and
after it lost something, names the newer batch. `publish.lua` prevents that, except in two cases:
a clock that was set back passes the same millisecond again; or ids are ahead of TIME, then with a
probability of about 2^-23 for each batch published in place of what was lost. A moment has no
batch to be compared with: it gets what is newer, as requested.

A batch is the same as another one if id, `prev`, log and first index agree.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal, NamedTuple

import msgspec

from certbus.ids import FIRST_ID, MAX_PART, Cursor, EntryId, parse_entry_id

KNOWN: Final = 1024
"""Links that are kept of each stream."""

_MAX_CLOCK_AHEAD_MS: Final = 366 * 86_400_000  # an id further ahead of TIME is invented
_RANGES: Final = 16  # of what was lost, kept of each stream

NOTHING: Final = parse_entry_id(FIRST_ID)
"""The id before every other."""

Reason = Literal["reset", "lost", "trimmed", "future", "unknown"]
"""Why there is a gap before what follows."""


class Link(NamedTuple):
    """What identifies a batch.

    Attributes:
        id: its entry id.
        prev: entry id of the batch published before it.
        what: log id and index of its first entry, as text.
    """

    id: EntryId
    prev: EntryId
    what: str


class ReaderPosition(msgspec.Struct, frozen=True):
    """The position of a reader in one stream.

    Attributes:
        entry: it has everything up to this batch; 0-0 without an epoch: it wants the oldest.
        position: of the last message it has in that batch; None for all of them.
        epoch: in which it read the batch; None if only the id is known.
        link: the batch, if it read it.
        is_moment: whether no batch need have the id.
    """

    entry: EntryId
    position: int | None = None
    epoch: str | None = None
    link: Link | None = None
    is_moment: bool = False

    @property
    def is_oldest(self) -> bool:
        """Whether it wants everything retained."""
        return self.epoch is None and self.entry == NOTHING

    @property
    def cursor(self) -> Cursor:
        """What it has, without how it is known."""
        return Cursor(self.entry, self.position)


OLDEST: Final = ReaderPosition(NOTHING)
REPEATED_MS: Final = 60_000


class View(msgspec.Struct, frozen=True):
    """What Redis showed of one stream at one moment.

    Attributes:
        epoch: of Redis' data; None if nothing was ever written, or it was emptied.
        first: id of the epoch's first batch; None if there is none, or it is not known.
        last: id of the newest batch of all streams.
        at: the batch that has the place's id, if the stream retains it.
        after: the first batch above the place's id, if the stream retains any.
        now: TIME of that Redis, milliseconds since the epoch; None if it was not read.
    """

    epoch: str | None
    first: EntryId | None
    last: EntryId
    at: Link | None = None
    after: Link | None = None
    now: int | None = None


class Action(Enum):
    """Where a reader continues."""

    WAIT = "wait"
    """Nowhere yet: it reads the head again later."""
    INSIDE = "inside"
    """After its message, in the batch that the view has `at` the position."""
    NEXT = "next"
    """With the batch that the view has `after` the position."""
    OLDEST = "oldest"
    """With the oldest batch that the stream retains."""
    EARLIER = "earlier"
    """With what is newer than `earlier` of its position."""
    BACK = "back"
    """With what follows the newest batch that it has read and Redis still has."""
    END = "end"
    """With what is published after `last` of the view: nothing newer is retained."""


class Decision(NamedTuple):
    """Where a reader continues, and the gap that it reports before that.

    Attributes:
        action: where.
        gap: why something is missing or comes again; None if nothing does.
    """

    action: Action
    gap: Reason | None = None


class LostRange(NamedTuple):
    """A range of ids that Redis has lost.

    Attributes:
        after: the ids lost are above this one,
        upto: and not above this one.
        emptied: Redis was emptied.
        fork: the newest batch before them that Redis had still; None for none.
    """

    after: EntryId
    upto: EntryId
    emptied: bool
    fork: EntryId | None


class LostRanges:
    """The ranges of ids that a reader of a stream has seen Redis lose. Bounded."""

    def __init__(self) -> None:
        self._ranges: deque[LostRange] = deque(maxlen=_RANGES)

    def add(self, lost: LostRange) -> None:
        """Record one."""
        if lost.upto > lost.after:
            self._ranges.append(lost)

    def find(self, entry: EntryId) -> LostRange | None:
        """The newest of them in which an id is."""
        for lost in reversed(self._ranges):
            if lost.after < entry <= lost.upto:
                return lost
        return None


_NONE = LostRanges()


def decide(place: ReaderPosition, view: View, losses: LostRanges = _NONE) -> Decision:
    """Decide where a reader continues: the table of this module's docstring.

    Args:
        place: its position.
        view: what Redis showed of the stream.
        losses: what the reader of the live stream has seen Redis lose.
    """
    return _by_epoch(place, view) or _by_id(place, view, losses) or _by_chain(place, view)


def _by_epoch(place: ReaderPosition, view: View) -> Decision | None:
    """The first part of the table: what the epoch decides."""
    known = place.epoch is not None
    if place.is_oldest:
        return Decision(Action.OLDEST)
    if known and view.epoch is None:
        return Decision(Action.WAIT)
    is_older = view.first is not None and place.entry < view.first
    if place.epoch != view.epoch if known else is_older:
        return Decision(Action.OLDEST, "reset")
    return None


def _by_id(place: ReaderPosition, view: View, losses: LostRanges) -> Decision | None:
    """The second part: what is known of the id."""
    entry = place.entry
    known = place.epoch is not None
    if view.at is not None:
        same = place.link is None or place.link == view.at
        return Decision(Action.INSIDE) if same else Decision(Action.BACK, "lost")
    if not known and (lost := losses.find(entry)) is not None:
        return Decision(Action.OLDEST, "reset") if lost.emptied else Decision(Action.BACK, "lost")
    if entry <= view.last:
        return None
    if known:
        return Decision(Action.BACK, "lost")
    is_ahead = view.now is not None and 0 < entry.ms - view.now < _MAX_CLOCK_AHEAD_MS
    if is_ahead and not place.is_moment:
        return Decision(Action.OLDEST, "lost")
    has_passed = view.now is not None and entry.ms <= view.now
    is_quiet = place.is_moment and has_passed and view.last > NOTHING
    return Decision(Action.END, None if is_quiet else "future")


def _by_chain(place: ReaderPosition, view: View) -> Decision:
    """The third part: the id is not above `head.last`, and the stream does not retain it."""
    whole = place.position is None
    known = place.epoch is not None
    if view.after is None:
        at_last = whole and place.entry == view.last
        return Decision(Action.END, None if at_last or known else "trimmed")
    prev = view.after.prev
    if prev >= place.entry:
        follows = whole and prev == place.entry
        return Decision(Action.NEXT, None if follows else "trimmed")
    if known:
        return Decision(Action.BACK, "lost")
    if place.is_moment:
        return Decision(Action.NEXT)
    return Decision(Action.EARLIER, "unknown")


def earlier(entry: EntryId) -> ReaderPosition:
    """Return the moment at which a reader continues that has an entry which Redis has lost."""
    return ReaderPosition(EntryId(max(entry.ms - REPEATED_MS, 0), 0), is_moment=True)


def first_of(first: EntryId | None, oldest: Link | None) -> EntryId | None:
    """The id of the epoch's first batch.

    Args:
        first: `head.first`; None where a release before this field began the epoch.
        oldest: the oldest batch of a stream: if it is the epoch's first, that shows it.
    """
    if first is None and oldest is not None and oldest.prev == NOTHING:
        return oldest.id
    return first


class Trail:
    """What the reader of one stream has read: where it is, and by which links it came there.

    Args:
        place: where it begins.

    Attributes:
        place: where it is.
        losses: what it has seen Redis lose.
    """

    def __init__(self, place: ReaderPosition) -> None:
        self.place = place
        self.losses = LostRanges()
        self._links: deque[Link] = deque(maxlen=KNOWN)

    @property
    def links(self) -> tuple[Link, ...]:
        """The newest batches that it has, the oldest of them first."""
        return tuple(self._links)

    def remember(self, links: Iterable[Link]) -> None:
        """Add batches that precede those it reads, the oldest first."""
        self._links.extend(links)

    def advance(self, link: Link, epoch: str | None) -> None:
        """Advance by one batch."""
        self._links.append(link)
        self.place = ReaderPosition(link.id, None, epoch, link)

    def skip(self, entry: EntryId, epoch: str | None) -> None:
        """Advance past an entry that is no batch."""
        self.place = ReaderPosition(entry, None, epoch)

    def rewind(self, fork: Link | None, epoch: str | None) -> None:
        """Go back to a batch of `links`; None for the oldest that is retained."""
        seen = self.place.entry
        if fork is None:
            after = _below(self._links[0].id if self._links else seen)
            self._links.clear()
            self.place = OLDEST
        else:
            after = fork.id
            while self._links[-1] != fork:
                self._links.pop()
            self.place = ReaderPosition(fork.id, None, epoch, fork)
        self.losses.add(LostRange(after, seen, emptied=False, fork=fork and fork.id))

    def start_epoch(self, epoch: str, first: EntryId | None) -> None:
        """Begin anew: Redis was emptied.

        Args:
            epoch: the new one.
            first: id of the first batch of the one that ended; None if it is not known.
        """
        if first is None:
            first = self._links[0].id if self._links else self.place.entry
        self.losses.add(LostRange(_below(first), self.place.entry, emptied=True, fork=None))
        self._links.clear()
        self.place = ReaderPosition(NOTHING, None, epoch)


def _below(entry: EntryId) -> EntryId:
    """An id below another one, above every id of the millisecond before."""
    return (
        EntryId(entry.ms, entry.seq - 1) if entry.seq else EntryId(max(entry.ms - 1, 0), MAX_PART)
    )


class ForkSearch:
    """Finds the newest of some links that a stream has still.

    Redis keeps a beginning of the chain when it loses something, and trimming takes from its
    oldest end. So of the links that are not trimmed the stream has all up to one, and no other.

    Args:
        links: what the reader has, the oldest first.
        oldest: id of the oldest batch that the stream retains; None if it retains none.
    """

    def __init__(self, links: Iterable[Link], oldest: EntryId | None) -> None:
        self._links = [link for link in links if oldest is not None and link.id >= oldest]
        self._low = 0  # the stream has all before this one
        self._high = len(self._links)  # and none from this one on

    @property
    def question(self) -> Link | None:
        """Whether the stream has this batch is to be answered next; None if nothing is."""
        if self._low == self._high:
            return None
        return self._links[(self._low + self._high) // 2]

    def answer(self, *, has: bool) -> None:
        """Answer the question."""
        middle = (self._low + self._high) // 2
        if has:
            self._low = middle + 1
        else:
            self._high = middle

    @property
    def found(self) -> Link | None:
        """The newest batch that both have; None if there is none."""
        return self._links[self._low - 1] if self._low else None
