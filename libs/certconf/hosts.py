"""Names and addresses of hosts, as settings have them."""

import re
from ipaddress import ip_address
from typing import Final

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_LONGEST: Final = 253  # characters (RFC 1035 section 2.3.4)


def is_host(text: str) -> bool:
    """Whether a resolver takes a text: an address (IPv6 without brackets), or a name in ASCII.

    Underscores are part of names of containers. A name that is not ASCII has to be given as it
    is in the DNS (`xn--…`).
    """
    try:
        ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        return len(text) <= _LONGEST and all(_LABEL.fullmatch(label) for label in labels)
    return True
