"""Outcomes of requests, and common headers. Pure: no connection, no clock."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from certbus.ids import Cursor
from certhttp.protocol import Request
from ctfilter import Filter

JSON: Final = ("Content-Type", "application/json")
TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")

CORS_HEADERS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    (
        "Access-Control-Expose-Headers",
        "ETag, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After",
    ),
)
"""Scripts of any origin may read the response and these headers (Fetch standard)."""

CORS: Final = "Access-Control-"
"""Prefix of the headers that state which origins may read a response."""

NO_STORE: Final = ("Cache-Control", "no-store")
"""No cache may store the response."""

METHODS: Final = "GET, HEAD, OPTIONS"


class Response(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class FilterRequest(msgspec.Struct, frozen=True):
    """The filters that a client requests; all must hold.

    Attributes:
        names: of named filters.
        own: of the client's own terms; None without any.
    """

    names: tuple[str, ...] = ()
    own: Filter | None = None


NO_FILTERS: Final = FilterRequest()


class Subscription(msgspec.Struct, frozen=True):
    """The connection becomes a client.

    Attributes:
        stream: its name.
        websocket: whether over WebSocket; else over server-sent events.
        cursor: where to resume; None: begin with the next message.
        filter: which messages the client receives; None for all.
        requested: the parts of the filter.
    """

    stream: str
    websocket: bool
    cursor: Cursor | None
    filter: Filter | None = None
    requested: FilterRequest = NO_FILTERS


class DeferredResponse(msgspec.Struct, frozen=True):
    """A response that depends on Redis or on other processes.

    Attributes:
        respond: returns the response.
        headers: added to it.
    """

    respond: Callable[[], Awaitable[Response]]
    headers: tuple[tuple[str, str], ...] = ()


Outcome = Response | DeferredResponse | Subscription


def without_base_path(request: Request, base_path: str) -> Request:
    """Return a request with its path relative to `base_path`.

    Other paths stay: health checks may not know the base path, and some proxies remove it.
    """
    if not base_path or not f"{request.path}/".startswith(f"{base_path}/"):
        return request
    return msgspec.structs.replace(request, path=request.path.removeprefix(base_path))


def json_body(value: object) -> Response:
    """Return a response with a value as JSON."""
    return Response(200, (JSON, *CORS_HEADERS), msgspec.json.encode(value))


def cors_preflight() -> Response:
    """Permit requests of scripts of other origins (Fetch standard, section 3.3)."""
    return Response(
        204,
        (
            *CORS_HEADERS,
            ("Allow", METHODS),
            ("Access-Control-Allow-Methods", METHODS),
            ("Access-Control-Allow-Headers", "Authorization, *"),  # * is all but Authorization
            ("Access-Control-Max-Age", "86400"),
        ),
        b"",
    )
