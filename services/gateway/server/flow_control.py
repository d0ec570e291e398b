"""Flow control of a connection that reads requests and writes responses."""

import asyncio


class FlowControl:
    """Pauses reading while a request is answered, or while the peer does not take what was written.

    Either reason may be set and cleared any number of times, in any order; the transport is
    paused and resumed only when the outcome changes.

    Args:
        transport: of the connection.

    Attributes:
        busy: whether a request is being answered.
        blocked: whether the transport holds bytes that the kernel does not take.
    """

    __slots__ = ("_reading", "_transport", "blocked", "busy")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reading = True
        self.busy = False
        self.blocked = False

    @property
    def stopped(self) -> bool:
        """Whether no request may be read."""
        return self.busy or self.blocked

    def update(self, *, busy: bool | None = None, blocked: bool | None = None) -> None:
        """Set or clear reasons; None: unchanged."""
        if busy is not None:
            self.busy = busy
        if blocked is not None:
            self.blocked = blocked
        self._read(not self.stopped)

    def end(self) -> None:
        """Read again: another protocol has taken the transport over."""
        self._read(True)

    def _read(self, reading: bool) -> None:
        if reading == self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
