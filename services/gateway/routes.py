"""A request -> what to do about it. Pure: no connection, no clock."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from certbus.ids import Cursor, parse_cursor
from gateway.pages import INDEX, SAMPLES
from gateway.ring import Ring
from gateway.settings import Settings

_METHODS: Final = "GET, HEAD, OPTIONS"

_JSON: Final = ("Content-Type", "application/json")
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_OPEN: Final = ("Access-Control-Allow-Origin", "*")

_WEBSOCKETS: Final = {"/": "lite", "/full-stream": "full", "/domains-only": "domains"}
_EXAMPLES: Final = {
    "/example.json": "full",
    "/full-stream/example.json": "full",
    "/domains-only/example.json": "domains",
}
_STREAM_SETTINGS: Final = {"full": "full", "lite": "lite", "domains": "domains_only"}


class Request(msgspec.Struct, frozen=True):
    """A request's head.

    Attributes:
        method: as sent.
        path: decoded, without the query.
        query: its first value of each name.
        headers: names in lower case; the values of each joined by commas.
        websocket: whether the client asks for a WebSocket.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    websocket: bool = False


class Answer(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Subscription(msgspec.Struct, frozen=True):
    """The connection becomes a client.

    Attributes:
        stream: what it reads.
        websocket: a WebSocket client, else an SSE client.
        cursor: what it has already; None to begin with what comes next.
    """

    stream: str
    websocket: bool
    cursor: Cursor | None


class Later(msgspec.Struct, frozen=True):
    """An answer that others have to be asked for.

    Attributes:
        ask: gets it.
        headers: to be added to it.
    """

    ask: Callable[[], Awaitable[Answer]]
    headers: tuple[tuple[str, str], ...] = ()


Outcome = Answer | Later | Subscription
Router = Callable[[Request], Outcome]


class Routes:
    """The public address.

    Args:
        settings: what is offered.
        rings: by stream, for recent messages.
        metrics: of all gateways here.
        health: of the whole service.
    """

    def __init__(
        self,
        settings: Settings,
        rings: Mapping[str, Ring],
        *,
        metrics: Callable[[], Awaitable[Answer]],
        health: Callable[[], Awaitable[Answer]],
    ) -> None:
        self._metrics = Later(metrics)
        self._deep_health = Later(health)
        self._settings = settings
        self._rings = rings
        self._handlers: dict[str, Router] = {
            "/": lambda _: Answer(200, (_TEXT,), INDEX),
            "/sse": self._sse,
            "/health": self._health,
            "/health/deep": self._deeply,
            "/metrics": self._measure,
            **dict.fromkeys(_EXAMPLES, self._example),
            **dict.fromkeys(_WEBSOCKETS.keys() - {"/"}, _not_a_page),
        }

    def change(self, settings: Settings) -> None:
        """Offer something else from now on."""
        self._settings = settings

    def respond(self, request: Request) -> Outcome:
        """Decide about a request."""
        if request.method == "OPTIONS":
            return _preflight()
        if request.method not in ("GET", "HEAD"):
            return refuse(405, f"{request.method} is not possible here", ("Allow", _METHODS))
        if request.websocket and request.path in _WEBSOCKETS:
            return self._websocket(request)
        handler = self._handlers.get(request.path)
        if handler is None:
            return refuse(404, f"there is nothing at {request.path[:200]}: / says what there is")
        return handler(request)

    def _websocket(self, request: Request) -> Answer | Subscription:
        if not self._settings.websocket:
            return _disabled("protocols.websocket")
        return self._subscription(_WEBSOCKETS[request.path], request, request.query.get("cursor"))

    def _sse(self, request: Request) -> Answer | Subscription:
        if not self._settings.sse:
            return _disabled("protocols.sse")
        stream = request.query.get("stream", "lite")
        if stream not in _STREAM_SETTINGS:
            return refuse(400, f"stream={stream[:40]} is none of full, lite, domains")
        # A browser that reconnects repeats the URL; its header is newer.
        cursor = request.headers.get("last-event-id") or request.query.get("cursor")
        return self._subscription(stream, request, cursor)

    def _subscription(
        self, stream: str, request: Request, cursor: str | None
    ) -> Answer | Subscription:
        if stream not in self._rings:
            return _disabled(f"streams.{_STREAM_SETTINGS[stream]}")
        try:
            parsed = None if cursor is None else parse_cursor(cursor)
        except ValueError as error:
            return refuse(400, str(error))
        return Subscription(stream, request.websocket, parsed)

    def _health(self, _: Request) -> Answer:
        if not self._settings.health:
            return _disabled("protocols.health")
        return Answer(200, (_TEXT, _OPEN), b"OK")

    def _deeply(self, _: Request) -> Answer | Later:
        return self._deep_health if self._settings.health else _disabled("protocols.health")

    def _measure(self, _: Request) -> Answer | Later:
        return self._metrics if self._settings.metrics else _disabled("protocols.metrics")

    def _example(self, request: Request) -> Answer:
        if not self._settings.example_json:
            return _disabled("protocols.example_json")
        stream = _EXAMPLES[request.path]
        ring = self._rings.get(stream)
        newest = ring.newest if ring is not None else None
        if newest is None:
            return Answer(200, (_JSON, _OPEN), SAMPLES[stream])
        number, message = newest
        return Answer(200, (_JSON, _OPEN), b'{"id":"%b",%b' % (number.encode(), message[1:]))


def refuse(status: int, error: str, *headers: tuple[str, str]) -> Answer:
    """An error, said in JSON."""
    return Answer(status, (_JSON, _OPEN, *headers), msgspec.json.encode({"error": error}))


def _not_a_page(request: Request) -> Answer:
    return refuse(
        426,
        f"{request.path} is a WebSocket: connect with ws:// or wss://",
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
    )


def _disabled(setting: str) -> Answer:
    return refuse(404, f"switched off on this server ({setting})")


def _preflight() -> Answer:
    """Let scripts of other origins ask (Fetch standard, section 3.3)."""
    return Answer(
        204,
        (
            _OPEN,
            ("Allow", _METHODS),
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", "*"),
            ("Access-Control-Max-Age", "86400"),
        ),
        b"",
    )
