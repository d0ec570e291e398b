"""Filtered clients: channels that deliver only the messages that pass a filter.

A filtered channel reads the same ring and the same history as every other one. Its encoding has a
selection, which leaves out messages that do not pass, and adds to the others what matched. So ids,
cursors, gap messages and replay are those of the unfiltered stream. Messages of the stream domains
have only names: a filter with terms of the certificate reads lite or full, whose messages have the
same ids.

New messages are looked up before they are delivered (`filter_index`), and only channels with hits
are flushed. All other ones are after the newest slot that was looked up: their ready clients have
everything, and are moved there without a write before anything reads their position.

Channels with hits, and clients that lag, wait in one queue. Each turn is one write; what comes
while a channel waits is part of its next write. A turn in which messages are evaluated ends after
`MAX_SLICE_SECS`; a slot of which some are left is written in a later turn.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, Final

import msgspec

from certbus.ids import Cursor
from ctfilter import Filter, Match, size_of
from gateway.delivery.channel import MAX_SLICE_SECS, MAX_WRITE_BYTES, Channel
from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.filter_index import GatewayFilters, JoinedFilter, StreamFilters
from gateway.delivery.filter_messages import names_of, with_matches
from gateway.delivery.ring_buffer import BehindRing, Ring, RingPosition, Slot
from gateway.metrics import Metrics

MAX_FILTER_BYTES: Final = 256 * 1024 * 1024
"""Memory of all filters of a gateway, as `ctfilter.size_of` estimates it."""

_SlotHits = Sequence[tuple[int, list[Match]]]
"""Number in the slot, and what matched, of each message that passes."""


class FilterSelection:
    """The messages of a slot that pass one filter; see `Encoding.selection`.

    Args:
        joined: the filter.
        filters: of the stream.
        only_names: whether messages of lite or full become those of the stream domains.

    Attributes:
        joined: the filter.
        filters: of the stream.
        selected: number of messages selected since `take`.
    """

    def __init__(self, joined: JoinedFilter, filters: StreamFilters, *, only_names: bool) -> None:
        self.joined = joined
        self.selected = 0
        self.filters = filters
        self._only_names = only_names
        self._found: dict[Slot, _SlotHits] = {}
        self._begun: dict[Slot, Iterator[None]] = {}

    def evaluates(self, slot: Slot) -> bool:
        """Whether `select` has to evaluate all messages of the slot."""
        return self.joined.evaluator is not None or self.must_look_up(slot)

    def must_look_up(self, slot: Slot) -> bool:
        """Whether the slot was not looked up since the filter joined."""
        joined = self.joined
        return joined.evaluator is None and not slot.notice and slot.generation < joined.since

    async def place(self) -> None:
        """Prepare look-ups."""
        await self.filters.shared.place()

    def evaluate(self, slot: Slot, secs: float | None) -> bool:
        """Evaluate messages of a slot, so that `select` has nothing left to evaluate.

        Args:
            slot: of the stream.
            secs: after which it returns, after one message at least; the next call continues with
                the next message. None: not before the last one.

        Returns:
            False if messages are left.
        """
        if slot.notice:
            return True
        began = perf_counter()
        while slot not in self._found:
            steps = self._begun.pop(slot, None) or self._steps(slot)
            for _ in steps:
                if secs is not None and perf_counter() - began >= secs:
                    self._begun[slot] = steps
                    return False
        return True

    def forget(self, slots: Iterable[Slot]) -> None:
        """Forget what `evaluate` has found of slots that are not selected."""
        for slot in slots:
            self._found.pop(slot, None)
            self._begun.pop(slot, None)

    def forget_all_but(self, numbers: Callable[[], set[int]], limit: int) -> None:
        """Forget slots of the ring that no client waits for, if more than `limit` have begun.

        Args:
            numbers: returns those of the slots that clients wait for.
            limit: number of slots that clients wait for, at most.
        """
        if len(self._begun) > limit:
            waiting = numbers()
            begun = [slot for slot in self._begun if slot.before.number >= 0]  # no page of history
            self.forget(slot for slot in begun if slot.before.number not in waiting)

    def select(self, slot: Slot, skip: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number in the slot, and the text, of each message that passes.

        Args:
            slot: of the stream.
            skip: number of messages at its start that are left out.
        """
        for number, matches in self._hits(slot):
            if number < skip:
                continue
            message = slot.messages[number]
            if self._only_names:
                message = names_of(message)
                if message.endswith(NO_NAMES):
                    continue
            self.selected += 1
            yield number, with_matches(message, matches)

    def _hits(self, slot: Slot) -> _SlotHits:
        found = self._found.pop(slot, None)
        if found is None:
            if not self.evaluates(slot):
                return self._looked_up(slot)
            self.evaluate(slot, None)
            found = self._found.pop(slot)
        return found

    def _looked_up(self, slot: Slot) -> _SlotHits:
        hits: Mapping[Filter, _SlotHits] = slot.hits or {}
        return hits.get(self.joined.given, ())

    def _steps(self, slot: Slot) -> Iterator[None]:
        """Evaluate a slot, one message in each step; without a result if the filter has moved."""
        joined = self.joined
        evaluator, since = joined.evaluator, joined.since
        if evaluator is None:
            if self.must_look_up(slot):
                yield from self.filters.steps(slot)
            if joined.evaluator is None and joined.since == since:
                self._found[slot] = self._looked_up(slot)
            return
        found = []
        for number, certificate in enumerate(self.filters.certificates(slot)):
            began = perf_counter()
            if certificate is not None:
                matches = self.filters.matches(evaluator, certificate)
                if matches:
                    found.append((number, matches))
                    joined.passed += 1
            joined.evaluated += 1
            joined.secs += perf_counter() - began
            yield None
        self._found[slot] = found

    def take(self) -> int:
        """Return the number of messages selected since the last call."""
        selected, self.selected = self.selected, 0
        return selected


