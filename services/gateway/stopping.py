"""Sending clients elsewhere: when a gateway stops, they connect to another one and resume there."""

import asyncio
from contextlib import suppress
from typing import Final

from gateway.listening import Listener
from gateway.service import Service

_STEP: Final = 0.05  # seconds between two lots of clients
_SPREAD: Final = 0.6  # of the time there is; the rest is for answers
_LEAST: Final = 10  # clients in a lot


async def close_all(listener: Listener, service: Service, code: int, reason: str) -> None:
    """Accept what is waiting, accept no more, and close all clients within the deadline.

    They are closed in lots over time, so that they do not all reconnect at once.

    Args:
        listener: that accepts connections.
        service: whose clients are closed.
        code: of the closing handshake.
        reason: what comes before each client's last id.
    """
    loop = asyncio.get_running_loop()
    for _ in range(3):  # what is in the accept queue would be reset
        await asyncio.sleep(0)
    listener.close()
    for connection in tuple(service.waiting):
        connection.close()
    clients = [client for lane in service.lanes.values() for client in lane.clients]
    deadline = loop.time() + service.settings.stop_timeout
    lots = max(int(_SPREAD * service.settings.stop_timeout / _STEP), 1)
    size = max(-(-len(clients) // lots), _LEAST)
    for start in range(0, len(clients), size):
        for client in clients[start : start + size]:
            if not client.gone:
                client.close(code, f"{reason}; resume with ?cursor={client.at}")
        await asyncio.sleep(_STEP)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await service.deserted.wait()
