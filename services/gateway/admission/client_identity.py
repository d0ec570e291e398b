"""Where a request comes from.

X-Forwarded-For is written by whoever sends the request, and each proxy on the way adds the address
it was reached from at the right. So it is read from the right, and believed only as far as a
trusted proxy vouches for it: the first address that is none of a trusted proxy is the client's.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import msgspec

from certconf import Network
from gateway.admission.credentials import TokenOwner

Address = IPv4Address | IPv6Address

_SITE: Final = 64  # bits of an IPv6 address that its site was given (RFC 6177)


class ClientIdentity(msgspec.Struct, frozen=True, gc=False):
    """Who is asking.

    Attributes:
        site: the client's address, or the network of its site if that is IPv6: one client there
            has 2**64 addresses.
        holder: of the token that came with the request; None if none was needed.
    """

    address_group: str
    owner: TokenOwner | None = None

    @property
    def tier(self) -> str:
        """Which rate this is."""
        return "free" if self.owner is None else self.owner.tier

    @property
    def key(self) -> str:
        """Whose rate this is (see `certbus/keys.py`)."""
        return f"address:{self.address_group}" if self.owner is None else f"token:{self.owner.name}"


def client_address(peer: str, forwarded: str | None, trusted: Sequence[Network]) -> Address:
    """The address of a client.

    Args:
        peer: of the connection.
        forwarded: X-Forwarded-For, all of them joined by commas.
        trusted: proxies.

    Raises:
        ValueError: `peer` is no address.
    """
    address = _address(peer)
    for hop in reversed((forwarded or "").split(",")):
        if not is_within(address, trusted):
            break
        try:
            address = _address(_without_port(hop.strip()))
        except ValueError:  # "unknown", or nonsense: whoever reached the proxy that wrote it
            break
    return address


def address_group(address: Address) -> str:
    """What one client is counted by."""
    if isinstance(address, IPv4Address):
        return str(address)
    prefix = int(address) >> (128 - _SITE) << (128 - _SITE)
    return f"{IPv6Address(prefix)}/{_SITE}"


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has it."""
    return any(address in network for network in networks)


def _address(text: str) -> Address:
    """Read an address, and see through IPv4 addresses that a dual-stack socket shows as IPv6."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    return address


def _without_port(hop: str) -> str:
    """Some proxies write `192.0.2.1:1234` and `[2001:db8::1]:1234`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
