"""The address of this one process, beside the one that it shares with others.

Whoever supervises it asks here whether it still answers (/health); whoever sends it clients,
whether it can serve them (/ready); Prometheus, what it does (/metrics).
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.metrics import CONTENT_TYPE
from gateway.routes import Answer, Request, refuse

UNIX: Final = "unix:"
_MODE: Final = 0o600
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_PATHS: Final = "/health, /ready, /metrics"


class AdminRoutes:
    """What can be asked of one process.

    Args:
        metrics: writes them.
        unready: why new clients should go elsewhere; None if they need not.
    """

    def __init__(self, metrics: Callable[[], bytes], unready: Callable[[], str | None]) -> None:
        self._metrics = metrics
        self._unready = unready

    def respond(self, request: Request) -> Answer:
        """Decide about a request."""
        if request.method not in ("GET", "HEAD"):
            return refuse(405, f"{request.method} is not possible here", ("Allow", "GET, HEAD"))
        match request.path:
            case "/health":
                return Answer(200, (_TEXT,), b"OK")
            case "/ready":
                why = self._unready()
                return Answer(503 if why else 200, (_TEXT,), (why or "OK").encode())
            case "/metrics":
                return Answer(200, (("Content-Type", CONTENT_TYPE),), self._metrics())
            case path:
                return refuse(404, f"there is nothing at {path[:200]}: see {_PATHS}")


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
