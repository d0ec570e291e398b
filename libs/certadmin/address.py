"""Addresses as they are written: `host:port`, or `unix:<path>`."""

import socket
from pathlib import Path
from typing import Final

UNIX: Final = "unix:"
_MODE: Final = 0o600
_LAST_PORT: Final = 65535


def listen(address: str) -> socket.socket:
    """Open an admin address.

    Args:
        address: `host:port`, or `unix:<path>`; a socket that a dead process left there is replaced.

    Raises:
        OSError: it cannot be had.
        ValueError: it is neither.
    """
    if address.startswith(UNIX):
        path = Path(address.removeprefix(UNIX))
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        path.chmod(_MODE)
        listening.listen()
    else:
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdigit():
            raise ValueError(f"{address!r} is neither host:port nor unix:<path>")
        if int(port) > _LAST_PORT:
            raise OSError(f"{address!r}: ports end at {_LAST_PORT}")
        listening = socket.create_server((host.strip("[]"), int(port)))
    listening.setblocking(False)
    return listening


def address_of(listening: socket.socket) -> str:
    """The address, as `listen` takes it, for others on this machine."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"{UNIX}{Path(name).absolute()}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
