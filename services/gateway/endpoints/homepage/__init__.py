"""The landing page at `/`: endpoints and how to connect.

HTML for browsers, text for other clients. The page shows the stream live, with a filter. It loads
nothing but that stream, and its links are relative, so that it works with every path prefix; an
inline script inserts the address it was loaded from.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Final

from certhttp.protocol import Request
from gateway.endpoints.router import Route
from gateway.endpoints.subscribe import invalid_cursor
from gateway.http.messages import TEXT, Response
from gateway.hub import Hub


def _read(name: str) -> str:
    return (files("gateway.endpoints.homepage") / name).read_text("utf-8")


_STYLE: Final = _read("style.css")
_SCRIPT: Final = _read("script.js")
_LIVE: Final = _read("live.html")
_TEMPLATE: Final = (
    _read("index.html").replace("/* style.css */", _STYLE).replace("/* script.js */", _SCRIPT)
)

_SNIPPETS: Final = (
    (
        "Python",
        "websocket",
        """\
import certstream  # pip install certstream

def on_message(message, context):
    if message["message_type"] == "certificate_update":
        print(message["data"]["leaf_cert"]["all_domains"])

certstream.listen_for_events(on_message, url="ws://localhost:8080/")""",
    ),
    ("Command line, WebSocket", "websocket", "websocat 'ws://localhost:8080/domains-only'"),
    (
        "Command line, server-sent events",
        "sse",
        "curl -N 'http://localhost:8080/sse?stream=domains'",
    ),
    (
        "Browser",
        "sse",
        """\
const events = new EventSource("http://localhost:8080/sse?stream=domains");
events.onmessage = (event) => console.log(JSON.parse(event.data).data);""",
    ),
)
"""Title, what of the settings it needs, code."""


def _source(text: str) -> str:
    """Return what Content-Security-Policy calls an inline style or script: its hash."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_POLICY: Final = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
)
_VARY: Final = ("Vary", "Accept")


class Page:
    """The landing page: the endpoints that the settings enable, and examples.

    Args:
        hub: its settings state what is enabled.
        routes: of the public address.
    """

    def __init__(self, hub: Hub, routes: Sequence[Route]) -> None:
        self._hub = hub
        self._routes = routes

    def respond(self, request: Request) -> Response:
        """Return the page: HTML to a client that accepts it, else text."""
        if (wrong := invalid_cursor(request)) is not None:
            return wrong
        if "text/html" in request.headers.get("accept", ""):
            return Response(200, (*_HEADERS, _VARY), self._html().encode())
        return Response(200, (TEXT, _VARY), self._text().encode())

    def _offered(self) -> Iterator[Route]:
        settings = self._hub.settings
        for route in self._routes:
            if route.stream:
                if settings.websocket and route.stream in settings.offered:
                    yield route
            elif settings.offers(route.setting):
                yield route

    def _text(self) -> str:
        rows = "\n".join(f"{route.path:26} {route.summary}" for route in self._offered())
        return (
            "certstream-server: every certificate that Certificate Transparency logs receive, "
            f"as a live stream.\n\n{rows}\n\n"
            "Resume after the last message received: ?cursor=<its id>, or Last-Event-ID.\n"
        )

    def _html(self) -> str:
        settings = self._hub.settings
        snippets = "\n".join(
            f"<figure>\n<figcaption><h3>{escape(title)}</h3></figcaption>\n"
            f'<pre tabindex="0"><code>{escape(code, quote=False)}</code></pre>\n</figure>'
            for title, needs, code in _SNIPPETS
            if getattr(settings, needs)
        )
        rows = "\n".join(
            f"<tr><td>{_link(route)}</td><td>{escape(route.summary)}</td></tr>"
            for route in self._offered()
        )
        page = _TEMPLATE.replace("<!-- snippets -->", snippets).replace(
            "<!-- live -->", self._live()
        )
        return page.replace("<!-- endpoints -->", rows)

    def _live(self) -> str:
        """Return the live list, of the best stream that is written; "" without SSE."""
        settings = self._hub.settings
        stream = next(
            (each for each in ("lite", "full", "domains") if each in settings.streams), None
        )
        if not settings.sse or not stream:
            return ""
        # Without their names: a filter may be bound to a token.
        names = "" if settings.filters else " hidden"
        return _LIVE.replace("{stream}", stream).replace("{names}", names)


def _link(route: Route) -> str:
    """Return a path as a relative link; as text if it is a stream or has a parameter."""
    path = f"<code>{escape(route.path)}</code>"
    if route.stream or "{" in route.path:
        return path
    return f'<a href="{escape(route.path.removeprefix("/"))}">{path}</a>'
