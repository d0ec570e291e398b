"""Requests that make the connection a client: of WebSocket, or of server-sent events."""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from certbus.ids import parse_cursor
from gateway.http.messages import Answer, Request, Subscription, disabled, refuse
from gateway.hub import Service

LAST_EVENT_ID: Final = ("lastEventId", "Last-Event-ID")
"""Fields of the query in which clients that cannot set headers put the header Last-Event-ID:
polyfills of EventSource, and clients of the Mercure protocol."""

_SETTINGS: Final = {"full": "full", "lite": "lite", "domains": "domains_only"}


class Event(msgspec.Struct, frozen=True):
    """One server-sent event.

    Attributes:
        data: a message, as a WebSocket gets it.
        id: the message's; what is no certificate has none.
        event: always "message", which is not sent.
    """

    data: str
    id: str | UnsetType = UNSET
    event: str | UnsetType = UNSET


def websocket(service: Service, stream: str, request: Request) -> Answer | Subscription:
    """Answer who asks for a WebSocket."""
    return _subscription(service, stream, request, request.query.get("cursor"))


def not_a_page(request: Request) -> Answer:
    """Answer who asks for a page where there is only a WebSocket."""
    return wrong_cursor(request) or refuse(
        426,
        f"{request.path} is a WebSocket: connect with ws:// or wss://",
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
    )


def wrong_cursor(request: Request) -> Answer | None:
    """Refuse a cursor that is none, whatever it would be for."""
    try:
        parse_cursor(request.query.get("cursor", "0"))
    except ValueError as error:
        return refuse(400, str(error))
    return None


def events(service: Service, request: Request) -> Answer | Subscription:
    """Answer who asks for server-sent events."""
    stream = request.query.get("stream", "lite")
    if stream not in _SETTINGS:
        return refuse(400, f"stream={stream[:40]} is none of full, lite, domains")
    # A client that reconnects repeats the URL; what it adds is newer.
    said = [request.headers.get("last-event-id"), *map(request.query.get, LAST_EVENT_ID)]
    cursor = next(filter(None, said), request.query.get("cursor"))
    return _subscription(service, stream, request, cursor)


def _subscription(
    service: Service, stream: str, request: Request, cursor: str | None
) -> Answer | Subscription:
    if request.websocket and not service.settings.websocket:
        return disabled("protocols.websocket")
    if stream not in service.rings:
        return disabled(f"streams.{_SETTINGS[stream]}")
    try:
        parsed = None if cursor is None else parse_cursor(cursor)
    except ValueError as error:
        return refuse(400, str(error))
    return Subscription(stream, request.websocket, parsed)