class FilteredChannel(Channel[Any]):
    """A channel whose encoding has a selection.

    Args:
        base: the channel without the filter; counts what this one sends.
        ring: the stream that has what the filter compares.
        selection: of this channel alone.
        metrics: observes the delivery delay.
        filters: the set that has this channel.
    """

    def __init__(
        self,
        base: Channel[Any],
        ring: Ring,
        selection: FilterSelection,
        metrics: Metrics,
        filters: "FilterSet",
    ) -> None:
        encoding = msgspec.structs.replace(base.encoding, selection=selection)
        super().__init__(ring, encoding, metrics)
        self.stream = base.stream
        self._base = base
        self.selection = selection
        self._filters = filters

    @property
    def base(self) -> Channel[Any]:
        """The channel without the filter."""
        return self._base

    @property
    def is_due(self) -> bool:
        """Whether a slot with a hit, or a notice, waits to be flushed."""
        return self in self._filters.due

    async def flush(self) -> float:
        """Write once to each ready client; what does not fit in one write waits for a next turn."""
        spent, due = 0.0, self._filters.due
        # What all ready clients have, each of them has read when it lagged.
        first = min((client.position for client in self.ready), key=_number, default=self._seen)
        if first.number > self.flushed_to.number:
            self.flushed_to = first
        if not self.has_all(self.flushed_to):
            spent = await self._flush_once()
        if self in due:
            del due[self]
            if self.ready and not self.has_all(self.flushed_to):
                due[self] = None
        return spent

    def has_all(self, position: RingPosition) -> bool:
        """Whether nothing that was looked up follows a position."""
        return position.number >= self._seen.number

    def read(self, position: RingPosition, *, in_step: bool) -> tuple[bytes, RingPosition, bool]:  # noqa: ARG002
        """Read one write for a subscriber, of what was looked up."""
        data, end = self.ring.read(
            position, self.encoding, MAX_WRITE_BYTES, self._seen.number, secs=MAX_SLICE_SECS
        )
        self.selection.forget_all_but(self._numbers, len(self.clients) + 1)
        return data, end, False

    def _numbers(self) -> set[int]:
        """Return the numbers of the slots that follow the positions of clients."""
        numbers = {client.position.number for client in self.clients if not client.closed}
        return numbers | {self.flushed_to.number}

    def defers(self, client: Any) -> bool:
        """Whether a client has to wait for its turn, because there is something to read."""
        if self.has_all(client.position):
            return False
        self.ready.discard(client)  # its position is where it continues
        self._filters.due[client] = None
        self._filters.wake()
        return True

    def unseen(self, cursor: Cursor) -> list[Slot]:
        """Return the slots after a message that were not looked up since the filter joined."""
        try:
            number = self.ring.find(cursor)
        except BehindRing:
            return []
        return [s for s in self.ring.slots_from(number) if self.selection.must_look_up(s)]

    def settle(self, position: RingPosition) -> None:
        """Move the ready clients forward to a position before which they have everything."""
        if position.number < self.flushed_to.number:
            return
        self.flushed_to = position
        for client in self.ready:
            # Also those that joined in front of slots that were not looked up yet.
            if client.position.number <= position.number:
                client.position = position

    def join(self, client: Any) -> None:
        """Add a client that has everything that was looked up to the ready ones."""
        if not self.is_due:
            self.settle(self._seen)
            if client.position.number == self.flushed_to.number:
                client.position = self.flushed_to
        if client.position.number < self.flushed_to.number:
            self.flushed_to = client.position  # others are after what was looked up
        self.ready.add(client)

    @property
    def _seen(self) -> RingPosition:
        """The position up to which every message with a hit waits to be flushed, or was."""
        return self.selection.filters.seen

    def part(self, client: Any) -> None:
        """Remove a client from the ready ones; its position is then where it continues."""
        if client in self.ready:
            client.position = self.position_of(client)
            self.ready.discard(client)

    def position_of(self, client: Any) -> RingPosition:
        """Return the position of a client; what did not pass the filter is before it."""
        position: RingPosition = client.position
        if client in self.ready and not self.is_due and not client.closed:
            return self._seen if self._seen.number > position.number else position
        return position

    def leave(self, client: Any) -> None:
        """Remove a client; without clients, the filter leaves the index."""
        super().leave(client)
        if not self.clients:
            self._filters.remove(self)

    def count(self, messages: int) -> int:  # noqa: ARG002
        """Return the number of messages that were selected since the last call."""
        return self.selection.take()

    def add_sent(self, messages: int, size: int) -> None:
        """Count what was written, for the channel without the filter."""
        self.base.add_sent(messages, size)


