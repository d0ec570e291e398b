"""What WebSocket and SSE clients have in common: a ring position and flow control.

A client is *ready* while its transport accepts data: flushes of its channel write to it. The
transport's high-water mark is one byte, so it calls `pause_writing` as soon as the kernel's send
buffer is full, and holds only the rest of one shared write. After `resume_writing` the client
reads the ring at its own pace until it has everything, and is ready again. A client that fell
behind the ring starts a replay, which serves it from Redis until the ring can.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from certbus.ids import FIRST_ID, Cursor, parse_entry_id
from certbus.streams.continuity import NOTHING
from gateway.config import Settings
from gateway.delivery.ring_buffer import BehindRing, RingPosition
from gateway.error_log import ErrorLog
from gateway.http.messages import NO_FILTERS
from gateway.timer_wheel import TimerWheel

if TYPE_CHECKING:
    from gateway.access_log import AccessRecord
    from gateway.admission.controller import ConnectionSlot
    from gateway.delivery.channel import Channel
    from gateway.delivery.encoding import Encoding

    _Answer = Callable[[str | None], bytes]

log = structlog.get_logger(__name__)

_CLOSED: Final = RingPosition(1 << 62, Cursor(parse_entry_id(FIRST_ID), None), 0)
"""Sentinel position of disconnected clients."""

MAX_WAITING_ANSWERS: Final = 16
"""Answers to requests of a client that does not read; it is closed at the next request."""

_POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1
_ABNORMAL_CLOSURE: Final = 1006  # RFC 6455 section 7.4.1
_CONNECTION_LOST: Final = (_ABNORMAL_CLOSURE, "connection lost")


StartReplay = Callable[["Client", Cursor], asyncio.Task[None] | None]


def _ignore(client: "Client", message: bytes) -> None:
    """Ignore a message of a client."""


class ClientRegistry:
    """What all clients of a gateway share. Clients add and remove themselves.

    Args:
        settings: the intervals; later changes of them have no effect.
        replay: starts to serve a client from Redis, given the cursor that it has.
        errors: counts and logs unexpected errors.

    Attributes:
        receive: handles a message of a WebSocket client.
        unfinished_bytes: received of messages that are not complete.
        close_timeout_secs: from the start of a closing handshake to the end of the connection.
        websocket_timers: tick each WebSocket client once per heartbeat interval.
        sse_timers: tick each SSE client once per comment interval.
        paused: clients with a full send buffer.
        closing: clients in a closing handshake.
        all_closed: set while `closing` is empty.
    """

    def __init__(self, settings: Settings, replay: "StartReplay", errors: ErrorLog) -> None:
        self.start_replay = replay
        self.receive: Callable[[Client, bytes], None] = _ignore
        self.unfinished_bytes = 0
        self.errors = errors
        self.close_timeout_secs = settings.close_timeout
        self.websocket_timers = TimerWheel(settings.heartbeat, errors)
        self.sse_timers = TimerWheel(settings.comment, errors)
        self.paused: set[Client] = set()
        self.closing: set[Client] = set()
        self.all_closed = asyncio.Event()
        self.all_closed.set()

    def mark_closing(self, client: "Client") -> None:
        """Add a client to `closing`."""
        self.closing.add(client)
        self.all_closed.clear()

    def mark_closed(self, client: "Client") -> None:
        """Remove a client from `closing`."""
        self.closing.discard(client)
        if not self.closing:
            self.all_closed.set()


class Client(asyncio.Protocol, ABC):
    """One client of one channel. Subclasses are protocols of a transport.

    Args:
        registry: what it shares with all other clients.
        channel: the stream and encoding that it reads.
        transport: of its connection; the high-water mark is one byte.

    Attributes:
        requested: the filters that hold for it; what changes its channel writes it, too.
        position: everything before it has been written. The flusher and the replay write it, too.
        in_step: whether it can decompress what the shared context of its channel makes next; see
            `gateway.delivery.compression`. The flusher writes it, too.
        paused: whether the send buffer is full.
        connection_id: for the log.
        may_change_at: when the client may change its filter again, in the time of the loop.
        timer_slot: of the timer wheel, which alone writes it.
        slot: of admission; released when the connection ends.
        access: the record that the access log gets when the connection ends; None: none.
        sent_bytes: bytes written to the connection, before TLS.
    """

    __slots__ = (
        "_answers",
        "_drain_waiter",
        "_end",
        "_live_from",
        "_messages",
        "_next_channel",
        "_read",
        "_replay",
        "_replay_from",
        "_replaying",
        "access",
        "channel",
        "connection_id",
        "in_step",
        "may_change_at",
        "paused",
        "position",
        "registry",
        "requested",
        "sent_bytes",
        "slot",
        "timer_slot",
        "transport",
    )

    def __init__(
        self, registry: ClientRegistry, channel: "Channel[Client]", transport: asyncio.Transport
    ) -> None:
        self.registry = registry
        self.channel = channel
        self.requested = NO_FILTERS
        self.transport = transport
        self.position = channel.ring.head
        self.in_step = False
        self.paused = False
        self.timer_slot = 0
        self.connection_id = 0
        self.slot: ConnectionSlot | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._replaying = False  # while a replay runs, nothing else writes messages
        self._read: Cursor | None = None  # in a replay: what the client has; None if unknown
        self._replay_from: Cursor | None = None
        self._replay: asyncio.Task[None] | None = None
        # Until the transport accepts more:
        self._next_channel: Channel[Client] | None = None  # of a switch
        self._answers: tuple[_Answer, ...] = ()  # of requests, in their order
        self.may_change_at = 0.0
        self.access: AccessRecord | None = None
        self.sent_bytes = 0
        self._messages = 0  # sent before the position had the total `_live_from`
        self._live_from = self.position.total
        self._end: tuple[int, str] | None = None  # code and reason

    status: int
    """HTTP status of the response that began the stream."""

    @property
    def closed(self) -> bool:
        """Whether the client has left its channel."""
        return self.position is _CLOSED

    @property
    def resumes_after(self) -> str | None:
        """The id after which another connection continues without loss.

        Everything up to it was sent, did not pass the filter, or was reported by a gap. None while
        a replay has read nothing yet, or before anything is known of the stream.
        """
        cursor = self._read if self._replaying else self.channel.position_of(self).resumes_after
        return None if cursor is None or cursor.entry == NOTHING else str(cursor)

    @property
    def resume_hint(self) -> str:
        """How another connection continues, for a person."""
        cursor = self.resumes_after
        return "the same cursor" if cursor is None else f"?cursor={cursor}"

    def read_up_to(self, cursor: Cursor) -> None:
        """Note what a replay has read and sent; messages that do not pass the filter count."""
        self._read = cursor

    def attach(self, cursor: Cursor | None) -> None:
        """Subscribe to the channel.

        Args:
            cursor: the last message that the client has; None for messages from now on.
        """
        self.channel.clients.add(self)
        if self.transport.get_write_buffer_size():
            self.pause_writing()
        if cursor is None:
            self.flush()
        elif not self.resume(cursor):
            self._start_replay(cursor)

    def resume(self, cursor: Cursor) -> bool:
        """Continue from the ring.

        Returns:
            False if the ring does not hold everything after `cursor`, or the filter of the channel
            must first be applied to it.
        """
        channel = self.channel
        if cursor.entry > channel.ring.head.cursor.entry:
            return False  # of a gateway that is ahead, or of none: Redis decides
        if channel.unseen(cursor):
            return False
        try:
            data, position, messages = channel.ring.read_from_cursor(cursor, channel.encoding)
        except BehindRing:
            return False
        self._replaying = False
        self.send(data, position, messages)
        self.flush()
        return True

    def continue_live(self, position: RingPosition) -> None:
        """Continue from a position of the ring."""
        self._replaying = False
        self._move(position)
        self.flush()

    def send_notice(self, notice: bytes) -> None:
        """Write a message that has no id."""
        self.write(self.channel.encoding.notice(notice))

    def send(self, data: bytes, position: RingPosition, messages: int) -> bool:
        """Write messages and advance.

        Args:
            data: the messages, encoded.
            position: after them.
            messages: their number.

        Returns:
            Whether the transport accepts more.
        """
        channel = self.channel
        count = channel.count(messages)
        channel.add_sent(count, len(data))
        self._move(position, count)
        self.write(data)
        return not self.paused

    def switch(self, channel: "Channel[Client]", answer: "_Answer") -> None:
        """Continue on another channel, now or as soon as the transport accepts more.

        Args:
            channel: of the same encoding.
            answer: returns a message without an id, which is written between the last message of
                the old channel and the first one of the new; given the id of the former, if known.
        """
        if self.paused:
            channel.clients.add(self)
            waiting, self._next_channel = self._next_channel, channel
            if waiting is not None and waiting is not self.channel and waiting is not channel:
                waiting.leave(self)
            self.answer(answer)
        else:
            self._switch(channel, (answer,))

    def answer(self, answer: "_Answer") -> None:
        """Answer a request, now or as soon as the transport accepts more.

        Args:
            answer: as of `switch`.
        """
        if not self.paused:
            self.send_notice(answer(self.resumes_after))
        elif len(self._answers) == MAX_WAITING_ANSWERS:
            self.close(_POLICY_VIOLATION, "requests without reading the answers")
        else:
            self._answers += (answer,)

    def _switch(self, channel: "Channel[Client]", answers: "Iterable[_Answer]") -> None:
        """Continue on another channel after some answers."""
        old, position = self.channel, self.channel.position_of(self)
        cursor = self.resumes_after
        message = b"".join(old.encoding.notice(answer(cursor)) for answer in answers)
        if channel is old:
            self.write(message)
            return
        self._move(position)
        channel.clients.add(self)
        old.leave(self)
        self.in_step = False
        self.channel = channel
        self.write(message)
        if self._replaying:
            self._cancel_replay()
            after = self._read or self._replay_from
            assert after is not None
            self._continue_from(after, self._read)
        elif channel.ring is old.ring:
            self.flush()
        elif position.cursor.entry == NOTHING:  # before any is known, the next message is the first
            self._move(channel.ring.head)
            self.flush()
        else:
            self._continue_from(position.resumes_after, position.resumes_after)

    def count_sent(self, messages: int) -> None:
        """Count messages that a flush of a filtered channel has written."""
        self._messages += messages

    def write(self, data: bytes) -> None:
        """Write to the connection."""
        self.sent_bytes += len(data)
        self.transport.write(data)

    def detach(self) -> None:
        """Unsubscribe."""
        if not self.closed:
            self._move(_CLOSED)
        self._cancel_replay()  # a stop waits for it, and it may wait for Redis
        waiting, self._next_channel = self._next_channel, None
        if waiting is not None and waiting is not self.channel:
            waiting.leave(self)
        self._answers = ()
        self.channel.leave(self)
        self.registry.paused.discard(self)
        self._wake()

    def flush(self) -> None:
        """Write what follows `position`, until the transport accepts no more.

        With a filter, each write is a turn: evaluating the filter takes time.
        """
        if self.paused or self.closed or self._replaying or self.channel.defers(self):
            return
        self.take_turn()

    def take_turn(self) -> None:
        """Write once what follows `position`."""
        if self.paused or self.closed or self._replaying:
            return
        channel = self.channel
        try:
            data, position, self.in_step = channel.read(self.position, in_step=self.in_step)
        except BehindRing:
            self._start_replay(self.position.resumes_after)
            self._read = self.position.resumes_after
            return
        if not self.send(data, position, position.total - self.position.total):
            return
        if channel.has_all(position):
            channel.join(self)
        else:  # the event loop serves other connections before the next write
            asyncio.get_running_loop().call_soon(self.flush)

    async def writable(self) -> bool:
        """Wait until the transport accepts more; return False if the client has left."""
        while self.paused and not self.closed:  # an answer may pause the client again
            self._drain_waiter = asyncio.get_running_loop().create_future()
            await self._drain_waiter
        return not self.closed

    def encoding(self, *, filtered: bool) -> "Encoding":  # noqa: ARG002
        """Return the encoding for this client, with or without a filter."""
        return self.channel.base.encoding

    @abstractmethod
    def tick(self, now: int) -> None:
        """Send a heartbeat.

        Args:
            now: Unix time in seconds.
        """

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Unsubscribe and close the connection.

        Args:
            code: of the WebSocket closing handshake.
            reason: for a person.
        """

    def pause_writing(self) -> None:
        """Stop writing: the send buffer is full."""
        self.channel.part(self)
        self.paused = True
        if not self.closed:
            self.registry.paused.add(self)

    def resume_writing(self) -> None:
        """Continue writing: the send buffer is empty."""
        self.paused = False
        self.registry.paused.discard(self)
        self._wake()
        channel, self._next_channel = self._next_channel, None
        answers, self._answers = self._answers, ()
        if answers:
            self._switch(channel or self.channel, answers)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Unsubscribe and release the admission ticket."""
        log.debug("client gone", connection=self.connection_id, stream=self.channel.stream)
        self.detach()
        self.registry.mark_closed(self)
        if self.access is not None:
            self.access.end(
                self.status, self.sent_bytes, self._messages, self._end or _CONNECTION_LOST
            )
        if self.slot is not None:
            self.slot.release()

    def fail(self, error: BaseException) -> None:
        """Abort this client alone after an unexpected error."""
        self.registry.errors.report(error, connection=self.connection_id)
        self.channel.part(self)
        self.abort("internal error")

    def abort(self, reason: str) -> None:
        """Abort the connection.

        Args:
            reason: for the access log.
        """
        self._ended(_ABNORMAL_CLOSURE, reason)
        self.transport.abort()

    def _ended(self, code: int, reason: str) -> None:
        """Keep the first code and reason for the access log."""
        self._end = self._end or (code, reason)

    def _move(self, position: RingPosition, messages: int = 0) -> None:
        """Change the position, and count `messages` and those that flushes have written.

        A filtered channel counts the latter with `count_sent`.
        """
        if self.channel.encoding.selection is None:
            self._messages += self.position.total - self._live_from
        self._messages += messages
        self.position = position
        self._live_from = position.total

    def _abort_later(self) -> None:
        """Abort the connection if the client does not end it within the close timeout."""
        self.registry.mark_closing(self)
        timeout = self.registry.close_timeout_secs
        asyncio.get_running_loop().call_later(timeout, self.transport.abort)

    def _start_replay(self, cursor: Cursor) -> None:
        """Have a replay serve this client until the ring can; one replay runs at a time."""
        self._replaying, self._read, self._replay_from = True, None, cursor
        self.in_step = False
        self.channel.part(self)
        self._replay = self.registry.start_replay(self, cursor)

    def _cancel_replay(self) -> None:
        """Cancel the replay. A reference to it would be a cycle, which keeps a page of history."""
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.cancel()

    def _continue_from(self, cursor: Cursor, read: Cursor | None) -> None:
        """Continue after a message on a channel that was switched to.

        Args:
            cursor: the message; 0-0 for everything of the epoch.
            read: what a replay has read; None if nothing.
        """
        if not self.resume(cursor):
            self._start_replay(cursor)
            self._read = read

    def _wake(self) -> None:
        """Resume the task that waits in `writable`, if there is one."""
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
