"""Where clients connect, and whether that is free."""

import errno
import socket
from collections.abc import Iterator
from typing import Final

from certconf import Config

#: Addresses that mean "every interface", and what a person on this machine calls them.
_ANY: Final = {"0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104


class TakenError(Exception):
    """Clients could not connect where the configuration says; says why, and what to do."""


def check_free(host: str, port: int) -> None:
    """Find out before anything starts whether gateways will be able to listen.

    They share the port among each other (SO_REUSEPORT); this asks without sharing.

    Raises:
        TakenError: they will not.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise TakenError(f"host {host} cannot be resolved: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                message = f"port {port} is in use: choose another with --port, or stop its owner"
            else:
                message = f"cannot listen on {host} port {port}: {error.strerror}"
            raise TakenError(message) from None


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
