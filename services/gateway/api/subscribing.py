"""Requests that make the connection a client: of WebSocket, or of server-sent events."""

from typing import Final

from certbus.ids import parse_cursor
from gateway.exchange import Answer, Request, Subscription, disabled, refuse
from gateway.service import Service

_SETTINGS: Final = {"full": "full", "lite": "lite", "domains": "domains_only"}


def websocket(service: Service, stream: str, request: Request) -> Answer | Subscription:
    """Answer who asks for a WebSocket."""
    if not service.settings.websocket:
        return disabled("protocols.websocket")
    return _subscription(service, stream, request, request.query.get("cursor"))


def not_a_page(request: Request) -> Answer:
    """Answer who asks for a page where there is only a WebSocket."""
    return refuse(
        426,
        f"{request.path} is a WebSocket: connect with ws:// or wss://",
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
    )


def events(service: Service, request: Request) -> Answer | Subscription:
    """Answer who asks for server-sent events."""
    stream = request.query.get("stream", "lite")
    if stream not in _SETTINGS:
        return refuse(400, f"stream={stream[:40]} is none of full, lite, domains")
    # A browser that reconnects repeats the URL; its header is newer.
    cursor = request.headers.get("last-event-id") or request.query.get("cursor")
    return _subscription(service, stream, request, cursor)


def _subscription(
    service: Service, stream: str, request: Request, cursor: str | None
) -> Answer | Subscription:
    if stream not in service.rings:
        return disabled(f"streams.{_SETTINGS[stream]}")
    try:
        parsed = None if cursor is None else parse_cursor(cursor)
    except ValueError as error:
        return refuse(400, str(error))
    return Subscription(stream, request.websocket, parsed)
