"""The filters of a gateway: which messages of each stream pass which of them.

The index holds the filters of all streams. Each new certificate is looked up once, in the stream
that comes first; the result serves the same message of the other streams. A slot that was looked up
before a filter joined is looked up again when a client needs it; the result then serves all filters
of that moment.

A filter that many certificates pass, or whose lines take long to verify, leaves the index, and is
evaluated when its channel is flushed (*heavy*): it delays neither the look-ups nor other filters.
Every new slot counts as a hit for it. It returns to the index when few certificates pass; one
that took long, when evaluating it is fast, too.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Final, Literal, NamedTuple, TypeVar
from weakref import ref

import msgspec
import structlog

from certbus.streams.codec import UndecodableBatch
from ctfilter import Certificate, Evaluator, Filter, Index, Match
from gateway.delivery.filter_messages import certificate_of
from gateway.delivery.ring_buffer import Ring, RingPosition, Slot

MAX_HITS: Final = 100_000
"""Hits that the slots of all streams keep, about 300 bytes each. Older ones are looked up again
when a client needs them."""

WINDOW_MESSAGES: Final = 64
"""Look-ups after which the share that passes a filter of the index is judged, fewer if there are
many hits; for a heavy filter, eight times as many."""

MEAN_SEARCH_SECS: Final = 0.00025
"""Mean time of a look-up above which the most expensive filters leave the index: a fifth of a core
at 800 messages a second. One that left for its time returns when it takes less than a quarter."""

_MIN_SHARE: Final = 1 / 16
"""Of the time allowed, that a filter takes which leaves the index for its time. Many filters with
the same lines each take a small share: the index verifies the lines once, and each of their
evaluators would verify them again."""

_HEAVY: Final = 1 / 8  # share of the messages that pass a filter which leaves the index
_LIGHT: Final = 1 / 32  # and of one that returns
_SAMPLE: Final = 8  # messages after which many hits are judged
_MANY_HITS: Final = 500  # of all filters, since the last judgement
_KNOWN_MESSAGES: Final = 4096  # whose results are kept for the other streams
_PARSED_SLOTS: Final = 32  # whose certificates are kept for heavy filters
_LOGGED_NAMES: Final = 3

log = structlog.get_logger(__name__)

_Hits = dict[Filter, list[tuple[int, list[Match]]]]


class _Known(NamedTuple):
    """The result of a look-up, for the other streams."""

    generation: int
    certificate: Certificate
    found: dict[Filter, list[Match]]
    only_names: bool


T = TypeVar("T")


def _without_errors(compare: Callable[[Certificate], T], certificate: Certificate) -> T | None:
    """Compare a certificate; an unexpected error costs this certificate, not all delivery."""
    try:
        return compare(certificate)
    except Exception:
        log.exception("certificate not compared", names=list(certificate.names[:_LOGGED_NAMES]))
        return None


class JoinedFilter:
    """A filter, with the channels of its clients.

    Attributes:
        given: the filter.
        since: generation of the filters when this one joined the index.
        evaluator: of a heavy filter, which is not in the index; else None.
        channels: that have it, see `filtering`.
        evaluated: messages that the evaluator has compared since it was judged.
        passed: those of them that passed.
        secs: that they took.
        is_slow: whether it left the index for the time that it takes.
    """

    __slots__ = (
        *("channels", "evaluated", "evaluator", "given", "is_slow", "passed", "secs", "since"),
    )

    def __init__(self, given: Filter, since: int) -> None:
        self.given = given
        self.since = since
        self.evaluator: Evaluator | None = None
        self.channels: list[Any] = []
        self.is_slow = False
        self.judged()

    def judged(self) -> None:
        """Begin to count again."""
        self.evaluated = self.passed = 0
        self.secs = 0.0


class GatewayFilters:
    """The filters of all streams.

    Attributes:
        index: of the filters that few messages pass.
        joined: all filters.
        heavy: the filters that are not in the index.
        generation: number of times that a filter has joined the index.
        is_shared: whether more than one stream has filters.
    """

    def __init__(self) -> None:
        self.index = Index(perf_counter)
        self.joined: dict[Filter, JoinedFilter] = {}
        self.heavy: dict[Filter, JoinedFilter] = {}
        self.generation = 0
        self.is_shared = False
        self._known: dict[tuple[str, int], _Known] = {}
        self._kept: deque[tuple[ref[Slot], int]] = deque()  # slots with hits, and how many
        self._hits = 0
        self._judged: Counter[Filter] = Counter()  # hits since the last judgement
        self._messages = self._passed = 0  # looked up, and hits of all filters, since then
        self._secs = 0.0  # that these look-ups took
        self._moving: list[JoinedFilter] = []
        self._prepared: Evaluator | None = None  # of the last one of them

    def join(self, given: Filter, *, limited: bool = True) -> JoinedFilter:
        """Return a filter, which joins the index if it is new.

        Args:
            given: the filter.
            limited: whether the limits of the index hold.

        Raises:
            ctfilter.IndexFull: the index has no place for the filter.
        """
        joined = self.joined.get(given)
        if joined is None:
            self.index.add(given, limited=limited)
            self.generation += 1
            joined = self.joined[given] = JoinedFilter(given, self.generation)
        return joined

    def leave(self, given: Filter) -> None:
        """Remove a filter."""
        del self.joined[given]
        self.heavy.pop(given, None)
        self.index.remove(given)

    def look_up(
        self, entry: str, position: int, certificate: Certificate, *, only_names: bool
    ) -> dict[Filter, list[Match]]:
        """Look up a certificate, once for all streams.

        What another stream has at the same position may differ if Redis was restored: it is
        compared.

        Args:
            entry: id of the batch.
            position: of the message.
            certificate: what the message has of it.
            only_names: whether these are names only; filters with other terms are then undecided.
        """
        if not self.is_shared:
            return self._look_up(certificate)
        known = self._known.get((entry, position))
        if (
            known is not None
            and known.generation == self.generation
            and known.certificate.names == certificate.names
            and (only_names or (not known.only_names and known.certificate.equals(certificate)))
        ):
            return known.found
        found = self._look_up(certificate)
        self._known.pop((entry, position), None)
        if len(self._known) >= _KNOWN_MESSAGES:
            del self._known[next(iter(self._known))]
        self._known[entry, position] = _Known(self.generation, certificate, found, only_names)
        return found

    def _look_up(self, certificate: Certificate) -> dict[Filter, list[Match]]:
        began = perf_counter()
        found = _without_errors(self.index.lookup, certificate) or {}
        self._secs += perf_counter() - began
        for given in found:
            self._judged[given] += 1
        self._messages += 1
        self._passed += len(found)
        return found

    def keep(self, slot: Slot, count: int) -> None:
        """Note the hits of a slot; remove those of the oldest slots above the limit.

        Slots that the rings have dropped are forgotten.
        """
        if not count:
            return
        self._kept.append((ref(slot), count))
        self._hits += count
        while len(self._kept) > 1 and (self._hits > MAX_HITS or self._kept[0][0]() is None):
            oldest, size = self._kept.popleft()
            self._hits -= size
            if (found := oldest()) is not None and found is not slot:
                found.hits, found.generation = None, -1

    async def place(self) -> None:
        """Prepare look-ups, see `ctfilter.Index.place_next`; other tasks run in between."""
        while self.index.place_next():  # noqa: ASYNC110 - work in slices, no poll
            await asyncio.sleep(0)

    def _judge(self) -> None:
        """Find the filters that are to be moved."""
        min_hits = self._messages * _HEAVY
        for given, count in self._judged.items():
            joined = self.joined.get(given)
            if joined is None or joined.evaluator is not None:  # it left after these look-ups
                continue
            if count >= min_hits and not given.has_scans:
                self._moving.append(joined)
        for joined in self.heavy.values():
            if joined.evaluated >= 8 * WINDOW_MESSAGES:
                is_fast = joined.secs < joined.evaluated * MEAN_SEARCH_SECS / 4
                if joined.passed < joined.evaluated * _LIGHT and (is_fast or not joined.is_slow):
                    self._moving.append(joined)
                joined.judged()
        self._judged.clear()
        self._messages = self._passed = 0
        self._secs = 0.0
        self.index.forget_costs()

    def _judge_times(self, allowed: float) -> None:
        """Find the filters to be moved without which look-ups take half of the time allowed."""
        costs = self.index.take_costs()
        left = sum(costs.values())
        for given in sorted(costs, key=costs.__getitem__, reverse=True):
            if left <= allowed / 2 or costs[given] < allowed * _MIN_SHARE:
                break
            left -= costs[given]
            self.joined[given].is_slow = True
            self._moving.append(self.joined[given])
        self._secs = 0.0

    def move_next(self) -> Literal["out", "back"] | None:
        """Move a filter out of the index, or back to it; None: no filter is to be moved.

        A filter moves out ("out") only when its evaluator is prepared, after several calls.

        Every slot before `seen` of its stream was looked up with the filter or is due at its
        channels, and every one after it counts as a hit while the filter is heavy. After a move
        back, the caller has look-ups in progress begin again, so that they have the filter.
        """
        many = self._messages >= _SAMPLE and self._passed >= _MANY_HITS
        allowed = max(self._messages, WINDOW_MESSAGES) * MEAN_SEARCH_SECS
        if not self._moving and self._secs >= allowed:
            self._judge_times(allowed)
        elif not self._moving and (many or self._messages >= WINDOW_MESSAGES):
            self._judge()
        while self._moving:
            joined = self._moving[-1]
            has_left = self.joined.get(joined.given) is not joined
            if not has_left and joined.evaluator is None:
                self._prepared = self._prepared or Evaluator(joined.given)
                if self._prepared.place_next():
                    return "out"
            evaluator, self._prepared = self._prepared, None
            self._moving.pop()
            if has_left:
                continue
            if joined.evaluator is None:
                joined.evaluator = evaluator
                joined.judged()
                self.index.set_aside(joined.given)
                self.heavy[joined.given] = joined
                return "out"
            self.index.add(joined.given, limited=False)
            self.generation += 1
            joined.since, joined.evaluator, joined.is_slow = self.generation, None, False
            del self.heavy[joined.given]
            return "back"
        return None


class StreamFilters:
    """Which messages of one stream pass the filters.

    Args:
        ring: the stream.
        shared: the filters.

    Attributes:
        ring: the stream.
        shared: the filters.
    """

    def __init__(self, ring: Ring, shared: GatewayFilters) -> None:
        self.ring = ring
        self.shared = shared
        self._seen = ring.head
        self._current: tuple[Slot, Iterator[None]] | None = None
        self._parsed: dict[Slot, list[Certificate | None]] = {}

    @property
    def seen(self) -> RingPosition:
        """The position after the newest slot that was looked up."""
        return self.ring.position_at(self._seen.number) or self._seen

    @seen.setter
    def seen(self, position: RingPosition) -> None:
        self._seen = position

    def matches(self, evaluator: Evaluator, certificate: Certificate) -> list[Match]:
        """Return what of a certificate passes a heavy filter."""
        return _without_errors(evaluator.matches, certificate) or []

    def certificates(self, slot: Slot) -> list[Certificate | None]:
        """Return what filters compare of each message of a slot; None if it cannot be decoded."""
        parsed = self._parsed.get(slot)
        if parsed is not None:
            return parsed
        parsed = []
        messages: Sequence[bytes] = ()
        with suppress(UndecodableBatch):  # `Slot.encode` reports it
            messages = slot.messages[:]
        for message in messages:
            try:
                parsed.append(certificate_of(self.ring.stream, message))
            except msgspec.MsgspecError as error:
                log.error("message not decoded", stream=self.ring.stream, error=str(error))
                parsed.append(None)
        if self.shared.heavy:
            if len(self._parsed) >= _PARSED_SLOTS:
                del self._parsed[next(iter(self._parsed))]
            self._parsed[slot] = parsed
        elif self._parsed:
            self._parsed.clear()
        return parsed

    def look_up_next_message(self) -> Slot | None:
        """Look up the next message of the slot after `seen`.

        Returns:
            The slot if that was its last message; `seen` is not changed.
        """
        if self._current is None:
            slot = next(self.ring.slots_from(self.seen.number))
            if slot.notice or slot.generation >= self.shared.generation:  # a client needed it
                return slot
            self._current = slot, self.steps(slot)
        slot, steps = self._current
        if next(steps, steps) is not steps:
            return None
        self._current = None
        return slot

    def drop_current(self) -> None:
        """Have the look-up in progress begin again."""
        self._current = None

    def steps(self, slot: Slot) -> Iterator[None]:
        """Look up a slot with all filters of this moment, one message in each step."""
        shared = self.shared
        generation, count = shared.generation, 0
        only_names = self.ring.stream == "domains"
        hits: _Hits = {}
        for number, certificate in enumerate(self.certificates(slot)):
            if certificate is not None:
                found = shared.look_up(
                    slot.entry, slot.first + number, certificate, only_names=only_names
                )
                for given, matches in found.items():
                    hits.setdefault(given, []).append((number, matches))
                    count += 1
            yield None
        if slot.generation < generation:
            slot.hits, slot.generation = hits, generation
            shared.keep(slot, count)
