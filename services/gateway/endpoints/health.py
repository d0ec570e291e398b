"""/health/deep: the health of the whole service, as one gateway sees it. Pure.

What it is judged by is in `certbus.cluster_health`, which `status` uses, too.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import msgspec

from certbus.cluster import Snapshot
from certbus.cluster_health import (
    Health,
    HealthProblem,
    HealthReport,
    active_logs,
    log_health,
    number,
)

__all__ = ["DeepHealth", "Health", "active_logs", "deep", "log_health"]


class DeepHealth(msgspec.Struct, frozen=True):
    """The whole service.

    Attributes:
        status: "unhealthy" with a critical problem, "degraded" with any other one.
        logs_healthy: logs that answer, and hold to what they signed.
        logs_degraded: fail now and then, or have not answered yet.
        logs_unhealthy: have not answered for a while, or contradict what they signed.
        logs_total: how many there are.
        active_connections: clients of all gateways.
        uptime_secs: of this gateway.
        redis: whether it answers.
        gateways: that run.
        stream_lag_secs: by stream, how old the newest batch is that this gateway has.
        ingestors: that run.
        problems: what is wrong, critical problems first; docs/runbook.md explains each code.
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


def deep(
    judged: HealthReport,
    seen: Snapshot | None,
    *,
    redis: bool,
    uptime: float,
    ages: Mapping[str, float],
) -> DeepHealth:
    """Show a judgement.

    Args:
        judged: the service.
        seen: the directory, as last seen; None if it never was.
        redis: whether Redis answers.
        uptime: of this gateway, in seconds.
        ages: by stream, seconds since its newest batch that this gateway has.
    """
    counts: Counter[Health] = Counter(judged.logs.values())
    gateways = seen.gateways if seen else []
    return DeepHealth(
        status=judged.status,
        logs_healthy=counts["healthy"],
        logs_degraded=counts["degraded"],
        logs_unhealthy=counts["unhealthy"],
        logs_total=len(judged.logs),
        active_connections=sum(int(number(member.fields, "clients")) for member in gateways),
        uptime_secs=int(uptime),
        redis="connected" if redis else "away",
        gateways=len(gateways),
        stream_lag_secs={stream: round(age, 3) for stream, age in ages.items()},
        ingestors=len(seen.workers) if seen else 0,
        problems=judged.problems,
    )
