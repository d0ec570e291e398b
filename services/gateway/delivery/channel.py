"""A lane: one stream in one form, and the clients that read it. The unit that fan-out works on.

Clients that have everything so far and whose transport takes more are *live*. A flush reads what
is new once and writes the same bytes to all of them. It works in turns of a few milliseconds, so
that the loop gets to accept connections and to answer pings in between.
"""

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.delivery.encoding import Encoding
from gateway.delivery.ring_buffer import BehindRing, Ring
from gateway.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from certbus.ids import Cursor
    from gateway.clients.base import Client

WRITE_BYTES: Final = 128 * 1024
"""What is written to a client at once, but for the last slot of it. A client that stops reading
holds on to no more than this."""

_YIELD_AFTER_SECS: Final = 0.002  # seconds of writing before the loop gets its turn
_CLOCK_EVERY: Final = 16  # clients between two looks at the clock


class Channel:
    """One stream in one form, and who reads it.

    Args:
        ring: the stream.
        form: what its messages look like here.
        replay: given a client that the ring cannot serve, and what it has already.
        meter: measures how late it is.

    Attributes:
        clients: everyone.
        live: those that a flush writes to.
        flushed: the place up to which the last flush went.
        sent: messages handed to transports.
        sent_bytes: their bytes.
    """

    def __init__(
        self, ring: Ring, form: Encoding, replay: "Callable[[Client, Cursor], None]", meter: Metrics
    ) -> None:
        self.ring = ring
        self._meter = meter
        self.encoding = form
        self.replay = replay
        self.clients: set[Client] = set()
        self.ready: set[Client] = set()
        self.flushed_to = ring.head
        self.sent = 0
        self.sent_bytes = 0

    async def flush(self) -> float:
        """Write everything new to all live clients.

        Returns:
            Seconds of work, without the loop's turns.
        """
        spent = 0.0
        while self.flushed_to.number < self.ring.head.number:
            if not self.ready:
                self.flushed_to = self.ring.head
                break
            spent += await self._flush_once()
        return spent

    async def _flush_once(self) -> float:
        began = perf_counter()
        spent = 0.0
        start = self.flushed_to
        try:
            data, end = self.ring.read(start, self.encoding, WRITE_BYTES)
        except BehindRing:  # a burst larger than the ring: each client catches up from the history
            data, end = b"", self.ring.head
            start = end
        self.flushed_to = end
        served = 0
        for number, client in enumerate(tuple(self.ready), 1):
            try:
                if client.position is start and not client.paused:
                    client.position = end
                    if data:
                        client.transport.write(data)
                    served += 1
                elif client.position.number < end.number:
                    client.flush()
            except Exception as error:  # noqa: BLE001
                client.fail(error)  # and write to the others
            if not number % _CLOCK_EVERY and perf_counter() - began > _YIELD_AFTER_SECS:
                spent += perf_counter() - began
                await asyncio.sleep(0)
                began = perf_counter()
        self.sent += served * (end.total - start.total)
        self.sent_bytes += served * len(data)
        if served and end.cursor != start.cursor:  # else it was but a notice
            self._meter.observe_delivery(end.cursor.entry)
        return spent + perf_counter() - began
