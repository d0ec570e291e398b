"""Close clients that read too slowly.

A paused client costs the rest of one write only, so slow clients stay connected. But that memory
has a time limit: a client that acknowledges fewer than `MIN_BYTES_PER_SEC` of one write over
`client_timeout` is closed with a reason, and aborted if it does not read the reason. Its last id
remains valid for resuming.

The bytes that a client has not read are those in its transport and those that its kernel has not
acknowledged: the kernel of a client acknowledges as many bytes as its receive buffer has room for.
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

MIN_BYTES_PER_SEC: Final = 256
"""One hundredth of the smallest stream at its usual rate."""

_CHECKS_PER_TIMEOUT: Final = 4
_POLICY_VIOLATION: Final = 1008  # RFC 6455 section 7.4.1


class _Window(msgspec.Struct, frozen=True):
    """A time over which the rate of a client is measured.

    Attributes:
        since: start, by the loop's clock, in seconds.
        position: of the client at the start. Another position means that the client has since
            read everything.
        left: bytes unacknowledged at the start.
    """

    since: float
    position: RingPosition
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
        await asyncio.sleep(timeout_secs / _CHECKS_PER_TIMEOUT)
        now = clock()
        before, windows = windows, {}
        for client in tuple(registry.paused):
            left = unacknowledged_bytes(client.transport)
            window = before.get(client)
            if window is None or window.position is not client.position:
                windows[client] = _Window(now, client.position, left)
            elif now - window.since < timeout_secs:
                windows[client] = window
            elif (read := window.left - left) >= MIN_BYTES_PER_SEC * timeout_secs:
                windows[client] = _Window(now, client.position, left)
            else:
                reason = f"client too slow: read {read} bytes in {timeout_secs:g} s"
                reason = f"{reason}; resume with {client.resume_hint}"
                log.debug("client closed", connection=client.connection_id, reason=reason)
                client.close(_POLICY_VIOLATION, reason)


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Return the bytes written to a transport that the kernel of its peer has not acknowledged.

    0 once the connection has ended.
    """
    connection = cast("socket.socket | None", transport.get_extra_info("socket"))
    if connection is None or connection.fileno() < 0:  # with TLS, also before `connection_lost`
        return 0
    count = array.array("i", [0])
    fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)  # SIOCOUTQ, see tcp(7)
    return count[0] + transport.get_write_buffer_size()
