"""The OpenAPI document of the public address, made of the table of routes.

It describes the endpoints that the settings enable, and whether they require a token.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec

from certhttp.protocol import Request
from gateway.admission.policy import (
    METRICS,
    Policy,
    is_api_path,
    is_public_path,
    restricts_streams,
)
from gateway.config import Settings
from gateway.endpoints.router import ResponseSpec, Route, error_spec
from gateway.http.errors import ErrorBody, ErrorCode
from gateway.http.messages import Response, json_body
from gateway.hub import Hub

_ABOUT: Final = """\
Every certificate that Certificate Transparency logs receive, as a live stream.

The streams are WebSockets at `/`, `/full-stream` and `/domains-only`, and server-sent events at
`/sse`. Beside messages about certificates (`/schemas/`), a stream has heartbeats,
`{"message_type":"heartbeat","timestamp":…,"id":…}`, and, where something is missing,
`{"message_type":"gap","data":{"requested":…,"oldest":…,"reason":…}}`.

Everything answers HEAD as it does GET, and OPTIONS."""

_VERSION: Final = version("certstream-server")  # of a file: read at the start
_REFS: Final = "#/components/schemas/{name}"
_BAD_REQUEST: Final = error_spec(
    "The request is malformed.", ErrorCode.BAD_REQUEST, ErrorCode.INVALID_QUERY
)
_UNAUTHORIZED: Final = error_spec(
    "The token is missing or invalid.", ErrorCode.TOKEN_REQUIRED, ErrorCode.INVALID_TOKEN
)
_FORBIDDEN: Final = error_spec(
    "The client's network, or the stream for its token, is not allowed.", ErrorCode.FORBIDDEN
)
_TOO_MANY: Final = error_spec(
    "Too many requests or connections; see Retry-After.",
    ErrorCode.RATE_LIMITED,
    ErrorCode.ADDRESS_LIMIT,
)
_FULL: Final = error_spec("The server is at its connection limit.", ErrorCode.CONNECTION_LIMIT)
_NOT_MODIFIED: Final = ResponseSpec("The client has this representation already.", media=())
_UPGRADED: Final = ResponseSpec("The connection is a WebSocket now.", media=())


class Document:
    """The document for the present settings and policy.

    Args:
        hub: has the settings.
        policy: determines which clients are admitted.
        routes: of the public address.
    """

    def __init__(self, hub: Hub, policy: Callable[[], Policy], routes: Sequence[Route]) -> None:
        self._hub = hub
        self._policy = policy
        self._routes = routes
        self._cached: tuple[Settings, Policy, Response] | None = None

    def respond(self, _: Request) -> Response:
        """Return the document. It is made once for each configuration: that takes milliseconds."""
        settings, policy = self._hub.settings, self._policy()
        made = self._cached
        if made is None or made[0] is not settings or made[1] is not policy:
            made = self._cached = settings, policy, json_body(self._document(settings, policy))
        return made[2]

    def _document(self, settings: Settings, policy: Policy) -> dict[str, Any]:
        offered = [route for route in self._routes if settings.offers(route.setting)]
        shapes = {ErrorBody: None} | {
            spec.type: None
            for route in offered
            for spec in route.responses.values()
            if spec.type is not None
        }
        _, schemas = msgspec.json.schema_components(shapes, ref_template=_REFS)
        schemes = _security_schemes(policy)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "certstream-server",
                "version": _VERSION,
                "description": _ABOUT,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": settings.base_path or "/"}],
            "security": [{scheme: []} for scheme in schemes],
            "paths": {route.path: {"get": _operation(route, policy)} for route in offered},
            "components": {
                "schemas": {name: _with_descriptions(schema) for name, schema in schemas.items()},
                "securitySchemes": schemes,
            },
        }


def _operation(route: Route, policy: Policy) -> dict[str, Any]:
    words = [word for word in re.split(r"\W+", route.path) if word]
    operation: dict[str, Any] = {
        "operationId": "_".join(["get", *words]),
        "summary": route.summary,
        "parameters": [
            {
                "name": parameter.name,
                "in": parameter.location,
                "description": parameter.description,
                "required": parameter.location == "path",
                "schema": parameter.schema,
            }
            for parameter in route.parameters
        ],
        "responses": {
            str(status): _response(spec)
            for status, spec in sorted(_responses(route, policy).items())
        },
    }
    if is_public_path(route.path, policy):
        operation["security"] = []
    return operation


def _responses(route: Route, policy: Policy) -> dict[int, ResponseSpec]:
    """Return the responses of a route: its own, and those that the gateway adds to every route."""
    specs = {400: _BAD_REQUEST}
    if not is_public_path(route.path, policy):
        specs[401] = _UNAUTHORIZED
    if policy.metrics is not None and route.path == METRICS:
        specs[403] = _FORBIDDEN
    if policy.api is not None and is_api_path(route.path):
        specs[403] = _FORBIDDEN
    if restricts_streams(policy) and (route.stream or route.path == "/sse"):
        specs[403] = _FORBIDDEN
    if policy.rates is not None or policy.limits_connections:
        specs[429] = _TOO_MANY
    if policy.limits_connections:
        specs[503] = _FULL
    if route.revalidates:
        specs[304] = _NOT_MODIFIED
    if route.stream:
        specs[101] = _UPGRADED
    for status, spec in route.responses.items():
        general = specs.get(status)
        if general is not None and spec.codes:
            description = f"{spec.description} {general.description}"
            spec = error_spec(description, *spec.codes, *general.codes)  # noqa: PLW2901
        specs[status] = spec
    return specs


def _response(spec: ResponseSpec) -> dict[str, Any]:
    response: dict[str, Any] = {"description": spec.description}
    for media in spec.media:
        schema: dict[str, Any] = {"type": "object" if media.endswith("json") else "string"}
        if spec.type is not None:
            schema = {"$ref": _REFS.format(name=spec.type.__name__)}
        if spec.codes:
            schema["properties"] = {"code": {"enum": list(spec.codes)}}
        response.setdefault("content", {})[media] = {"schema": schema}
    return response


def _security_schemes(policy: Policy) -> dict[str, Any]:
    if policy.owners is None:
        return {}
    schemes: dict[str, Any] = {"bearer": {"type": "http", "scheme": "bearer"}}
    if policy.header != "authorization":
        schemes["header"] = {"type": "apiKey", "in": "header", "name": policy.header}
    if policy.query_token:
        schemes["query"] = {"type": "apiKey", "in": "query", "name": "token"}
    return schemes


def _with_descriptions(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the description of each attribute from its docstring."""
    about, _, attributes = str(schema.get("description", "")).partition("\n\nAttributes:\n")
    if not attributes:
        return dict(schema)
    texts = {
        name: " ".join(text.split())
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    }
    properties = {
        name: {"description": texts[name], **kind} if name in texts else kind
        for name, kind in schema["properties"].items()
    }
    return {**schema, "description": about, "properties": properties}
