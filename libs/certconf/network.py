"""Networks of allow-lists and lists of proxies."""

from ipaddress import IPv4Address, IPv6Address, ip_network


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
