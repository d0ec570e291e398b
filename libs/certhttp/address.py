"""Addresses as they are written: `host:port`, or `unix:<path>`."""

import errno
import ipaddress
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

UNIX: Final = "unix:"
_MODE: Final = 0o600
_LAST_PORT: Final = 65535


def listen(address: str) -> socket.socket:
    """Open an admin address.

    Args:
        address: `host:port`, an IPv6 address in brackets; or `unix:<path>`, where a socket that a
            dead process left is replaced, and nothing else.

    Raises:
        OSError: the address cannot be used.
        ValueError: it is neither.
    """
    if address.startswith(UNIX):
        path = Path(address.removeprefix(UNIX))
        _remove_socket(path)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        path.chmod(_MODE)
        listening.listen()
    else:
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdigit():
            raise ValueError(f"{address!r} is neither host:port nor unix:<path>")
        if int(port) > _LAST_PORT:
            raise OSError(f"{address!r}: ports end at {_LAST_PORT}")
        listening = open_port(host.removeprefix("[").removesuffix("]"), int(port))
    listening.setblocking(False)
    return listening


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the first address of a host to listen at, and of which family it is.

    `::` is every address, IPv6 and IPv4; where the kernel has no IPv6, it is every IPv4 address.

    Raises:
        OSError: the host has none.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104
    family, _, _, _, found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return family, found  # type: ignore[return-value]  # of IPv6 with two more items


def open_port(host: str, port: int, **options: Any) -> socket.socket:
    """Listen at the address that `resolve` returns.

    Args:
        host: a name or an address; `::` is every address, IPv6 and IPv4.
        port: 0 takes a free one.
        options: those of `socket.create_server` other than the family.

    Raises:
        OSError: the address cannot be used.
    """
    family, address = resolve(host, port)
    both = host == "::" and family == socket.AF_INET6
    return socket.create_server(address, family=family, dualstack_ipv6=both, **options)


def _remove_socket(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is not a socket", str(path))
        path.unlink()


def address_of(listening: socket.socket) -> str:
    """The address, as `listen` takes it, for others on this machine."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"{UNIX}{Path(name).absolute()}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_here(address: str) -> bool:
    """Whether an address is a unix socket or belongs to this machine.

    Every client of Redis can write the address of a process there, so it is not trusted.

    Args:
        address: as `address_of` gives it; a host name is no address of this machine.
    """
    if address.startswith(UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ipaddress.ip_address(host)), 0))  # only own addresses can be bound
    except (OSError, ValueError):
        return False
    return True
