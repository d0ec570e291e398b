"""A request -> what to do about it, by the table. Pure: no connection, no clock."""

from collections.abc import Iterable
from typing import Final

from certhttp.protocol import Request
from gateway.endpoints.subscribe import websocket
from gateway.http.conditional import not_modified
from gateway.http.errors import ErrorCode, disabled_response, error_response
from gateway.http.messages import CORS_HEADERS, METHODS, Outcome, Response, cors_preflight
from gateway.http.route import Route
from gateway.hub import Hub

ELSEWHERE: Final = "other"
"""What requests count as that have no route, or cannot be read."""


class Router:
    """The public address.

    Args:
        service: its settings, as they are when a request comes, say what is offered.
        table: every route.
    """

    def __init__(self, service: Hub, table: Iterable[Route]) -> None:
        self._service = service
        self._exact: dict[str, Route] = {}
        self._below: dict[str, Route] = {}
        for route in table:
            parent, _, last = route.path.rpartition("/")
            if last.startswith("{"):
                self._below[parent] = route
            else:
                self._exact |= dict.fromkeys((route.path, *route.also), route)

    def match(self, path: str) -> Route | None:
        """The route of a path; None if there is nothing."""
        return self._exact.get(path) or self._below.get(path.rpartition("/")[0])

    def metric_label(self, request: Request) -> str:
        """What a request counts as: the path of its route, of which there are few."""
        route = self.match(request.path or "/")
        return ELSEWHERE if route is None else route.path

    def handle(self, request: Request) -> Outcome:
        """Decide about a request."""
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
        settings = self._service.settings
        if request.websocket and route.stream and request.method == "GET":
            return websocket(self._service, route.stream, request)
        if not request.path:
            return _with_slash(settings.base_path)
        if not settings.offers(route.switch):
            return disabled_response(route.switch)
        outcome = route.answer(request)
        return not_modified(request, outcome) if route.revalidates else outcome


def _with_slash(base_path: str) -> Response:
    """Send whoever asks for the base path itself below it: relative links need that."""
    return Response(308, (("Location", f"{base_path}/"), *CORS_HEADERS), b"")
