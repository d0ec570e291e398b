"""What WebSocket and SSE clients have in common: a place in a ring, and flow control.

A client is *live* while its transport takes what it is given: then flushes write to it. The
transport's high-water mark is one byte, so it says `pause_writing` as soon as the kernel takes no
more, holding only the rest of one shared write. Until `resume_writing` the client is left alone;
then it is pumped from the ring at its own pace until it has everything, and is live again. What
the ring does not hold, a replay serves from Redis.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import structlog

from certbus.ids import FIRST_ID, Cursor, parse_entry_id
from gateway.delivery.channel import WRITE_BYTES, Channel
from gateway.delivery.ring_buffer import BehindRing, RingPosition
from gateway.hub import Hub

if TYPE_CHECKING:
    from gateway.admission.controller import ConnectionSlot

log = structlog.get_logger(__name__)

_CLOSED: Final = RingPosition(1 << 62, Cursor(parse_entry_id(FIRST_ID), None), 0)
"""Where clients are that have left: behind everything."""


class Client(asyncio.Protocol, ABC):
    """One client of one lane. Subclasses are protocols of a transport.

    Attributes:
        service: what it shares with all others.
        lane: what it reads.
        transport: where its bytes go; its high-water mark is one byte.
        at: everything before this place has been written.
        paused: whether the transport takes no more for now.
        number: of its connection, for the log.
        spoke: of the heartbeat's wheel.
        ticket: with which it was let in; given back when it has gone.
    """

    __slots__ = (
        "_drain_waiter",
        "_replaying",
        "channel",
        "connection_id",
        "hub",
        "paused",
        "position",
        "ticket",
        "timer_slot",
        "transport",
    )

    def __init__(self, service: Hub, lane: Channel, transport: asyncio.Transport) -> None:
        self.hub = service
        self.channel = lane
        self.transport = transport
        self.position = lane.ring.head
        self.paused = False
        self.timer_slot = 0
        self.connection_id = 0
        self.ticket: ConnectionSlot | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._replaying = False  # a replay writes to it; nobody else may meanwhile

    @property
    def closed(self) -> bool:
        """Whether it has left."""
        return self.position is _CLOSED

    def attach(self, cursor: Cursor | None) -> None:
        """Begin to read.

        Args:
            cursor: what it has already; None for what comes from now on.
        """
        self.channel.clients.add(self)
        if self.transport.get_write_buffer_size():
            self.pause_writing()
        if cursor is None:
            self.flush()
        elif not self.resume(cursor):
            self._start_replay(cursor)

    def resume(self, cursor: Cursor) -> bool:
        """Go on from the ring, if it holds everything behind `cursor`."""
        lane = self.channel
        if cursor.entry > lane.ring.head.cursor.entry:
            return False  # of a gateway that is ahead, or of none: Redis knows
        try:
            data, place, messages = lane.ring.read_from_cursor(cursor, lane.encoding)
        except BehindRing:
            return False
        self._replaying = False
        self.send(data, place, messages)
        self.flush()
        return True

    def continue_live(self, place: RingPosition) -> None:
        """Go on from a place in the ring."""
        self._replaying = False
        self.position = place
        self.flush()

    def send_notice(self, notice: bytes) -> None:
        """Write a message that has no id."""
        self.transport.write(self.channel.encoding.notice(notice))

    def send(self, data: bytes, place: RingPosition, messages: int) -> bool:
        """Write what leads to a place.

        Args:
            data: messages, encoded.
            place: behind them.
            messages: how many they are.

        Returns:
            Whether the transport takes more.
        """
        lane = self.channel
        lane.sent += messages
        lane.sent_bytes += len(data)
        self.position = place
        self.transport.write(data)
        return not self.paused

    def detach(self) -> None:
        """Read no more."""
        self.position = _CLOSED
        self.channel.clients.discard(self)
        self.channel.ready.discard(self)
        self.hub.paused.discard(self)
        self._wake()

    def flush(self) -> None:
        """Write what this client does not have yet, as much as it takes."""
        if self.paused or self.closed or self._replaying:
            return
        lane = self.channel
        try:
            data, place = lane.ring.read(self.position, lane.encoding, WRITE_BYTES)
        except BehindRing:
            self._start_replay(self.position.cursor)
            return
        if not self.send(data, place, place.total - self.position.total):
            return
        if place.number == lane.ring.head.number:
            lane.ready.add(self)
        else:  # the others have a turn before the next piece
            asyncio.get_running_loop().call_soon(self.flush)

    async def writable(self) -> bool:
        """Wait until the transport takes more.

        Returns:
            False if the client has left.
        """
        if self.paused and not self.closed:
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter
        return not self.closed

    @abstractmethod
    def tick(self, now: int) -> None:
        """Send a sign of life."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Say goodbye.

        Args:
            code: of the WebSocket closing handshake.
            reason: for a person.
        """

    def pause_writing(self) -> None:
        """The kernel takes no more: leave this client alone."""
        self.paused = True
        self.channel.ready.discard(self)
        if not self.closed:
            self.hub.paused.add(self)

    def resume_writing(self) -> None:
        """Everything written has gone: go on at this client's own pace."""
        self.paused = False
        self.hub.paused.discard(self)
        self._wake()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client has gone."""
        log.debug("client gone", connection=self.connection_id, stream=self.channel.ring.stream)
        self.detach()
        self.hub.closed(self)
        if self.ticket is not None:
            self.ticket.release()

    def fail(self, error: BaseException) -> None:
        """End this client, and no other, after an error that nobody foresaw."""
        self.hub.errors.report(error, connection=self.connection_id)
        self.channel.ready.discard(self)
        self.transport.abort()

    def _cut_off_later(self) -> None:
        """Do not wait for ever for a client that does not take or answer what was written."""
        self.hub.leaving(self)
        timeout = self.hub.settings.close_timeout
        asyncio.get_running_loop().call_later(timeout, self.transport.abort)

    def _start_replay(self, cursor: Cursor) -> None:
        """Have a replay serve this client until the ring can: one at a time, whatever happens."""
        self._replaying = True
        self.channel.ready.discard(self)
        self.channel.replay(self, cursor)

    def _wake(self) -> None:
        """Let go on who waits in `writable`, if anyone does."""
        drained, self._drain_waiter = self._drain_waiter, None
        if drained is not None and not drained.done():
            drained.set_result(None)
