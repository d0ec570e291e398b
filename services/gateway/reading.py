"""A request's head as h11 has parsed it -> what the router goes by. Pure."""

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from gateway.exchange import Request

_MAX_FIELDS: Final = 32


def read(received: h11.Request, base_path: str) -> Request:
    """Make our request of h11's.

    What does not begin with the base path is taken as it is: probes inside need not know the path,
    and some proxies take it off.

    Raises:
        ValueError: the query has too many fields.
    """
    target = received.target.decode()
    if "://" in target.partition("?")[0]:  # absolute-form (RFC 9112 section 3.2.2)
        split = urlsplit(target)
        target = f"{split.path or '/'}?{split.query}"
    path, _, query = target.partition("?")
    path = unquote(path)
    if base_path and f"{path}/".startswith(f"{base_path}/"):
        path = path.removeprefix(base_path)
    headers: dict[str, str] = {}
    for raw_name, raw_value in received.headers:
        name, value = raw_name.decode(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    fields: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS):
        fields.setdefault(name, value)
    return Request(
        received.method.decode(),
        path,
        fields,
        headers,
        headers.get("upgrade", "").lower() == "websocket",
    )
