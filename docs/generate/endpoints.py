"""Every endpoint of a gateway's public address, by its table of routes."""

from types import SimpleNamespace
from typing import Any

from docs.generate.tables import code, table
from gateway.admission.policy import Policy
from gateway.config import Settings
from gateway.endpoints.table import table as routes
from gateway.http.route import Route
from gateway.hub import Hub
from gateway.metrics import Metrics


def endpoints() -> str:
    """All of them; nobody asks them here."""
    nobody: Any = SimpleNamespace(respond=None)
    service = Hub(Settings(), nobody, Metrics())
    rows = [
        [
            code(route.path),
            route.about,
            _replies(route),
            ", ".join(code(parameter.name) for parameter in route.parameters),
            code(route.switch),
        ]
        for route in routes(service, nobody, nobody, nobody, Policy)
    ]
    return table(["path", "", "answers", "parameters", "if"], rows)


def _replies(route: Route) -> str:
    replies = sorted(route.replies.items())
    return "; ".join(f"{status} ({reply.about.rstrip('.')})" for status, reply in replies)
