"""Sending clients elsewhere: when a gateway stops, they connect to another one and resume there."""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gateway.hub import Hub
from gateway.server.listener import Listener

_STEP: Final = 0.05  # seconds between two lots of clients
_SPREAD: Final = 0.6  # of the time there is; the rest is for answers
_LEAST: Final = 10  # clients in a lot
_AT_ONCE: Final = 100  # clients closed before the loop gets its turn

log = structlog.get_logger(__name__)


async def drain(listener: Listener, service: Hub, code: int, reason: str) -> None:
    """Accept what is waiting, accept no more, and close all connections within the deadline.

    Clients are closed in lots over time, so that they do not all reconnect at once. Those that have
    not answered the closing handshake at the deadline, or not taken what was written to them, are
    cut off: what else a gateway has to do at its end does not wait for them.

    Args:
        listener: that accepts connections.
        service: whose connections are closed.
        code: of the closing handshake.
        reason: what comes before each client's last id.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3):  # what is in the accept queue would be reset
        await asyncio.sleep(0)
    listener.close()
    for connection in tuple(service.pending_connections):
        connection.close()
    clients = [client for lane in service.channels.values() for client in lane.clients]
    spread = _SPREAD * service.settings.stop_timeout
    closed = 0
    while closed < len(clients):
        due = max(int(len(clients) * (loop.time() - began) / spread), closed + _LEAST)
        for number, client in enumerate(clients[closed:due], 1):
            if not client.closed:
                client.close(code, f"{reason}; resume with ?cursor={client.position}")
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
        closed = due
        await asyncio.sleep(_STEP)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(began + service.settings.stop_timeout):
            await service.clients.all_closed.wait()
            while service.is_answering:  # noqa: ASYNC110 - no event for the end of a process alone
                await asyncio.sleep(_STEP)
    left = service.abort_connections()
    if left:
        log.warning("connections cut off that did not end in time", connections=left)
        await asyncio.sleep(0)  # so that their ends are counted
