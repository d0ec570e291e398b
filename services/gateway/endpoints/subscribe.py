"""The endpoints that subscribe: over WebSocket, or over server-sent events."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from certbus.ids import parse_cursor
from certhttp.protocol import Request
from ctfilter import Filter, FilterError, parse_filter
from ctfilter.lookalike import within_one_edit
from gateway.config import V2
from gateway.http.errors import ErrorCode, disabled_response, error_response, filter_response
from gateway.http.messages import FilterRequest, Response, Subscription
from gateway.hub import FilterRefused, Hub

LAST_EVENT_ID: Final = ("lastEventId", "Last-Event-ID")
"""Fields of the query in which clients that cannot set headers put the header Last-Event-ID:
polyfills of EventSource, and clients of the Mercure protocol."""

_PARAMETERS: Final = (
    *("domain", "issuer", "match", "filter", "cursor", "stream", "token"),
    *LAST_EVENT_ID,
)

MAX_REGEXES: Final = 20
"""Of `match` in the query, which is parsed on the event loop."""

_MEANT_AS_FILTER: Final = frozenset({
    "cn", "contains", "dns", "domains", "exclude", "filters", "host", "hostname", "idn",
    "include", "like", "name", "names", "operator", "org", "pattern", "q", "query", "regex", "san",
    "search", "type", "wildcard",
})  # fmt: skip
"""Names of parameters that other services have, or that keys of terms suggest."""

_SETTINGS: Final = {"full": "full", "lite": "lite", "domains": "domains_only", "v2": "v2"}


class Event(msgspec.Struct, frozen=True):
    """One server-sent event.

    Attributes:
        data: a message, as over WebSocket.
        id: of the message; gap messages have none. Without data, it is the position of the client,
            perhaps after a whole batch (`<ms>-<seq>`).
        event: "message", the default, is not sent.
    """

    data: str
    id: str | UnsetType = UNSET
    event: str | UnsetType = UNSET


def websocket(hub: Hub, stream: str, request: Request) -> Response | Subscription:
    """Answer a request for a WebSocket."""
    cursor = request.query.get("cursor")
    return _subscription(hub, stream, request, [] if cursor is None else [cursor])


def upgrade_required(hub: Hub, request: Request) -> Response:
    """Answer a request for a page at a path that serves only WebSockets."""
    wanted = filter_request(hub, request)
    if isinstance(wanted, Response):
        return wanted
    return invalid_cursor(request) or error_response(
        ErrorCode.UPGRADE_REQUIRED,
        f"{request.path} is a WebSocket; connect with ws:// or wss://",
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
    )


def invalid_cursor(request: Request) -> Response | None:
    """Return an error response if the query has an invalid cursor; else None."""
    try:
        parse_cursor(request.query.get("cursor", "0"))
    except ValueError as error:
        return error_response(ErrorCode.INVALID_CURSOR, f"Invalid cursor: {error}")
    return None


def events(hub: Hub, request: Request) -> Response | Subscription:
    """Answer a request for server-sent events."""
    stream = request.query.get("stream", "lite")
    stream = "domains" if stream == "domains-only" else stream
    if stream not in _SETTINGS:
        return error_response(
            ErrorCode.UNKNOWN_STREAM,
            f"Unknown stream {stream[:40]!r}; expected full, lite, domains or v2",
        )
    # A client that reconnects repeats the URL; what it adds is newer.
    given = [request.headers.get("last-event-id"), *map(request.query.get, LAST_EVENT_ID)]
    cursors = [text for text in given if text]
    if (cursor := request.query.get("cursor")) is not None:
        cursors.append(cursor)
    return _subscription(hub, stream, request, cursors)


def _subscription(
    hub: Hub, stream: str, request: Request, cursors: Sequence[str]
) -> Response | Subscription:
    """Return the subscription of a request, or the error response.

    Args:
        hub: the streams.
        stream: its name.
        request: the request.
        cursors: where to resume; the first one counts, but all must be valid.
    """
    if request.websocket and not hub.settings.websocket:
        return disabled_response("protocols.websocket")
    if stream not in hub.rings:
        setting = "lite" if stream == V2 and hub.settings.v2 else _SETTINGS[stream]
        return disabled_response(f"streams.{setting}")
    try:
        parsed = [parse_cursor(cursor) for cursor in cursors]
    except ValueError as error:
        return error_response(ErrorCode.INVALID_CURSOR, f"Invalid cursor: {error}")
    requested = filter_request(hub, request)
    if isinstance(requested, Response):
        return requested
    try:
        wanted = hub.resolve(requested)
        hub.source_of(stream, wanted)
    except FilterRefused as refused:
        return error_response(refused.code, str(refused))
    cursor = parsed[0] if parsed else None
    return Subscription(stream, request.websocket, cursor, wanted, requested)


def filter_request(hub: Hub, request: Request) -> FilterRequest | Response:
    """Return the filters of a request, or the response if one is not valid."""
    if (refusal := _unknown_parameter(request)) is not None:
        return refusal
    try:
        return FilterRequest(named_filters(hub, request), _parse(request.fields))
    except FilterError as error:
        return filter_response(error)


def named_filters(hub: Hub, request: Request) -> tuple[str, ...]:
    """Return the names of the named filters of a request, without repeats.

    Raises:
        FilterError: no filter has one of the names.
    """
    names = dict.fromkeys(value for name, value in request.fields if name == "filter")
    for name in names:
        if name not in hub.settings.filters:
            raise FilterError("there is no filter of this name", name, name, 0, parameter="filter")
    return tuple(names)


def _parse(fields: Sequence[tuple[str, str]]) -> Filter | None:
    given: dict[str, list[str]] = {"domain": [], "issuer": [], "match": []}
    for name, value in fields:
        if name in given:
            given[name].append(value)
    for name in ("domain", "issuer"):
        if len(given[name]) > 1:
            second = given[name][1]
            raise FilterError("the parameter is given twice", second, second, 0, parameter=name)
    domain, issuer = "".join(given["domain"]), "".join(given["issuer"])
    return parse_filter(domain, issuer, given["match"], max_regexes=MAX_REGEXES)


def _unknown_parameter(request: Request) -> Response | None:
    """Refuse a parameter that may be meant as a filter, so that no client gets all messages."""
    for name, _ in request.fields:
        plain = name.lower().removesuffix("[]")
        is_meant = plain in _MEANT_AS_FILTER or plain.removesuffix("s") in _MEANT_AS_FILTER
        if name in _PARAMETERS or not (is_meant or _near(plain)):
            continue
        near = f"; did you mean {_near(plain)}?" if _near(plain) else ""
        error = f"Unknown parameter {name[:40]!r}; filters are domain, issuer, match, filter{near}"
        return error_response(ErrorCode.UNKNOWN_PARAMETER, error)
    return None


def _near(name: str) -> str:
    """Return the parameter of which a name is at most one edit away; "" if there is none."""
    return next((known for known in _PARAMETERS if within_one_edit(known, name)), "")
