"""The flusher: ring -> clients, every so often."""

import asyncio
from collections.abc import Collection

from gateway.delivery.channel import Channel
from gateway.delivery.flush_interval import flush_interval
from gateway.metrics import Metrics


class Flusher:
    """Flushes all lanes whenever something new is there, at the pace that the work allows.

    Args:
        lanes: as they are at any time.
        meter: measures it.
    """

    def __init__(self, lanes: Collection[Channel], meter: Metrics) -> None:
        self._meter = meter
        self._lanes = lanes
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Say that a ring has grown."""
        self._news.set()

    async def run(self) -> None:
        """Flush, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            spent = 0.0
            for lane in tuple(self._lanes):
                spent += await lane.flush()
            self._meter.observe_flush(spent)
            await asyncio.sleep(flush_interval(spent))
