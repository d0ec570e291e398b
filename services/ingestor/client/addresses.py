"""Which addresses a log may make an ingestor connect to.

A log chooses where it redirects to, and the publisher of a log list chooses the URLs in it. Neither
may make an ingestor request a server inside the operator's network and show its answer as an error:

    configured URL    any address: the operator chose it
    redirect          a public address, or any if the server that redirects is itself inside
    listed URL        a public address, or any if the list's server is inside, or the list a file

"Inside" is every address that is not globally reachable (IANA's special-purpose registries):
loopback, link-local, private, shared. Names are resolved before a connection is opened, and the
address that was connected to is checked before anything is sent, so a name that resolves to
another address the second time gains nothing. Guarded requests have a connection pool of their
own: none of them ever uses a connection that was opened without these checks. A proxy that the
environment names resolves names itself, so there only a host that is an address can be checked.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from ingestor.client.connections import ConnectionPool

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]
"""What httpcore awaits at each step of a request (its "trace" extension)."""

FILE = "file"
"""In place of the URL of a log list that was read from a file."""

# RFC 6052 section 2.1: an IPv4 address is the last four bytes.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddress(Exception):
    """A guarded request leads to an address that is not globally reachable."""


class HttpClients:
    """The two connection pools that all logs of a process share.

    Args:
        make: makes a client with one connection.

    Attributes:
        trusted: for URLs that may lead inside.
        guarded: for all others; every request needs the extension `guard` makes.
    """

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self.trusted = ConnectionPool(make)
        self.guarded = ConnectionPool(make)
        self._proxies = {urlsplit(proxy).hostname for proxy in getproxies().values()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pool in (self.trusted, self.guarded):
            await pool.aclose()

    def guard(self, url: str) -> Mapping[str, Trace]:
        """Return the request extensions that check the address of `url`.

        Raises:
            ForbiddenAddress: the host is an address inside.
        """
        host = httpx.URL(url).host
        if _is_address(host) and is_inside(host):
            raise ForbiddenAddress
        by_proxy = False

        async def check(event: str, info: dict[str, Any]) -> None:
            nonlocal by_proxy
            if event == "connection.connect_tcp.started":
                by_proxy = info["host"] in self._proxies
                if not by_proxy and await leads_inside(info["host"]):
                    raise ForbiddenAddress
            elif event == "connection.connect_tcp.complete" and not by_proxy:
                stream = info["return_value"]
                if is_inside(stream.get_extra_info("server_addr")[0]):
                    await stream.aclose()
                    raise ForbiddenAddress

        return {"trace": check}


def is_inside(address: str) -> bool:
    """Whether an IP address is not globally reachable."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        if inner is not None:
            ip = inner
    return not ip.is_global or ip.is_multicast


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def leads_inside(host: str) -> bool:
    """Whether a host is, or resolves to, an address inside; False if it cannot be resolved."""
    if _is_address(host):
        return is_inside(host)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(is_inside(str(address[0])) for *_, address in found)
