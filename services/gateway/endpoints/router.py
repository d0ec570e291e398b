"""Routes, and the router that finds the one of a request. Pure: no connection, no clock.

The table of routes (`table.py`) defines what the router answers and what the landing page and the
OpenAPI document describe.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from certhttp.protocol import Request
from gateway.endpoints.subscribe import websocket
from gateway.http.errors import ErrorBody, ErrorCode, disabled_response, error_response
from gateway.http.messages import (
    CORS_HEADERS,
    METHODS,
    DeferredResponse,
    Outcome,
    Response,
    cors_preflight,
)
from gateway.hub import Hub

NO_ROUTE: Final = "other"
"""Metric label of requests without a route, and of requests that are malformed."""

_REVALIDATE: Final = ("Cache-Control", "no-cache")
"""Caches may keep the response, but must revalidate it before each use."""


class ResponseSpec(msgspec.Struct, frozen=True):
    """One response of a route, as documented.

    Attributes:
        description: when it is sent, or what it is.
        type: type of its JSON body; None if the body is not JSON.
        media: its media types, of which a response has one; empty without a body.
        codes: error codes that it may have; empty if it is no error.
    """

    description: str
    type: Any = None
    media: tuple[str, ...] = ("application/json",)
    codes: tuple[ErrorCode, ...] = ()


def error_spec(description: str, *codes: ErrorCode) -> ResponseSpec:
    """Describe an error response that has one of these codes."""
    return ResponseSpec(description, ErrorBody, codes=codes)


class ParameterSpec(msgspec.Struct, frozen=True):
    """A parameter of a route.

    Attributes:
        name: as it is sent.
        location: the part of the request that has it.
        description: its meaning.
        schema: JSON Schema of its value.
    """

    name: str
    location: Literal["path", "query", "header"]
    description: str
    schema: Mapping[str, Any]


class Route(msgspec.Struct, frozen=True):
    """A path and its handler.

    Attributes:
        path: its last part may be a parameter, `{name}`.
        summary: its purpose, in one line.
        handle: handles a GET.
        responses: of `handle`, by status; without those that every route has.
        parameters: of the request.
        setting: the setting that enables the route, as in "protocols.api"; "" if it is always on.
        stream: the stream of a WebSocket at this path; "" if it is none.
        aliases: further paths.
        revalidates: whether `If-None-Match` is honoured (RFC 9110 section 13).
    """

    path: str
    summary: str
    handle: Callable[[Request], Outcome]
    responses: Mapping[int, ResponseSpec]
    parameters: tuple[ParameterSpec, ...] = ()
    setting: str = ""
    stream: str = ""
    aliases: tuple[str, ...] = ()
    revalidates: bool = False


class Router:
    """Finds the route of a request and handles the request.

    Args:
        hub: its settings at the time of a request state what is enabled.
        table: every route.
    """

    def __init__(self, hub: Hub, table: Iterable[Route]) -> None:
        self._hub = hub
        self._exact: dict[str, Route] = {}
        self._by_parent: dict[str, Route] = {}
        for route in table:
            parent, _, last = route.path.rpartition("/")
            if last.startswith("{"):
                self._by_parent[parent] = route
            else:
                self._exact |= dict.fromkeys((route.path, *route.aliases), route)

    def match(self, path: str) -> Route | None:
        """Return the route of a path; None if there is none."""
        return self._exact.get(path) or self._by_parent.get(path.rpartition("/")[0])

    def metric_label(self, request: Request) -> str:
        """Return the path of the request's route: one of a few values."""
        route = self.match(request.path or "/")
        return NO_ROUTE if route is None else route.path

    def handle(self, request: Request) -> Outcome:
        """Return the outcome of a request."""
        if request.method == "OPTIONS":
            return cors_preflight()
        route = self.match(request.path or "/")
        if route is None:
            error = f"Not found: {request.path[:200]}. See / for available endpoints"
            return error_response(ErrorCode.NOT_FOUND, error)
        if request.method not in ("GET", "HEAD"):
            error = f"Method {request.method} not allowed"
            return error_response(ErrorCode.METHOD_NOT_ALLOWED, error, ("Allow", METHODS))
        return self._answer(route, request)

    def _answer(self, route: Route, request: Request) -> Outcome:
        settings = self._hub.settings
        if request.websocket and route.stream and request.method == "GET":
            return websocket(self._hub, route.stream, request)
        if not request.path:  # relative links of the landing page need the slash
            location = ("Location", f"{settings.base_path}/")
            return Response(HTTPStatus.PERMANENT_REDIRECT, (location, *CORS_HEADERS), b"")
        if not settings.offers(route.setting):
            return disabled_response(route.setting)
        outcome = route.handle(request)
        return _revalidated(request, outcome) if route.revalidates else outcome


def _revalidated(request: Request, outcome: Outcome) -> Outcome:
    """Add an ETag; replace the response by 304 if the client has it (RFC 9110 section 13)."""
    if isinstance(outcome, DeferredResponse):
        respond = outcome.respond

        async def compared() -> Response:
            return _compared(request, await respond())

        return msgspec.structs.replace(outcome, respond=compared)
    return _compared(request, outcome) if isinstance(outcome, Response) else outcome


def _compared(request: Request, response: Response) -> Response:
    if response.status != HTTPStatus.OK:
        return response
    tag = f'"{blake2b(response.body, digest_size=12).hexdigest()}"'
    headers = response.headers
    if not any(name == "Cache-Control" for name, _ in headers):
        headers = (*headers, _REVALIDATE)
    headers = (*headers, ("ETag", tag))
    if _matches(request.headers.get("if-none-match", ""), tag):
        kept = tuple(pair for pair in headers if pair[0] != "Content-Type")
        return Response(HTTPStatus.NOT_MODIFIED, kept, b"")
    return msgspec.structs.replace(response, headers=headers)


def _matches(if_none_match: str, tag: str) -> bool:
    """Whether If-None-Match lists a tag; weakly, since proxies that compress weaken tags."""
    tags = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return tag in tags or tags == {"*"}
