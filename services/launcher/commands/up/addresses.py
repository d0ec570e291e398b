"""The address for clients, with its URLs; the address at which `up` probes a child."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from certconf import Config
from certhttp.address import UNIX, resolve
from certhttp.client import fetch
from launcher.runtime.supervisor import StartError

_PROBE_TIMEOUT_SECS: Final = 5.0
_MAX_PATH_BYTES: Final = 100  # the kernel's limit is 108 on Linux, 104 elsewhere
#: Addresses that mean "every interface" -> a host name for clients on this machine.
_WILDCARDS: Final = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104


def check_port_free(host: str, port: int) -> None:
    """Check, before anything starts, that gateways will be able to listen.

    They share the port with each other (SO_REUSEPORT); this check does not share it.

    Raises:
        StartError: they will not.
    """
    if (error := _try(host, port)) is None:
        return
    if isinstance(error, socket.gaierror):
        message = f"cannot resolve host {host}: {error.strerror}"
    elif error.errno == errno.EADDRINUSE:
        message = f"port {port} is in use: choose another with --port, or stop its owner"
    else:
        message = f"cannot listen on {host} port {port}: {error.strerror}"
    raise StartError(message)


def unusable(host: str, port: int) -> str | None:
    """Return why this machine can never listen there; None if it can, or already does."""
    error = _try(host, port)
    return None if error is None or error.errno == errno.EADDRINUSE else str(error.strerror)


def _try(host: str, port: int) -> OSError | None:
    """Bind the address and release it; return the error, if it cannot be bound."""
    try:
        family, address = resolve(host, port)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT
            if family == socket.AF_INET6:  # else `::` would meet a server of IPv4 alone
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            probe.bind(address)
    except OSError as error:
        return error
    return None


def urls(config: Config) -> Iterator[tuple[str, str]]:
    """Return the URLs for clients, each with a description."""
    host = _WILDCARDS.get(config.host, config.host)
    authority = f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}"
    base = authority + config.base_path.rstrip("/")
    streams = [
        ("/", "lite", "lite: without DER and chain", config.streams.lite),
        ("/full-stream", "full", "full: with DER and chain", config.streams.full),
        ("/domains-only", "domains", "domain names only", config.streams.domains_only),
        (
            "/v2",
            "v2",
            "v2: lite with what was verified",
            config.streams.v2 and (config.streams.lite or config.streams.full),
        ),
    ]
    offered = [stream for stream in streams if stream[-1]]
    secure = "s" if config.tls_cert else ""
    if config.protocols.websocket:
        for path, _, description, _ in offered:
            yield f"ws{secure}://{base}{path}", description
    if config.protocols.sse and offered:
        names = "|".join(name for _, name, _, _ in offered)
        yield f"http{secure}://{base}/sse", f"server-sent events; ?stream={names}"
    yield f"http{secure}://{base}/", "page for browsers: the live stream, examples"
    if config.protocols.health:
        yield f"http{secure}://{base}/health", "for load balancers"


class ProbeAddress:
    """The admin address of one process.

    Args:
        path: of its unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @property
    def fits(self) -> bool:
        """Whether the path is short enough for the kernel."""
        return len(os.fsencode(self._path)) <= _MAX_PATH_BYTES

    @property
    def as_argument(self) -> str:
        """The option of `certstream-server gateway` and `ingest`."""
        return f"--admin={UNIX}{self._path}"

    async def responds(self) -> bool:
        """Return whether the process answers a request for /health, with any status.

        A restart would not help one that is unhealthy because Redis is unavailable.
        """
        return await fetch(f"{UNIX}{self._path}", "/health", _PROBE_TIMEOUT_SECS) is not None
