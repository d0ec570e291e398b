"""The table of routes of the public address, for the router and the documentation."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from certhttp.protocol import Request
from gateway.admission.policy import Policy
from gateway.endpoints.cert import HASH, CertificateDetail, Certificates
from gateway.endpoints.health import DeepHealth, deep_health
from gateway.endpoints.homepage import Page
from gateway.endpoints.latest import SEARCHED, Latest, LatestMessages, example
from gateway.endpoints.logs import Logs, logs
from gateway.endpoints.openapi import Document
from gateway.endpoints.router import ParameterSpec, ResponseSpec, Route, error_spec
from gateway.endpoints.schemas import MESSAGES, schema
from gateway.endpoints.stats import Stats, stats
from gateway.endpoints.subscribe import LAST_EVENT_ID, Event, events, upgrade_required
from gateway.http.errors import ErrorCode
from gateway.http.messages import CORS_HEADERS, NO_STORE, TEXT, DeferredResponse, Response
from gateway.hub import Hub
from gateway.monitoring.report_cache import ReportCache

_ID: Final = "[0-9]{1,16}(-[0-9]{1,16}(-[0-9]{1,4})?)?"
_LAST: Final = {"type": "string", "pattern": f"^({_ID})?$"}
_CURSOR: Final = ParameterSpec(
    "cursor",
    "query",
    "Id of the last message seen, or a time in ms: what is newer comes first. 0: all that is kept.",
    {"type": "string", "pattern": f"^{_ID}$"},
)
_FILTERS: Final = (
    ParameterSpec(
        "domain",
        "query",
        "Names, separated by commas: certificates for one of them or a name below it.",
        {"type": "string", "examples": ["example.com,example.org"]},
    ),
    ParameterSpec(
        "issuer",
        "query",
        "Parts of issuers' names, separated by commas.",
        {"type": "string", "examples": ["Let's Encrypt"]},
    ),
    ParameterSpec(
        "match",
        "query",
        "A line of terms, as docs/filters.md describes; several are alternatives.",
        {
            "type": "array",
            "items": {"type": "string"},
            "examples": [["contains:acme -domain:acme.com"]],
        },
    ),
    ParameterSpec(
        "filter",
        "query",
        "The name of a filter of the configuration; several must all hold.",
        {"type": "array", "items": {"type": "string"}},
    ),
)
_FILTER_CODES: Final = ErrorCode.INVALID_FILTER, ErrorCode.UNKNOWN_PARAMETER
_FILTER_LIMIT: Final = error_spec("The server is at its limit of filters.", ErrorCode.FILTER_LIMIT)
_EXAMPLES: Final = {
    "/example.json": "full",
    "/full-stream/example.json": "full",
    "/domains-only/example.json": "domains",
}
_SCHEMA: Final = ("Content-Type", "application/schema+json")
_NO_REDIS: Final = error_spec("Redis does not answer.", ErrorCode.REDIS_UNAVAILABLE)
_WEBSOCKET_ERRORS: Final = {
    400: error_spec(
        "Invalid cursor, filter or handshake.",
        ErrorCode.INVALID_CURSOR,
        ErrorCode.INVALID_HANDSHAKE,
        *_FILTER_CODES,
    ),
    404: error_spec("The stream is disabled.", ErrorCode.DISABLED),
    503: _FILTER_LIMIT,
}
_UPGRADE: Final = error_spec("The endpoint is a WebSocket.", ErrorCode.UPGRADE_REQUIRED)


def table(
    hub: Hub,
    metrics: Callable[[], Awaitable[Response]],
    reports: ReportCache,
    certificates: Certificates,
    policy: Callable[[], Policy],
) -> list[Route]:
    """List all routes.

    Args:
        hub: has the rings, and the settings as they are now.
        metrics: collects the metrics of all processes of this host.
        reports: of the cluster.
        certificates: finds a certificate by its hash.
        policy: determines which clients are admitted.
    """
    routes: list[Route] = []
    page = Page(hub, routes)
    document = Document(hub, policy, routes)
    routes += [
        Route(
            "/",
            "Landing page; as a WebSocket: the stream lite, without DER and chain",
            page.respond,
            _WEBSOCKET_ERRORS | {200: ResponseSpec("The page.", media=("text/html", "text/plain"))},
            (_CURSOR, *_FILTERS),
            stream="lite",
            revalidates=True,
        ),
        *subscriptions(hub),
        *(
            Route(
                path,
                f"A recent message of the stream {stream}",
                partial(_example, hub, stream),
                {200: ResponseSpec("A message.", MESSAGES[stream])},
                setting="protocols.example_json",
                revalidates=True,
            )
            for path, stream in _EXAMPLES.items()
        ),
        Route(
            "/latest.json",
            "The 25 newest messages of the stream lite; with a filter, those of the newest "
            f"{SEARCHED} that pass",
            LatestMessages(hub).respond,
            {
                200: ResponseSpec("Messages, the newest first.", Latest),
                400: error_spec("Invalid filter.", *_FILTER_CODES),
            },
            _FILTERS,
            setting="protocols.api",
            revalidates=True,
        ),
        Route(
            "/api/stats",
            "Clients, throughput, deduplication and retention over all gateways and ingestors",
            lambda _: reports.json_response(partial(stats, budgets=hub.settings.retained)),
            {200: ResponseSpec("The statistics.", Stats), 503: _NO_REDIS},
            setting="protocols.api",
            revalidates=True,
        ),
        Route(
            "/api/logs",
            "Health, position, circuit state and ingestor of every log",
            lambda _: reports.json_response(logs),
            {200: ResponseSpec("All logs.", Logs), 503: _NO_REDIS},
            setting="protocols.api",
            revalidates=True,
        ),
        Route(
            "/api/cert/{hash}",
            "A certificate by its SHA-256 or SHA-1 (or tbs_sha256 with dedup.by: issuance)",
            certificates.respond,
            {
                200: ResponseSpec("The certificate.", CertificateDetail),
                400: error_spec(
                    "Not a hash, or no such filter.",
                    ErrorCode.INVALID_HASH,
                    ErrorCode.INVALID_FILTER,
                ),
                404: error_spec(
                    "Not retained, or it does not pass the filter.", ErrorCode.CERTIFICATE_NOT_FOUND
                ),
                503: _NO_REDIS,
            },
            (
                ParameterSpec(
                    "hash",
                    "path",
                    "In hex, with or without colons, in any case.",
                    {"type": "string", "pattern": HASH},
                ),
                _FILTERS[-1],
            ),
            setting="protocols.api",
            revalidates=True,
        ),
        Route(
            "/health",
            "OK, for load balancers",
            lambda _: Response(200, (TEXT, *CORS_HEADERS, NO_STORE), b"OK"),
            {200: ResponseSpec("The process answers.", media=("text/plain",))},
            setting="protocols.health",
        ),
        Route(
            "/health/deep",
            "Health of the whole service, with a code for each fault",
            lambda _: DeferredResponse(partial(deep_health, reports, hub)),
            {
                200: ResponseSpec("Healthy or degraded.", DeepHealth),
                503: ResponseSpec("Unhealthy.", DeepHealth),
            },
            setting="protocols.health",
        ),
        Route(
            "/metrics",
            "Prometheus metrics of all processes of this host",
            lambda _: DeferredResponse(metrics),
            {200: ResponseSpec("Metrics.", media=("text/plain",))},
            setting="protocols.metrics",
        ),
        Route(
            "/openapi.json",
            "OpenAPI description of these endpoints",
            document.respond,
            {200: ResponseSpec("The document.")},
            revalidates=True,
        ),
        *(
            Route(
                f"/schemas/{stream}.json",
                f"JSON Schema of the messages of the stream {stream}",
                partial(_show, _schema_answer(stream)),
                {200: ResponseSpec("The schema.", media=(_SCHEMA[1],))},
                revalidates=True,
            )
            for stream in MESSAGES
        ),
    ]
    return routes


def subscriptions(hub: Hub) -> list[Route]:
    """List the routes of streams, except `/`, which is a page too."""
    return [
        *(
            Route(
                path,
                f"WebSocket: the stream {stream}, {content}",
                partial(upgrade_required, hub),
                _WEBSOCKET_ERRORS | {426: _UPGRADE},
                (_CURSOR, *_FILTERS),
                stream=stream,
                aliases=(f"{path}/",),
            )
            for path, stream, content in (
                ("/full-stream", "full", "with DER and chain"),
                ("/domains-only", "domains", "only names"),
                ("/v2", "v2", "the certificates of lite with what was verified of their entries"),
            )
        ),
        Route(
            "/sse",
            "The streams as server-sent events",
            lambda request: events(hub, request),
            {
                200: ResponseSpec("An endless event stream.", Event, ("text/event-stream",)),
                400: error_spec(
                    "Unknown stream, invalid cursor or invalid filter.",
                    ErrorCode.UNKNOWN_STREAM,
                    ErrorCode.INVALID_CURSOR,
                    *_FILTER_CODES,
                ),
                404: _WEBSOCKET_ERRORS[404],
                503: _FILTER_LIMIT,
            },
            (
                ParameterSpec(
                    "stream",
                    "query",
                    "Which stream.",
                    {"enum": ["lite", "full", "domains", "domains-only", "v2"], "default": "lite"},
                ),
                _CURSOR,
                *_FILTERS,
                ParameterSpec(
                    "Last-Event-ID", "header", "A cursor; takes precedence over `cursor`.", _LAST
                ),
                *(
                    ParameterSpec(
                        name, "query", "Replaces the header for clients that cannot set it.", _LAST
                    )
                    for name in LAST_EVENT_ID
                ),
            ),
            setting="protocols.sse",
            aliases=("/sse/",),
        ),
    ]


def _example(hub: Hub, stream: str, request: Request) -> Response:
    """Return a recent message, or with a named filter, which it may not pass, the sample."""
    filtered = any(name == "filter" for name, _ in request.fields)
    return example(stream, None if filtered else hub.rings.get(stream))


def _schema_answer(stream: str) -> Response:
    return Response(200, (_SCHEMA, *CORS_HEADERS), msgspec.json.encode(schema(stream)))


def _show(answer: Response, _: Request) -> Response:
    return answer
