"""The socket to which services send notifications, as systemd reads it."""

import socket
from pathlib import Path


class ServiceManager:
    """Receives notifications, with a watchdog interval of 1.5 s.

    Args:
        path: of the socket.

    Attributes:
        environment: variables for the service.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self._states: list[str] = []
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1500000"}

    def received(self) -> list[str]:
        """Return every state so far; the first line of each."""
        while True:
            try:
                self._states.append(self._socket.recv(4096).decode().splitlines()[0])
            except BlockingIOError:
                return self._states
