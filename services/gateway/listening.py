"""The address where clients connect."""

import socket
from typing import Final

from gateway.settings import Settings

BACKLOG: Final = 4096
_UNSENT: Final = 256 * 1024  # bytes the kernel holds for a client beyond what is on the way to it
_GRACE: Final = 30.0  # seconds


def listen(host: str, port: int) -> socket.socket:
    """Open the shared address; the kernel deals connections out to all who listen on it.

    `::` is every address, of IPv4 as well.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server(
        (host, port),
        family=family,
        backlog=BACKLOG,
        reuse_port=True,
        dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
    )


def tune(listening: socket.socket, settings: Settings) -> None:
    """Set what accepted connections inherit (tcp(7))."""
    listening.setblocking(False)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    # A vanished peer acknowledges nothing; one that reads nothing is told first.
    patience = int((settings.client_timeout + settings.close_timeout + _GRACE) * 1000)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)


def url_of(listening: socket.socket, scheme: str) -> str:
    """Spell where it listens as a URL."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
