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

from certbus.ids import ORIGIN, Cursor, parse_entry_id
from gateway.delivery.channel import WRITE_BYTES, Lane
from gateway.delivery.ring_buffer import Overrun, Position
from gateway.hub import Service

if TYPE_CHECKING:
    from gateway.admission.controller import Ticket

log = structlog.get_logger(__name__)

_GONE: Final = Position(1 << 62, Cursor(parse_entry_id(ORIGIN), None), 0)
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
        "_drained",
        "_replayed",
        "at",
        "lane",
        "number",
        "paused",
        "service",
        "spoke",
        "ticket",
        "transport",
    )

    def __init__(self, service: Service, lane: Lane, transport: asyncio.Transport) -> None:
        self.service = service
        self.lane = lane
        self.transport = transport
        self.at = lane.ring.head
        self.paused = False
        self.spoke = 0
        self.number = 0
        self.ticket: Ticket | None = None
        self._drained: asyncio.Future[None] | None = None
        self._replayed = False  # a replay writes to it; nobody else may meanwhile

    @property
    def gone(self) -> bool:
        """Whether it has left."""
        return self.at is _GONE

    def join(self, cursor: Cursor | None) -> None:
        """Begin to read.

        Args:
            cursor: what it has already; None for what comes from now on.
        """
        self.lane.clients.add(self)
        if self.transport.get_write_buffer_size():
            self.pause_writing()
        if cursor is None:
            self.pump()
        elif not self.resume(cursor):
            self._hand_over(cursor)

    def resume(self, cursor: Cursor) -> bool:
        """Go on from the ring, if it holds everything behind `cursor`."""
        lane = self.lane
        if cursor.entry > lane.ring.head.cursor.entry:
            return False  # of a gateway that is ahead, or of none: Redis knows
        try:
            data, place, messages = lane.ring.resume(cursor, lane.form)
        except Overrun:
            return False
        self._replayed = False
        self.write(data, place, messages)
        self.pump()
        return True

    def follow(self, place: Position) -> None:
        """Go on from a place in the ring."""
        self._replayed = False
        self.at = place
        self.pump()

    def tell(self, notice: bytes) -> None:
        """Write a message that has no id."""
        self.transport.write(self.lane.form.notice(notice))

    def write(self, data: bytes, place: Position, messages: int) -> bool:
        """Write what leads to a place.

        Args:
            data: messages, encoded.
            place: behind them.
            messages: how many they are.

        Returns:
            Whether the transport takes more.
        """
        lane = self.lane
        lane.sent += messages
        lane.sent_bytes += len(data)
        self.at = place
        self.transport.write(data)
        return not self.paused

    def leave(self) -> None:
        """Read no more."""
        self.at = _GONE
        self.lane.clients.discard(self)
        self.lane.live.discard(self)
        self.service.paused.discard(self)
        self._wake()

    def pump(self) -> None:
        """Write what this client does not have yet, as much as it takes."""
        if self.paused or self.gone or self._replayed:
            return
        lane = self.lane
        try:
            data, place = lane.ring.read(self.at, lane.form, WRITE_BYTES)
        except Overrun:
            self._hand_over(self.at.cursor)
            return
        if not self.write(data, place, place.total - self.at.total):
            return
        if place.number == lane.ring.head.number:
            lane.live.add(self)
        else:  # the others have a turn before the next piece
            asyncio.get_running_loop().call_soon(self.pump)

    async def writable(self) -> bool:
        """Wait until the transport takes more.

        Returns:
            False if the client has left.
        """
        if self.paused and not self.gone:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        return not self.gone

    @abstractmethod
    def beat(self, now: int) -> None:
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
        self.lane.live.discard(self)
        if not self.gone:
            self.service.paused.add(self)

    def resume_writing(self) -> None:
        """Everything written has gone: go on at this client's own pace."""
        self.paused = False
        self.service.paused.discard(self)
        self._wake()
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client has gone."""
        log.debug("client gone", connection=self.number, stream=self.lane.ring.stream)
        self.leave()
        self.service.left(self)
        if self.ticket is not None:
            self.ticket.give_back()

    def fail(self, error: BaseException) -> None:
        """End this client, and no other, after an error that nobody foresaw."""
        self.service.errors.report(error, connection=self.number)
        self.lane.live.discard(self)
        self.transport.abort()

    def _cut_off_later(self) -> None:
        """Do not wait for ever for a client that does not take or answer what was written."""
        self.service.leaving(self)
        timeout = self.service.settings.close_timeout
        asyncio.get_running_loop().call_later(timeout, self.transport.abort)

    def _hand_over(self, cursor: Cursor) -> None:
        """Have a replay serve this client until the ring can: one at a time, whatever happens."""
        self._replayed = True
        self.lane.live.discard(self)
        self.lane.replay(self, cursor)

    def _wake(self) -> None:
        """Let go on who waits in `writable`, if anyone does."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
