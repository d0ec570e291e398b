"""Memory of the embedded Redis: what the retention needs, and what does not fit this machine."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from certbus.keys import STREAMS
from certbus.streams.memory import CERTIFICATES_PER_SEC, RetentionPlan, mib, plan
from certbus.streams.retention import Retention
from certconf import Config
from certconf import Retention as DefaultRetention
from launcher.runtime.embedded_redis import EmbeddedRedis
from launcher.runtime.supervisor import StartError

SMALL_MACHINE_BYTES: Final = 4 << 30
_SMALL_DIVISOR: Final = 4
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")  # cgroup v2: "max" or bytes

log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded_redis(
    config: Config, state_dir: Path, *, demo: bool
) -> AsyncIterator[tuple[EmbeddedRedis, dict[str, int]]]:
    """Run a Redis with the memory that the retention needs; the demo has a low rate.

    Yields:
        The Redis, and settings of the retention that replace those of `config`.

    Raises:
        StartError: Redis cannot be started, or see `fitting_retention`.
    """
    sizes, planned = fitting_retention(config, sys.maxsize if demo else machine_bytes())
    async with EmbeddedRedis(state_dir, planned.max_memory) as server:
        reach = {stream: round(secs / 60, 1) for stream, secs in planned.reach_secs.items()}
        log.info("retention planned", reach_minutes=reach, redis_max_memory=planned.max_memory)
        yield server, sizes


def machine_bytes() -> int:
    """Return the memory of this machine, or of this container if that has less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    return physical


def fitting_retention(config: Config, machine: int) -> tuple[dict[str, int], RetentionPlan]:
    """Plan the retention: a quarter of the default sizes on a small machine.

    Args:
        config: with the retention; one that differs from the default is not changed.
        machine: memory in bytes.

    Returns:
        Settings that replace those of `config`, and the plan.

    Raises:
        StartError: the retention needs more memory than the machine has.
    """
    limits = {stream: getattr(config.retention, stream) for stream in STREAMS}
    sizes = {stream: limit.max_bytes for stream, limit in limits.items()}
    small = machine < SMALL_MACHINE_BYTES and config.retention == DefaultRetention()
    if small:
        sizes = {stream: size // _SMALL_DIVISOR for stream, size in sizes.items()}
    planned = plan(
        {stream: Retention(sizes[stream], limits[stream].max_age_secs) for stream in STREAMS},
        config.dedup.ttl_secs,
        config.dedup.by,
    )
    if planned.max_memory > machine:
        raise StartError(
            f"the retention does not fit this machine, which has {mib(machine)}. At "
            f"{CERTIFICATES_PER_SEC} certificates a second Redis needs {planned}. Lower "
            "retention.*.max_bytes or retention.*.max_age_secs, or set redis_url"
        )
    return {f"retention.{name}.max_bytes": sizes[name] for name in STREAMS if small}, planned
