"""The availability of a log without a store of its circuit."""

import time
from collections.abc import Callable

from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.limits.operators import OperatorSlots
from ingestor.backfill.pace import LocalSlots
from ingestor.backoff import Backoff
from ingestor.client.log_availability import CircuitPolicy, LogAvailability
from ingestor.client.throttle import OperatorThrottle
from ingestor.log import Kind, Log
from ingestor.redis_retry import RedisRetry

NO_DELAY = Backoff(0.001, 0.001)


def policy(
    attempts: int = 3,
    unhealthy: int = 1000,
    healthy: int = 1,
    closed: Backoff = NO_DELAY,
    opened: Backoff = NO_DELAY,
) -> CircuitPolicy:
    return CircuitPolicy(attempts, unhealthy, healthy, closed, opened)


def available(
    rules: CircuitPolicy | None = None,
    clock: Callable[[], float] = time.time,
    redis: Redis | None = None,
    name: str = "log",
    operator: str = "Example",
    interval: float = 0.0,
    monotonic: Callable[[], float] = time.monotonic,
) -> LogAvailability:
    """Make the availability of one log; `redis` has the slots of all logs of an operator."""
    log = Log(id=name, name=name, url="http://test/", kind=Kind.RFC6962, operator=operator)
    slots = LocalSlots() if redis is None else OperatorSlots(redis, Keys())
    throttle = OperatorThrottle(operator, interval, slots, RedisRetry())
    return LogAvailability(log, rules or policy(), throttle, clock=clock, monotonic=monotonic)
