"""How the whole service does, out of what the directory says. Pure: no connection, no clock."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from certbus.directory import LogStatus, Snapshot

Health = Literal["healthy", "degraded", "unhealthy"]

_PATIENCE: Final = 300_000
"""Milliseconds that a log may take to answer as it should."""


class DeepHealth(msgspec.Struct, frozen=True):
    """The whole service.

    Attributes:
        status: "unhealthy" without Redis, or if there are logs and none of them is healthy;
            "degraded" if one of them is not.
        logs_healthy: how many are; likewise the next two.
        logs_degraded: fail now and then, or were not heard of yet.
        logs_unhealthy: have not answered for a while, or lie.
        logs_total: how many there are.
        active_connections: clients of all gateways.
        uptime_secs: of this gateway.
        redis: whether it answers.
        gateways: that run.
        stream_lag_secs: by stream, how old the newest batch is that this gateway has.
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


def judge(
    seen: Snapshot | None,
    *,
    now: int,
    redis: bool,
    uptime: float,
    ages: Mapping[str, float],
    unhealthy_threshold: int,
) -> DeepHealth:
    """Say how the service does.

    Args:
        seen: the directory, as last seen; None if it never was.
        now: milliseconds since the epoch.
        redis: whether Redis answers.
        uptime: of this gateway, in seconds.
        ages: by stream, seconds since its newest batch that this gateway has.
        unhealthy_threshold: see `log_health`.
    """
    logs = current(seen.logs) if seen else []
    gateways = [member.fields for member in seen.gateways] if seen else []
    counts: Counter[Health] = Counter(log_health(log, now, unhealthy_threshold) for log in logs)
    status: Health
    if not redis or (logs and not counts["healthy"]):
        status = "unhealthy"
    else:
        status = "healthy" if counts["healthy"] == len(logs) else "degraded"
    return DeepHealth(
        status=status,
        logs_healthy=counts["healthy"],
        logs_degraded=counts["degraded"],
        logs_unhealthy=counts["unhealthy"],
        logs_total=len(logs),
        active_connections=sum(int(fields.get("clients", 0)) for fields in gateways),
        uptime_secs=int(uptime),
        redis="connected" if redis else "away",
        gateways=len(gateways),
        stream_lag_secs={stream: round(age, 3) for stream, age in ages.items()},
    )


def current(logs: Iterable[LogStatus]) -> list[LogStatus]:
    """Those that are not over: a retired log is drained, and remembered for a while."""
    return [log for log in logs if log.retired is None]


def log_health(log: LogStatus, now: int, unhealthy_threshold: int) -> Health:
    """Say how a log does: the one definition, for /health/deep and /api/logs.

    Args:
        log: as Redis knows it.
        now: milliseconds since the epoch.
        unhealthy_threshold: failures in a row that make it unhealthy.

    Returns:
        "unhealthy" if it is left alone for failing, has failed that often in a row, has not
        answered for five minutes, or lies. "degraded" if it has just failed, is being tried again,
        or was never heard of yet.
    """
    if log.circuit == "open" or log.failures >= unhealthy_threshold or log.integrity == "lying":
        return "unhealthy"
    success, failure = log.last_success or 0, log.last_error_at or 0
    if now - success > _PATIENCE:
        return "unhealthy" if success or failure else "degraded"
    return "degraded" if log.failures or log.circuit != "closed" else "healthy"
