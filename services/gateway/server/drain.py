"""Drain: a stopping gateway closes its clients, which resume at another gateway.

`tests/gateway/server/test_drain.py` holds this.
"""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from gateway.hub import Hub
from gateway.server.listener import Listener

_BATCH_INTERVAL_SECS: Final = 0.05
_SPREAD: Final = 0.6  # share of `stop_timeout` for closing; the rest is for closing handshakes
_MIN_BATCH: Final = 10  # clients
_MAX_PER_ITERATION: Final = 100  # clients closed per iteration of the event loop

log = structlog.get_logger(__name__)


async def drain(listener: Listener, hub: Hub, code: int, reason: str) -> None:
    """Empty the accept queue, stop accepting, and close all connections within `stop_timeout`.

    Clients are closed in batches over time, so that they do not all reconnect in the same moment.
    At the deadline, connections are aborted that have not answered the closing handshake or not
    taken everything written to them: the exit of the gateway does not wait for them.

    Args:
        listener: that accepts connections.
        hub: whose connections are closed.
        code: of the closing handshake.
        reason: of the closing handshake, before the client's position.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3):  # connections in the accept queue would be reset
        await asyncio.sleep(0)
    listener.close()
    for _ in range(2):  # in which what was accepted last is set up, and starts a TLS handshake
        await asyncio.sleep(0)
    listener.cancel_handshakes()
    for connection in tuple(hub.pending_connections):
        connection.close()
    clients = [client for channel in hub.all_channels for client in channel.clients]
    spread = _SPREAD * hub.settings.stop_timeout
    closed = 0
    while closed < len(clients):
        due = max(int(len(clients) * (loop.time() - began) / spread), closed + _MIN_BATCH)
        for number, client in enumerate(clients[closed:due], 1):
            if not client.closed:
                client.close(code, f"{reason}; resume with {client.resume_hint}")
            if not number % _MAX_PER_ITERATION:
                await asyncio.sleep(0)
        closed = due
        await asyncio.sleep(_BATCH_INTERVAL_SECS)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(began + hub.settings.stop_timeout):
            await hub.clients.all_closed.wait()
            while hub.is_answering:  # noqa: ASYNC110 - no event for the end of a process alone
                await asyncio.sleep(_BATCH_INTERVAL_SECS)
    left = hub.abort_connections()
    if left:
        log.warning("connections aborted", connections=left)
        await asyncio.sleep(0)  # so that their ends are counted
