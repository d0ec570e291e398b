"""Where clients connect, and whether that is free."""

import errno
import socket
from collections.abc import Iterator
from typing import Final

from certconf import Config
from certhttp.address import resolve

#: Addresses that mean "every interface", and what a person on this machine calls them.
_ANY: Final = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104


class PortInUse(Exception):
    """Clients could not connect where the configuration says; says why, and what to do."""


def check_port_free(host: str, port: int) -> None:
    """Find out before anything starts whether gateways will be able to listen.

    They share the port among each other (SO_REUSEPORT); this asks without sharing.

    Raises:
        TakenError: they will not.
    """
    if (error := _try(host, port)) is None:
        return
    if isinstance(error, socket.gaierror):
        message = f"host {host} cannot be resolved: {error.strerror}"
    elif error.errno == errno.EADDRINUSE:
        message = f"port {port} is in use: choose another with --port, or stop its owner"
    else:
        message = f"cannot listen on {host} port {port}: {error.strerror}"
    raise PortInUse(message)


def unusable(host: str, port: int) -> str | None:
    """Say why this machine can never listen there; None if it can, or does already."""
    error = _try(host, port)
    return None if error is None or error.errno == errno.EADDRINUSE else str(error.strerror)


def _try(host: str, port: int) -> OSError | None:
    """Bind the address for a moment, and return why not."""
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
    """What to connect to: the URL, and what is there."""
    host = _ANY.get(config.host, config.host)
    place = f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}"
    place += config.base_path.rstrip("/")
    streams = [
        ("/", "lite", "lite: without DER and chain", config.streams.lite),
        ("/full-stream", "full", "full: with DER and chain", config.streams.full),
        ("/domains-only", "domains", "only the names", config.streams.domains_only),
    ]
    offered = [stream for stream in streams if stream[-1]]
    secure = "s" if config.tls_cert else ""
    if config.protocols.websocket:
        for path, _, what, _ in offered:
            yield f"ws{secure}://{place}{path}", what
    if config.protocols.sse and offered:
        names = "|".join(name for _, name, _, _ in offered)
        yield f"http{secure}://{place}/sse", f"server-sent events; ?stream={names}"
    if config.protocols.health:
        yield f"http{secure}://{place}/health", "for load balancers"
