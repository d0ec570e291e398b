"""Names and addresses of hosts in settings."""

import re
from ipaddress import ip_address
from typing import Final

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_MAX_CHARS: Final = 253  # RFC 1035 section 2.3.4


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
