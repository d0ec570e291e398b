"""A channel: one stream in one encoding, with its subscribers. The flusher writes to all channels.

Subscribers that have everything so far and whose transport accepts more are *ready*. A flush reads
new messages once and writes the same bytes to all of them. It returns control to the event loop
every few milliseconds, so that the loop can accept connections and answer pings.

A flush costs one system call for each subscriber, whatever it carries: fewer flushes cost less, but
deliver later. The pause after a flush is therefore as long as the flush: close to zero with few
subscribers, `MAX_PAUSE_SECS` with thousands.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final, Generic, Protocol, TypeVar

from certbus.ids import Cursor
from gateway.delivery.compression import SHARED
from gateway.delivery.encoding import Encoding
from gateway.delivery.ring_buffer import BehindRing, Ring, RingPosition, Slot
from gateway.metrics import Metrics

MAX_WRITE_BYTES: Final = 128 * 1024
"""Size of one write to a subscriber, without the last slot of it: `SLOT_BYTES` and one message more
at most, about `PACKED_SLOT_BYTES` more where a subscriber resumed in front of slots that came
packed. A subscriber that stops reading holds at most one write in memory."""

MAX_PAUSE_SECS: Final = 0.020
"""A longer pause saves little. At 500 subscribers, a flush of 20 messages each spends two thirds of
its time copying bytes, and a pause does not reduce those."""

_PAUSE_RATIO: Final = 1.0  # pause / duration of the flush: flushing takes at most half of the time
MAX_SLICE_SECS: Final = 0.002
"""Time of look-ups, and of filtered channels and clients, before other tasks run."""

_YIELD_AFTER_SECS: Final = 0.002
_CLOCK_EVERY: Final = 16  # subscribers between two reads of the clock


class Subscriber(Protocol):
    """What a channel needs of a subscriber.

    Attributes:
        position: the subscriber has everything before it.
        in_step: whether it can decompress what the channel's shared context makes next.
        transport: where messages are written.
        sent_bytes: bytes written to it.
    """

    position: RingPosition
    in_step: bool
    transport: asyncio.Transport
    sent_bytes: int

    def flush(self) -> None:
        """Write what follows `position`, now or in turn. One that fell behind the ring replays."""

    def count_sent(self, messages: int) -> None:
        """Count messages that a flush of a filtered channel has written."""

    def fail(self, error: BaseException) -> None:
        """Close this subscriber after an unexpected error."""


S = TypeVar("S", bound=Subscriber)


class Channel(Generic[S]):
    """One stream in one encoding, with its subscribers.

    Subscribers add and remove themselves; the flusher alone moves `flushed_to`.

    Args:
        ring: the stream.
        encoding: of its messages.
        metrics: observes the delivery delay.

    Attributes:
        stream: the name of the stream for clients.
        clients: all subscribers.
        ready: the subscribers that a flush writes to.
        flushed_to: the ring position that the last flush reached.
        sent: messages written to transports.
        sent_bytes: bytes of these messages.
    """

    def __init__(self, ring: Ring, encoding: Encoding, metrics: Metrics) -> None:
        self.ring = ring
        self.stream = ring.stream
        self.encoding = encoding
        self.clients: set[S] = set()
        self.ready: set[S] = set()
        self.flushed_to = ring.head
        self.sent = 0
        self.sent_bytes = 0
        self._is_shared = encoding is SHARED
        self._metrics = metrics

    @property
    def base(self) -> "Channel[S]":
        """The channel without a filter."""
        return self

    def has_all(self, position: RingPosition) -> bool:
        """Whether nothing that can be read follows a position."""
        return position.number == self.ring.head.number

    def defers(self, client: S) -> bool:  # noqa: ARG002
        """Whether a client has to wait for its turn; it then gets one."""
        return False

    async def flush(self) -> float:
        """Write everything new to all ready subscribers.

        Returns:
            Seconds of work, without the time of other tasks.
        """
        spent = 0.0
        while self.flushed_to.number < self.ring.head.number:
            if not self.ready:
                self.flushed_to = self.ring.head
                break
            spent += await self._flush_once()
        return spent

    def join(self, client: S) -> None:
        """Add a client that has everything to the ready ones."""
        self.ready.add(client)

    def part(self, client: S) -> None:
        """Remove a client from the ready ones."""
        self.ready.discard(client)

    def leave(self, client: S) -> None:
        """Remove a client."""
        self.clients.discard(client)
        self.ready.discard(client)

    def position_of(self, client: S) -> RingPosition:
        """Return the position before which a client has everything."""
        return client.position

    def unseen(self, cursor: Cursor) -> Sequence[Slot]:  # noqa: ARG002
        """Return the slots of the ring after a message that a filter has not been applied to."""
        return ()

    def count(self, messages: int) -> int:
        """Return the number of messages in what was read from the ring.

        Args:
            messages: number of messages that the ring holds there.
        """
        return messages

    def add_sent(self, messages: int, size: int) -> None:
        """Count what was written: messages, and their bytes."""
        self.sent += messages
        self.sent_bytes += size

    def read(self, position: RingPosition, *, in_step: bool) -> tuple[bytes, RingPosition, bool]:
        """Read one write for a subscriber.

        Args:
            position: of the subscriber.
            in_step: as its attribute.

        Returns:
            The bytes, empty if nothing follows, the position after them, and `in_step` after them.

        Raises:
            BehindRing: the ring has dropped what follows.
        """
        if self._is_shared:
            return self.ring.read_shared(position, self.encoding, MAX_WRITE_BYTES, in_step=in_step)
        return *self.ring.read(position, self.encoding, MAX_WRITE_BYTES), False

    async def _flush_once(self) -> float:
        began = perf_counter()
        spent = 0.0
        start = self.flushed_to
        shared = self._is_shared  # those that are not in step read for themselves
        try:
            data, end, in_step = self.read(start, in_step=shared)
        except BehindRing:  # a burst larger than the ring: each subscriber replays it
            data, end, in_step = b"", self.ring.head, shared
            start = end
        self.flushed_to = end
        messages = self.count(end.total - start.total)
        is_filtered = self.encoding.selection is not None
        served = 0
        ready = self.ready
        for number, client in enumerate(tuple(ready), 1):
            try:
                if client not in ready:
                    pass  # it left the channel, or its transport paused, while other tasks ran
                elif client.position is start and client.in_step is shared:
                    client.position = end
                    client.in_step = in_step
                    if data:
                        client.transport.write(data)
                        client.sent_bytes += len(data)
                        if is_filtered:
                            client.count_sent(messages)
                    served += 1
                elif client.position.number < end.number:
                    client.flush()
            except Exception as error:  # noqa: BLE001
                client.fail(error)  # the other subscribers are still served
            if not number % _CLOCK_EVERY and perf_counter() - began > _YIELD_AFTER_SECS:
                spent += perf_counter() - began
                await asyncio.sleep(0)
                began = perf_counter()
        self.add_sent(served * messages, served * len(data))
        if served and end.cursor != start.cursor:  # notices have no publication time
            self._metrics.observe_delivery(end.cursor.entry)
        return spent + perf_counter() - began


class Filters(Protocol):
    """What the flusher needs of the filtered channels.

    Attributes:
        due: what waits for its turn.
        wake: called when a client is due.
    """

    due: dict[Any, None]
    wake: Callable[[], None]

    def look_up_next(self) -> bool:
        """Look up one new message; return False if there is none."""

    async def serve_next(self) -> float:
        """Give the first one of `due` its turn; return the seconds of work."""


class Flusher:
    """Flush all channels when a ring has grown.

    Channels without a filter come first. Look-ups, and channels and clients with a filter, take
    turns of `MAX_SLICE_SECS`; between these, the loop runs, and what has come since is flushed to
    the others.

    Args:
        channels: returns the channels without a filter.
        filters: has the other ones.
        metrics: observes the duration of each flush.
    """

    def __init__(
        self, channels: Callable[[], list[Channel[Any]]], filters: Filters, metrics: Metrics
    ) -> None:
        self._channels = channels
        self._filters = filters
        self._metrics = metrics
        self._grown = asyncio.Event()
        filters.wake = self.wake

    def wake(self) -> None:
        """Signal that a ring has grown."""
        self._grown.set()

    async def run(self) -> None:
        """Flush, until cancelled."""
        while True:
            await self._grown.wait()
            spent = 0.0
            while self._grown.is_set():
                self._grown.clear()
                unfiltered = 0.0
                for channel in self._channels():
                    unfiltered += await channel.flush()
                spent += unfiltered + await self._serve_filters(unfiltered)
            self._metrics.observe_flush(spent)
            await asyncio.sleep(min(_PAUSE_RATIO * spent, MAX_PAUSE_SECS))

    async def _serve_filters(self, min_secs: float) -> float:
        """Look up new messages and serve what is due, until a ring has grown.

        Args:
            min_secs: seconds of work after which a ring that has grown ends it; one turn at least.

        Returns:
            Seconds of work, without the time of other tasks.
        """
        filters, spent = self._filters, 0.0
        while True:
            began = perf_counter()
            while (more := filters.look_up_next()) and perf_counter() - began < MAX_SLICE_SECS:
                pass
            spent += perf_counter() - began
            turn = 0.0
            while filters.due and turn < MAX_SLICE_SECS:
                turn += await filters.serve_next()
            spent += turn
            if not more and not filters.due:
                break
            await asyncio.sleep(0)
            if spent >= min_secs and self._grown.is_set():
                break
        return spent
