"""A request's head as h11 has parsed it -> what the router goes by. Pure."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from gateway.http.errors import ErrorCode
from gateway.http.messages import Request

_MAX_FIELDS: Final = 32
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ABSOLUTE: Final = re.compile(rb"https?://", re.IGNORECASE)


class UnacceptableError(ValueError):
    """A malformed request, after whose error response the connection is closed.

    Args:
        error: what is wrong, for people.
        code: of the error response.
    """

    def __init__(self, error: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(error)
        self.code = code


def parse_request(received: h11.Request, base_path: str) -> Request:
    """Make our request of h11's.

    What does not begin with the base path is taken as it is: probes inside need not know the path,
    and some proxies take it off.

    Raises:
        UnacceptableError: the request line, a header's value or the framing is malformed.
        ValueError: the query has too many fields.
    """
    _check(received)
    target = received.target.decode()
    if not target.startswith(("/", "*")):  # absolute-form (RFC 9112 section 3.2.2)
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
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise ValueError(f"Too many query fields; at most {_MAX_FIELDS} are accepted") from None
    for name, value in pairs:
        fields.setdefault(name, value)
    return Request(
        received.method.decode(),
        path,
        fields,
        headers,
        headers.get("upgrade", "").lower() == "websocket",
    )


def _check(received: h11.Request) -> None:
    """Refuse what h11 lets pass."""
    target, version = received.target, received.http_version
    if target == b"*":  # asterisk-form (RFC 9112 section 3.2.4)
        if received.method != b"OPTIONS":
            method = received.method.decode()
            raise UnacceptableError(f"Method {method} not allowed with the target *; use OPTIONS")
    elif not target.startswith(b"/") and not _ABSOLUTE.match(target):
        shown = target[:100].decode()
        error = f"Invalid request target {shown!r}; expected a path or an http:// or https:// URL"
        raise UnacceptableError(error)
    if not version.startswith(b"1."):  # RFC 9110 section 2.5
        error = f"HTTP/{version.decode()} is not supported; use HTTP/1.1"
        raise UnacceptableError(error, ErrorCode.VERSION_NOT_SUPPORTED)
    for name, value in received.headers:
        if _CONTROL.search(value):  # RFC 9110 section 5.5
            raise UnacceptableError(f"Header {name.decode()} contains a control character")
    # RFC 9112 section 6.1: whoever forwarded this may have seen another end of the request.
    names = {name for name, _ in received.headers}
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise UnacceptableError("Content-Length and Transfer-Encoding exclude each other")
        if version == b"1.0":
            raise UnacceptableError("HTTP/1.0 has no Transfer-Encoding")
