"""Notifications to systemd: READY, RELOADING, STOPPING and WATCHDOG (sd_notify(3)).

Only the process that systemd started sends them: it removes NOTIFY_SOCKET from its environment, so
its children do not inherit it. Without NOTIFY_SOCKET nothing is sent.
"""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final

import structlog

_READY_CHECK_INTERVAL_SECS: Final = 0.2
_WATCHDOG_RATIO: Final = 3  # notifications per watchdog interval; sd_watchdog_enabled(3): two

log = structlog.get_logger(__name__)

Probe = Callable[[], Awaitable[bool]]
"""Returns whether the service works."""


class Notifier:
    """Sends the state of this process.

    Args:
        environ: the environment; the variables of systemd are removed from it.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        interval, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        own = pid in {"", str(os.getpid())}
        self._watchdog_secs = int(interval) / 1e6 if interval.isdecimal() and own else None
        self._ready = False

    async def run(self, probe: Probe) -> None:
        """Send READY once the service works, then WATCHDOG while it does, until cancelled."""
        if not self._address:
            return
        while not await probe():  # noqa: ASYNC110  (an event of another process)
            await asyncio.sleep(_READY_CHECK_INTERVAL_SECS)
        self._ready = True
        self._send("READY=1")
        while self._watchdog_secs is not None:
            if await probe():
                self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_secs / _WATCHDOG_RATIO)

    def reloading(self) -> None:
        """Report that the configuration is being read."""
        if self._ready:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report the end of a reload, also of a rejected one."""
        if self._ready:
            self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service stops."""
        if self._address:
            self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        address = self._address
        if address.startswith("@"):  # of the abstract namespace (unix(7))
            address = f"\0{address[1:]}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), address)
        except OSError as error:
            log.warning("systemd notification failed", state=state, why=str(error))


async def always() -> bool:
    """Probe of a service without a health socket: its event loop works."""
    return True
