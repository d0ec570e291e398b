"""The endpoints that subscribe: over WebSocket, or over server-sent events."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from certbus.ids import parse_cursor
from certhttp.protocol import Request
from gateway.http.errors import ErrorCode, disabled_response, error_response
from gateway.http.messages import Response, Subscription
from gateway.hub import Hub

LAST_EVENT_ID: Final = ("lastEventId", "Last-Event-ID")
"""Fields of the query in which clients that cannot set headers put the header Last-Event-ID:
polyfills of EventSource, and clients of the Mercure protocol."""

_SETTINGS: Final = {"full": "full", "lite": "lite", "domains": "domains_only"}


class Event(msgspec.Struct, frozen=True):
    """One server-sent event.

    Attributes:
        data: a message, as over WebSocket.
        id: of the message; heartbeats and gap messages have none.
        event: "message", the default, is not sent.
    """

    data: str
    id: str | UnsetType = UNSET
    event: str | UnsetType = UNSET


def websocket(hub: Hub, stream: str, request: Request) -> Response | Subscription:
    """Answer a request for a WebSocket."""
    return _subscription(hub, stream, request, request.query.get("cursor"))


def upgrade_required(request: Request) -> Response:
    """Answer a request for a page at a path that serves only WebSockets."""
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
    if stream not in _SETTINGS:
        return error_response(
            ErrorCode.UNKNOWN_STREAM,
            f"Unknown stream {stream[:40]!r}; expected full, lite or domains",
        )
    # A client that reconnects repeats the URL; what it adds is newer.
    cursors = [request.headers.get("last-event-id"), *map(request.query.get, LAST_EVENT_ID)]
    cursor = next(filter(None, cursors), request.query.get("cursor"))
    return _subscription(hub, stream, request, cursor)


def _subscription(
    hub: Hub, stream: str, request: Request, cursor: str | None
) -> Response | Subscription:
    if request.websocket and not hub.settings.websocket:
        return disabled_response("protocols.websocket")
    if stream not in hub.rings:
        return disabled_response(f"streams.{_SETTINGS[stream]}")
    try:
        parsed = None if cursor is None else parse_cursor(cursor)
    except ValueError as error:
        return error_response(ErrorCode.INVALID_CURSOR, f"Invalid cursor: {error}")
    return Subscription(stream, request.websocket, parsed)
