"""Filtered clients: channels that deliver only the messages that pass a filter.

A filtered channel reads the same ring and the same history as every other one. Its encoding has a
selection, which leaves out messages that do not pass, and adds to the others what matched. So ids,
cursors, gap messages and replay are those of the unfiltered stream. Messages of the stream domains
have only names: a filter with terms of the certificate reads lite or full, whose messages have the
same ids.

The index of a stream holds the filters of all its channels. Each new slot of the ring is looked up
once, and only channels with hits are flushed. All other ones are after the newest slot that was
looked up: their ready clients have everything, and are moved there without a write before anything
reads their position. A slot that was looked up before a filter joined is looked up again when a
client needs it; the result then serves all filters of that moment.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from certbus.ids import Cursor
from certbus.streams.codec import UndecodableBatch
from ctfilter import Certificate, Filter, Index, Match, size_of
from gateway.config import V2
from gateway.delivery.channel import Channel
from gateway.delivery.encoding import NO_NAMES
from gateway.delivery.ring_buffer import BehindRing, Ring, RingPosition, Slot
from gateway.metrics import Metrics

MAX_FILTER_BYTES: Final = 256 * 1024 * 1024
"""Memory of all filters of a gateway, as `ctfilter.size_of` estimates it."""

MAX_MATCHES: Final = 10
"""Matches in a message; `matched_total` has their number if there are more."""

log = structlog.get_logger(__name__)


class _Name(msgspec.Struct, gc=False):
    CN: str | None = None
    O: str | None = None  # noqa: E741  (the attribute's name)


class _Leaf(msgspec.Struct, gc=False):
    issuer: _Name = msgspec.field(default_factory=_Name)
    all_domains: list[str] = []


class _Source(msgspec.Struct, gc=False):
    operator: str | None = None


class _Data(msgspec.Struct, gc=False):
    update_type: str = ""
    leaf_cert: _Leaf = msgspec.field(default_factory=_Leaf)
    source: _Source = msgspec.field(default_factory=_Source)


class _Entry(msgspec.Struct, gc=False):
    type: str = ""


class _DataV2(msgspec.Struct, gc=False):
    entry: _Entry = msgspec.field(default_factory=_Entry)
    cert: _Leaf = msgspec.field(default_factory=_Leaf)
    source: _Source = msgspec.field(default_factory=_Source)


class _UpdateV2(msgspec.Struct, gc=False):
    data: _DataV2


class _CertificateUpdate(msgspec.Struct, gc=False):
    data: _Data


class _DnsEntries(msgspec.Struct, gc=False):
    data: list[str]


class _RawLeaf(msgspec.Struct, gc=False):
    all_domains: msgspec.Raw


class _RawData(msgspec.Struct, gc=False):
    leaf_cert: _RawLeaf


class _RawUpdate(msgspec.Struct, gc=False):
    data: _RawData


class _Matched(msgspec.Struct):
    name: str | None
    match: str


_update = msgspec.json.Decoder(_CertificateUpdate)
_update_v2 = msgspec.json.Decoder(_UpdateV2)
_entries = msgspec.json.Decoder(_DnsEntries)
_raw_update = msgspec.json.Decoder(_RawUpdate)


def certificate_of(stream: str, message: bytes) -> Certificate:
    """Return what filters compare of a message.

    Raises:
        msgspec.MsgspecError: the message is not one of the stream.
    """
    if stream == "domains":
        return Certificate(_entries.decode(message).data)
    if stream == V2:
        version_2 = _update_v2.decode(message).data
        leaf, source = version_2.cert, version_2.source
        is_precert = version_2.entry.type == "precert"
    else:
        data = _update.decode(message).data
        leaf, source = data.leaf_cert, data.source
        is_precert = data.update_type == "PrecertLogEntry"
    issuer = leaf.issuer
    return Certificate(
        leaf.all_domains,
        issuer.CN or "",
        issuer.O or "",
        source.operator or "",
        precertificate=is_precert,
    )


def names_of(message: bytes) -> bytes:
    """Return the message of the stream domains for one of lite or full."""
    names = bytes(_raw_update.decode(message).data.leaf_cert.all_domains)
    return b'{"message_type":"dns_entries","data":%b}' % names


def with_matches(message: bytes, matches: Sequence[Match]) -> bytes:
    """Return a message with what matched as its last members."""
    shown = msgspec.json.encode([_Matched(name, text) for name, text in matches[:MAX_MATCHES]])
    total = b',"matched_total":%d' % len(matches) if len(matches) > MAX_MATCHES else b""
    return b'%b,"matched":%b%b}' % (message[:-1], shown, total)


class StreamFilters:
    """The filters of one stream, and which messages pass them.

    Args:
        ring: the stream.

    Attributes:
        ring: the stream.
        index: of the filters.
        generation: number of filters that have joined.
    """

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.index = Index()
        self.generation = 0
        self._seen = ring.head

    @property
    def seen(self) -> RingPosition:
        """The position after the newest slot that was looked up."""
        return self.ring.position_at(self._seen.number) or self._seen

    @seen.setter
    def seen(self, position: RingPosition) -> None:
        self._seen = position

    def look_up(self, slot: Slot) -> None:
        """Look up the messages of a slot with all filters of this moment."""
        hits: dict[Filter, list[tuple[int, list[Match]]]] = {}
        messages: Sequence[bytes] = ()
        with suppress(UndecodableBatch):  # `Slot.encode` reports it
            messages = slot.messages[:]
        for number, message in enumerate(messages):
            try:
                certificate = certificate_of(self.ring.stream, message)
            except msgspec.MsgspecError as error:
                log.error("message not decoded", stream=self.ring.stream, error=str(error))
                continue
            for given, matches in self.index.lookup(certificate).items():
                hits.setdefault(given, []).append((number, matches))
        slot.hits = hits
        slot.generation = self.generation


class FilterSelection:
    """The messages of a slot that pass one filter; see `Encoding.selection`.

    Args:
        given: the filter.
        filters: of the stream, which has it in its index.
        since: generation of the filters when this one joined.
        only_names: whether messages of lite or full become those of the stream domains.

    Attributes:
        given: the filter.
        filters: of the stream.
        since: generation of the filters when this one joined.
        selected: number of messages selected since `take`.
    """

    def __init__(
        self, given: Filter, filters: StreamFilters, since: int, *, only_names: bool
    ) -> None:
        self.given = given
        self.selected = 0
        self.filters = filters
        self.since = since
        self._only_names = only_names

    def must_look_up(self, slot: Slot) -> bool:
        """Whether the slot was not looked up since the filter joined."""
        return not slot.notice and slot.generation < self.since

    def look_up(self, slot: Slot) -> None:
        """Look up the slot with all filters of this moment."""
        self.filters.look_up(slot)

    def select(self, slot: Slot, skip: int) -> Iterator[tuple[int, bytes]]:
        """Yield the number in the slot, and the text, of each message that passes.

        Args:
            slot: of the stream.
            skip: number of messages at its start that are left out.
        """
        if self.must_look_up(slot):
            self.look_up(slot)
        hits: Mapping[Filter, list[tuple[int, list[Match]]]] = slot.hits or {}
        for number, matches in hits.get(self.given, ()):
            if number < skip:
                continue
            message = slot.messages[number]
            if self._only_names:
                message = names_of(message)
                if message.endswith(NO_NAMES):
                    continue
            self.selected += 1
            yield number, with_matches(message, matches)

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
        """Write what waits, and note that nothing does."""
        spent = await super().flush()
        self._filters.due.pop(self, None)
        return spent

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
        old, self.flushed_to = self.flushed_to, position
        for client in self.ready:
            if client.position is old:
                client.position = position

    def join(self, client: Any) -> None:
        """Add a client that has everything up to the head of the ring to the ready ones."""
        if not self.is_due:
            self.settle(self._seen)
            if client.position.number <= self.flushed_to.number:
                client.position = self.flushed_to
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
        channels: by channel without the filter, and filter.
        due: channels that the next flush visits.
        size: memory of the filters, an upper estimate in bytes.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.channels: dict[tuple[Channel[Any], Filter], FilteredChannel] = {}
        self.due: dict[FilteredChannel, None] = {}
        self.size = 0
        self._metrics = metrics
        self._streams: dict[str, StreamFilters] = {}
        self._by_filter: dict[tuple[str, Filter], list[FilteredChannel]] = {}

    @property
    def count(self) -> int:
        """Number of distinct filters; one on two streams counts twice."""
        return len(self._by_filter)

    def channel(self, base: Channel[Any], given: Filter, ring: Ring) -> FilteredChannel:
        """Return the channel of a filter; the first client of a filter adds it to the index.

        Args:
            base: the channel without the filter.
            given: the filter.
            ring: of a stream with what the filter compares; that of `base` or one with more.

        Raises:
            ctfilter.IndexFull: the index has no place for the filter.
        """
        found = self.channels.get((base, given))
        if found is not None:
            return found
        stream = ring.stream
        filters = self._streams.get(stream)
        if filters is None or filters.ring is not ring:
            filters = self._streams[stream] = StreamFilters(ring)
        channels = self._by_filter.get((stream, given))
        if channels is None:
            filters.index.add(given)
            filters.generation += 1
            channels = self._by_filter[stream, given] = []
            self.size += size_of(given)
        since = channels[0].selection.since if channels else filters.generation
        selection = FilterSelection(
            given, filters, since, only_names=base.ring.stream != ring.stream
        )
        made = FilteredChannel(base, ring, selection, self._metrics, self)
        channels.append(made)
        self.channels[base, given] = made
        return made

    def has_place(self, given: Filter) -> bool:
        """Whether the memory of one more filter is within the limit."""
        return self.size + size_of(given) <= MAX_FILTER_BYTES

    def reads(self, ring: Ring) -> bool:
        """Whether a filter is applied to each new slot of a ring."""
        filters = self._streams.get(ring.stream)
        return filters is not None and filters.ring is ring and bool(filters.index.filters)

    def remove(self, channel: FilteredChannel) -> None:
        """Remove a channel without clients, or whose stream is no longer offered."""
        given, stream = channel.selection.given, channel.ring.stream
        if self.channels.get((channel.base, given)) is not channel:
            return
        del self.channels[channel.base, given]
        self.due.pop(channel, None)
        channels = self._by_filter[stream, given]
        channels.remove(channel)
        if not channels:
            del self._by_filter[stream, given]
            self._streams[stream].index.remove(given)
            self.size -= size_of(given)

    def look_up_next(self) -> bool:
        """Look up one new slot, and note which channels have hits.

        Returns:
            False if there is no new slot.
        """
        for filters in self._streams.values():
            if filters.seen.number < filters.ring.head.number:
                self._look_up_next(filters)
                return True
        return False

    def _look_up_next(self, filters: StreamFilters) -> None:
        ring, start = filters.ring, filters.seen
        if not filters.index.filters:
            filters.seen = ring.head
            return
        if start.number < ring.first_after.number:
            # A burst was larger than the ring. Clients replay it.
            filters.seen = ring.head
            for channel in self._channels_of(ring):
                if channel.flushed_to.number < ring.first_after.number and channel not in self.due:
                    if channel.flushed_to.number < start.number:
                        channel.settle(start)
                    self.due[channel] = None
            return
        slot = next(ring.slots_from(start.number))
        filters.seen = slot.after
        if slot.notice:
            self._mark(self._channels_of(ring), slot.before)
            return
        if slot.generation < filters.generation:  # a client may have had it looked up
            filters.look_up(slot)
        for given in slot.hits or ():
            if (channels := self._by_filter.get((ring.stream, given))) is not None:
                self._mark(channels, slot.before)

    def _channels_of(self, ring: Ring) -> list[FilteredChannel]:
        return [channel for channel in self.channels.values() if channel.ring is ring]

    def _mark(self, channels: Sequence[FilteredChannel], at: RingPosition) -> None:
        """Have the next flush visit channels, from a position on; not those that are after it."""
        for channel in channels:
            if channel.flushed_to.number <= at.number and channel not in self.due:
                channel.settle(at)
                self.due[channel] = None