class FilterSet:
    """The filtered channels of a gateway.

    Args:
        metrics: of the gateway.

    Attributes:
        channels: that clients may join, by channel without the filter, and filter.
        due: channels with something to write, and clients that lag; the first one is next.
        wake: called when a client is due; the flusher sets it.
        size: memory of the filters, an upper estimate in bytes.
        shared: the filters.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.channels: dict[tuple[Channel[Any], Filter], FilteredChannel] = {}
        self.due: dict[FilteredChannel | Any, None] = {}
        self.wake: Callable[[], None] = _nothing
        self.size = 0
        self._metrics = metrics
        self.shared = GatewayFilters()
        self._rings: Counter[Ring] = Counter()  # channels of each
        self._streams: dict[str, StreamFilters] = {}

    @property
    def count(self) -> int:
        """Number of distinct filters."""
        return len(self.shared.joined)

    def channel(
        self, base: Channel[Any], given: Filter, ring: Ring, *, limited: bool = True
    ) -> FilteredChannel:
        """Return the channel of a filter; the first client of a filter adds it to the index.

        Args:
            base: the channel without the filter.
            given: the filter.
            ring: of a stream with what the filter compares; that of `base` or one with more.
            limited: whether the limits of the index hold.

        Raises:
            ctfilter.IndexFull: the index has no place for the filter.
        """
        found = self.channels.get((base, given))
        if found is not None:
            return found
        filters = self._streams.get(ring.stream)
        if filters is None or filters.ring is not ring:
            self._streams.pop(ring.stream, None)
            filters = StreamFilters(ring, self.shared)
            # Others first: domains can use what they have looked up, not the reverse.
            streams = [*self._streams.items(), (ring.stream, filters)]
            self._streams = dict(sorted(streams, key=lambda item: item[0] == "domains"))
        is_new = given not in self.shared.joined
        joined = self.shared.join(given, limited=limited)
        if is_new:
            self.size += size_of(given)
            self.wake()  # to place it
        selection = FilterSelection(joined, filters, only_names=base.ring.stream != ring.stream)
        made = FilteredChannel(base, ring, selection, self._metrics, self)
        joined.channels.append(made)
        self.channels[base, given] = made
        self._count(ring, 1)
        return made

    def has_place(self, given: Filter) -> bool:
        """Whether the memory of one more filter is within the limit."""
        return self.size + size_of(given) <= MAX_FILTER_BYTES

    def reads(self, ring: Ring) -> bool:
        """Whether a filter is applied to each new slot of a ring."""
        return ring in self._rings

    def remove(self, channel: FilteredChannel) -> None:
        """Have no more clients join a channel; without clients, remove it.

        Until the clients of a disabled stream are closed, look-ups and flushes of their channel
        continue: the ids that these clients get depend on both.
        """
        joined = channel.selection.joined
        if self.channels.get((channel.base, joined.given)) is channel:
            del self.channels[channel.base, joined.given]
        if channel.clients or channel not in joined.channels:
            return
        self.due.pop(channel, None)
        joined.channels.remove(channel)
        self._count(channel.ring, -1)
        if not joined.channels:
            self.shared.leave(joined.given)
            self.wake()  # to remove what was placed of it
            self.size -= size_of(joined.given)

    def _count(self, ring: Ring, change: int) -> None:
        """Count the channels of a ring."""
        self._rings[ring] += change
        if not self._rings[ring]:
            del self._rings[ring]
        self.shared.is_shared = len(self._rings) > 1

    async def serve_next(self) -> float:
        """Give the next channel or client its turn; return the seconds of work."""
        following = next(iter(self.due))
        if isinstance(following, FilteredChannel):
            return await following.flush()
        del self.due[following]
        began = perf_counter()
        try:
            following.take_turn()
        except Exception as error:  # noqa: BLE001
            following.fail(error)
        return perf_counter() - began

    def look_up_next(self) -> bool:
        """Look up one new message, and note which channels have hits; or prepare look-ups.

        New filters are placed first; what left is removed beside look-ups.

        Returns:
            False if there is no new message, and nothing to prepare.
        """
        worked = self.shared.index.place_next()
        if not self.shared.index.is_placed:
            return True
        for filters in self._streams.values():
            if filters.seen.number < filters.ring.head.number:
                self._look_up_next(filters)
                return True
        return worked

    def _look_up_next(self, filters: StreamFilters) -> None:
        ring, start = filters.ring, filters.seen
        if ring not in self._rings:
            filters.seen = ring.head
            filters.drop_current()
        elif start.number < ring.first_after.number:
            # A burst was larger than the ring. Clients replay it, or look up what is left.
            filters.seen = ring.head
            filters.drop_current()
            for channel in self._channels_of(ring):
                self._mark(channel, start)
        elif (moved := self.shared.move_next()) is not None:
            if moved == "back":
                for each in self._streams.values():
                    each.drop_current()
        elif (slot := filters.look_up_next_message()) is not None:
            filters.seen = slot.after
            for channel in self._channels_to_visit(slot, ring):
                if channel.flushed_to.number <= slot.before.number:  # others are after it
                    self._mark(channel, slot.before)

    def _channels_to_visit(self, slot: Slot, ring: Ring) -> list[FilteredChannel]:
        """Return the channels of a ring for which a slot that was looked up may have messages."""
        if slot.notice:
            return self._channels_of(ring)
        hit = [self.shared.joined.get(given) for given in slot.hits or ()]
        joined = [each for each in (*hit, *self.shared.heavy.values()) if each is not None]
        channels = [each for one in joined for each in one.channels if each.ring is ring]
        if slot.generation < self.shared.generation:
            # Filters that joined during the look-up: the first messages were compared without them.
            late = [c for c in self._channels_of(ring) if c.selection.must_look_up(slot)]
            return list(dict.fromkeys((*channels, *late)))
        return channels

    def _channels_of(self, ring: Ring) -> list[FilteredChannel]:
        every = (channel for joined in self.shared.joined.values() for channel in joined.channels)
        return [channel for channel in every if channel.ring is ring]

    def _mark(self, channel: FilteredChannel, at: RingPosition) -> None:
        """Have the next flush visit a channel, whose clients have everything before a position."""
        if channel not in self.due:
            if channel.flushed_to.number < at.number:
                channel.settle(at)
            self.due[channel] = None


def _number(position: RingPosition) -> int:
    return position.number


def _nothing() -> None:
    """Do nothing: no flusher runs."""
