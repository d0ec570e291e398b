"""Every endpoint of the public address of a gateway, from its table of routes."""

from types import SimpleNamespace
from typing import Any

from docs.generate.tables import code, table
from gateway.admission.policy import Policy
from gateway.config import Settings
from gateway.endpoints.router import ResponseSpec, Route
from gateway.endpoints.table import table as routes
from gateway.http.errors import ErrorCode
from gateway.hub import Hub
from gateway.metrics import Metrics


def endpoints() -> str:
    """Return the table of endpoints."""
    absent: Any = SimpleNamespace(respond=None)
    service = Hub(Settings(), absent, Metrics())
    rows = [
        [
            code(route.path),
            route.summary,
            _replies(route),
            ", ".join(
                code(it.name) + (" (header)" if it.location == "header" else "")
                for it in route.parameters
            ),
            code(route.setting),
        ]
        for route in routes(service, absent, absent, absent, Policy)
    ]
    return table(["path", "content", "responses", "parameters", "setting"], rows)


def _replies(route: Route) -> str:
    replies = sorted(route.responses.items())
    return "; ".join(
        f"{status} ({': '.join([reply.description.rstrip('.'), *_codes(reply)])})"
        for status, reply in replies
    )


def _codes(reply: ResponseSpec) -> list[str]:
    return [", ".join(map(code, reply.codes))] if reply.codes else []


def errors() -> str:
    """Every code of an error response."""
    rows = [[code(error), str(error.status), error.about] for error in ErrorCode]
    return table(["code", "status", ""], rows)
