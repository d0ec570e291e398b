"""The client of a request: its address, and the owner of its token.

Any client can send X-Forwarded-For, and each proxy appends the address of its peer at the right. So
the gateway reads the header from the right: the first address that is not one of a trusted proxy is
the address of the client.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import msgspec

from certconf import Network
from gateway.admission.credentials import TokenOwner

Address = IPv4Address | IPv6Address

_SITE_PREFIX_BITS: Final = 64  # of an IPv6 address: the prefix of one site (RFC 6177)


class ClientIdentity(msgspec.Struct, frozen=True, gc=False):
    """The client of a request, as limits count it.

    Attributes:
        address_group: the IPv4 address, or the /64 network of an IPv6 address: one client there has
            2**64 addresses.
        owner: of the token of the request; None if the request needs none.
    """

    address_group: str
    owner: TokenOwner | None = None

    @property
    def tier(self) -> str:
        """Tier of the rate limit."""
        return "free" if self.owner is None else self.owner.tier

    @property
    def key(self) -> str:
        """Key of the rate limit (see `certbus/keys.py`)."""
        return f"address:{self.address_group}" if self.owner is None else f"token:{self.owner.name}"


def client_address(peer: str, forwarded: str | None, trusted: Sequence[Network]) -> Address:
    """Return the address of a client.

    Args:
        peer: address of the connection's peer.
        forwarded: all X-Forwarded-For headers, joined by commas.
        trusted: networks of the trusted proxies.

    Raises:
        ValueError: `peer` is not an address.
    """
    address = _address(peer)
    for hop in reversed((forwarded or "").split(",")):
        if not is_within(address, trusted):
            break
        try:
            address = _address(_without_port(hop.strip()))
        except ValueError:  # "unknown" or malformed: the proxy that wrote it is the client
            break
    return address


def address_group(address: Address) -> str:
    """Return the group by which limits count an address."""
    if isinstance(address, IPv4Address):
        return str(address)
    prefix = int(address) >> (128 - _SITE_PREFIX_BITS) << (128 - _SITE_PREFIX_BITS)
    return f"{IPv6Address(prefix)}/{_SITE_PREFIX_BITS}"


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks contains the address."""
    return any(address in network for network in networks)


def _address(text: str) -> Address:
    """Parse an address; return an IPv4-mapped IPv6 address as IPv4."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    return address


def _without_port(hop: str) -> str:
    """Remove the port, as in `192.0.2.1:1234` and `[2001:db8::1]:1234`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
