"""A timer wheel: one timer for all clients, instead of one each.

The wheel assigns clients to its slots in rotation, and each tick of the clock serves one slot. So a
rotation serves each client once, and heartbeats are spread evenly over time even if all clients
connected at once.
"""

import asyncio
import time
from typing import Final, Protocol

from gateway.error_log import ErrorLog

SLOT_SECS: Final = 0.25
"""Time between two slots."""


class Timed(Protocol):
    """A member of a wheel.

    Attributes:
        timer_slot: number of its slot; the wheel alone writes it.
        transport: aborted when `tick` raises.
    """

    timer_slot: int
    transport: asyncio.Transport

    def tick(self, now: int) -> None:
        """Do what is due once per period.

        Args:
            now: Unix time in seconds.
        """


class TimerWheel:
    """Calls `tick` of each member once per period.

    Args:
        period: in seconds.
        errors: counts and logs what a `tick` raises.
    """

    def __init__(self, period: float, errors: ErrorLog) -> None:
        self._errors = errors
        self._slot_secs = min(SLOT_SECS, period)
        self._slots: list[set[Timed]] = [set() for _ in range(round(period / self._slot_secs))]
        self._last_slot = 0

    def add(self, member: Timed) -> None:
        """Add a member."""
        member.timer_slot = self._last_slot = (self._last_slot + 1) % len(self._slots)
        self._slots[member.timer_slot].add(member)

    def discard(self, member: Timed) -> None:
        """Remove a member, if it is in the wheel."""
        self._slots[member.timer_slot].discard(member)

    async def run(self) -> None:
        """Serve the slots, until cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            for slot in self._slots:
                due = max(due + self._slot_secs, clock() - self._slot_secs)
                await asyncio.sleep(due - clock())
                self._serve(slot)

    def _serve(self, slot: set[Timed]) -> None:
        now = int(time.time())
        for member in tuple(slot):
            try:
                member.tick(now)
            except Exception as error:  # noqa: BLE001
                self._errors.report(error)  # the other members are still served
                member.transport.abort()
