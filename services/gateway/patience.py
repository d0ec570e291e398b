"""Clients that read nothing of what waits for them, and when to give them up.

A paused client costs the rest of one write, and nothing else, so slow ones are left alone. One
that takes not a byte for `client_timeout` is closed with a reason, and reset when it does not
read even that. Its last id stays valid for resuming.

How much a client has yet to take is what its transport holds and what the kernel has not had
acknowledged: a client's kernel acknowledges no more than it has room for, and has room as the
client reads.
"""

import array
import asyncio
import fcntl
import termios
from typing import TYPE_CHECKING, Final, cast

import structlog

from gateway.service import Service

if TYPE_CHECKING:
    import socket

    from gateway.client import Client

log = structlog.get_logger(__name__)

_LOOKS: Final = 4  # at each client within its time
_POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1


async def watch(service: Service) -> None:
    """Give up clients that read nothing, until cancelled."""
    timeout = service.settings.client_timeout
    clock = asyncio.get_running_loop().time
    seen: dict[Client, tuple[int, float]] = {}  # what it has yet to take, and since when
    while True:
        await asyncio.sleep(timeout / _LOOKS)
        now = clock()
        before, seen = seen, {}
        for client in tuple(service.paused):
            left = untaken(client.transport)
            then, since = before.get(client, (None, now))
            if left != then:
                since = now
            if now - since < timeout:
                seen[client] = left, since
            else:
                reason = f"read nothing for {timeout:g} s; resume with ?cursor={client.at}"
                log.debug("client given up", connection=client.number, reason=reason)
                client.close(_POLICY_VIOLATION, reason)


def untaken(transport: asyncio.Transport) -> int:
    """Bytes written to a transport that its peer's kernel has not acknowledged."""
    connection = cast("socket.socket", transport.get_extra_info("socket"))
    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)  # SIOCOUTQ, see tcp(7)
    return count[0] + transport.get_write_buffer_size()
