"""Clients that read too slowly, and when they are closed.

A paused client costs the rest of one write, and nothing else, so slow ones are left alone. But what
it holds must not be held for ever: one that has taken less than `SLOWEST` bytes a second of one
write over `client_timeout` is closed with a reason, and reset when it does not read even that. Its
last id stays valid for resuming.

How much a client has yet to take is what its transport holds and what the kernel has not had
acknowledged: a client's kernel acknowledges no more than it has room for, and has room as the
client reads.
"""

import array
import asyncio
import fcntl
import termios
from typing import TYPE_CHECKING, Final, cast

import msgspec
import structlog

from gateway.clients.base import Client, ClientRegistry
from gateway.delivery.ring_buffer import RingPosition

if TYPE_CHECKING:
    import socket

log = structlog.get_logger(__name__)

SLOWEST: Final = 256
"""Bytes a second: a hundredth of the smallest stream at its usual rate."""

_LOOKS: Final = 4  # at each client within its time
_POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1


class _Window(msgspec.Struct, frozen=True):
    """A time over which a client's rate is judged.

    Attributes:
        since: when it began, by the loop's clock.
        place: of the client then. Another place means that it has taken everything meanwhile.
        left: bytes it had yet to take then.
    """

    since: float
    place: RingPosition
    left: int


async def close_stalled_clients(registry: ClientRegistry, timeout_secs: float) -> None:
    """Close clients that read too slowly, until cancelled.

    Args:
        registry: of the clients.
        timeout_secs: time over which the rate of a client is measured.
    """
    clock = asyncio.get_running_loop().time
    windows: dict[Client, _Window] = {}
    while True:
        await asyncio.sleep(timeout_secs / _LOOKS)
        now = clock()
        before, windows = windows, {}
        for client in tuple(registry.paused):
            left = unacknowledged_bytes(client.transport)
            window = before.get(client)
            if window is None or window.place is not client.position:
                windows[client] = _Window(now, client.position, left)
            elif now - window.since < timeout_secs:
                windows[client] = window
            elif (taken := window.left - left) >= SLOWEST * timeout_secs:
                windows[client] = _Window(now, client.position, left)
            else:
                reason = f"client too slow: read {taken} bytes in {timeout_secs:g} s"
                reason = f"{reason}; resume with ?cursor={client.position}"
                log.debug("slow client closed", connection=client.connection_id, reason=reason)
                client.close(_POLICY_VIOLATION, reason)


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes written to a transport that its peer's kernel has not acknowledged."""
    connection = cast("socket.socket", transport.get_extra_info("socket"))
    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)  # SIOCOUTQ, see tcp(7)
    return count[0] + transport.get_write_buffer_size()
