"""A timer wheel: one timer for all clients, instead of one each.

Clients are dealt out to the wheel's spokes in turn, and each tick of the clock serves one spoke.
So every client is served once in a turn of the wheel, and heartbeats are spread evenly over time
even if all clients arrived at once.
"""

import asyncio
import time
from typing import Final, Protocol

from gateway.error_log import ErrorLog

TICK: Final = 0.25
"""Seconds between two spokes."""


class Timed(Protocol):
    """What a wheel carries.

    Attributes:
        spoke: which one it rides on; the wheel's own note.
        transport: aborted when `beat` raises.
    """

    timer_slot: int
    transport: asyncio.Transport

    def tick(self, now: int) -> None:
        """Do what is due once in a turn.

        Args:
            now: Unix time in seconds.
        """


class TimerWheel:
    """Calls `beat` of each of its riders once in `period` seconds.

    Args:
        period: in seconds.
        errors: told of what a `beat` raises.
    """

    def __init__(self, period: float, errors: ErrorLog) -> None:
        self._errors = errors
        self._tick = min(TICK, period)
        self._spokes: list[set[Timed]] = [set() for _ in range(round(period / self._tick))]
        self._dealt = 0

    def add(self, rider: Timed) -> None:
        """Take a rider on."""
        rider.timer_slot = self._dealt = (self._dealt + 1) % len(self._spokes)
        self._spokes[rider.timer_slot].add(rider)

    def discard(self, rider: Timed) -> None:
        """Let a rider go, if it is there."""
        self._spokes[rider.timer_slot].discard(rider)

    async def run(self) -> None:
        """Turn, until cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            for spoke in self._spokes:
                due = max(due + self._tick, clock() - self._tick)
                await asyncio.sleep(due - clock())
                now = int(time.time())
                for rider in tuple(spoke):
                    try:
                        rider.tick(now)
                    except Exception as error:  # noqa: BLE001
                        self._errors.report(error)  # and serve the others
                        rider.transport.abort()
