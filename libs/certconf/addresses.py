"""Networks and host names in settings."""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_MAX_CHARS: Final = 253  # RFC 1035 section 2.3.4


class Network:
    """An address, or all with a common prefix: `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32`."""

    __slots__ = ("_network",)

    def __init__(self, text: str) -> None:
        """Parse an address with or without a prefix length; bits after the prefix are ignored.

        Raises:
            ValueError: it is not one.
        """
        self._network = ip_network(text, strict=False)

    def __contains__(self, address: IPv4Address | IPv6Address) -> bool:
        return address in self._network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._network == other._network

    def __hash__(self) -> int:
        return hash(self._network)

    def __str__(self) -> str:
        return str(self._network)

    def __repr__(self) -> str:
        return f"Network({str(self)!r})"


def is_host(text: str) -> bool:
    """Return whether a text is an address (IPv6 without brackets) or a host name in ASCII.

    Underscores are valid, as names of containers have them. A name that is not ASCII needs the form
    of the DNS (`xn--…`).
    """
    try:
        ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        return len(text) <= _MAX_CHARS and all(_LABEL.fullmatch(label) for label in labels)
    return True
