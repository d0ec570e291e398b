"""/health/deep: the health of the whole service, as one gateway sees it."""

from collections import Counter
from http import HTTPStatus
from typing import Literal

import msgspec

from certbus.cluster_health import Health, HealthProblem
from gateway.http.messages import CORS_HEADERS, JSON, NO_STORE, Response
from gateway.hub import Hub
from gateway.monitoring.report_cache import ReportCache


class DeepHealth(msgspec.Struct, frozen=True):
    """The whole service.

    Attributes:
        status: "unhealthy" with a critical problem, "degraded" with any other one.
        logs_healthy: number of healthy logs.
        logs_degraded: number of logs with recent errors, without proofs, or not read yet.
        logs_unhealthy: number of logs that do not answer, or misbehave.
        logs_total: number of logs that are not retired.
        active_connections: clients of all gateways.
        uptime_secs: of this gateway.
        redis: whether this gateway can read from Redis.
        gateways: number of gateways.
        stream_lag_secs: by stream, age of the newest batch in this gateway.
        ingestors: number of ingestors.
        problems: critical ones first; docs/runbook.md explains each code.
    """

    status: Health
    logs_healthy: int
    logs_degraded: int
    logs_unhealthy: int
    logs_total: int
    active_connections: int
    uptime_secs: int
    redis: Literal["connected", "away"]
    gateways: int
    stream_lag_secs: dict[str, float]
    ingestors: int
    problems: list[HealthProblem]


async def deep_health(reports: ReportCache, hub: Hub) -> Response:
    """Return the health; with status 503 if it is unhealthy."""
    report = await reports.get()
    counts = Counter(log.status for log in report.logs)
    health = DeepHealth(
        status=report.status,
        logs_healthy=counts["healthy"],
        logs_degraded=counts["degraded"],
        logs_unhealthy=counts["unhealthy"],
        logs_total=len(report.logs) - counts["excluded"],
        active_connections=report.clients,
        uptime_secs=int(reports.uptime),
        redis="connected" if reports.is_connected else "away",
        gateways=len(report.gateways),
        stream_lag_secs={
            stream: round(age, 3)
            for stream, age in hub.stream_ages().items()
            if hub.rings[stream].has_messages
        },
        ingestors=len(report.ingestors),
        problems=report.problems,
    )
    is_down = report.status == "unhealthy"
    return Response(
        HTTPStatus.SERVICE_UNAVAILABLE if is_down else HTTPStatus.OK,
        (JSON, *CORS_HEADERS, NO_STORE),
        msgspec.json.encode(health),
    )
