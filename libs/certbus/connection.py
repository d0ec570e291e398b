"""One way to connect to Redis, and what a Redis must be to hold the streams."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

OLDEST_REDIS = (6, 2)

RETRYABLE = (
    redis.exceptions.ConnectionError,  # also BusyLoadingError: Redis is reading its AOF
    redis.exceptions.TimeoutError,
)
"""Errors that pass when Redis is back."""


COMMAND_TIMEOUT = 15.0
"""Seconds. Longer than any blocking read of ours, short enough to notice a peer that hangs."""


class UnsuitableServer(Exception):
    """The Redis that was given cannot hold the streams. Says why, and what to do."""


def connect(url: str, *, password: str | None = None, name: str | None = None) -> Redis:
    """Make a client; it connects on first use.

    Replies are bytes in their RESP2 shapes, whatever redis-py's default becomes. A command is
    tried again on a new connection if the old one turns out to be dead: each script of this
    package notices when it has already been executed.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        password: unless it is part of the URL.
        name: of this process, for CLIENT LIST; no spaces.

    Raises:
        ValueError: the URL is none of these.
    """
    return _Client.from_url(
        url,
        password=password,
        protocol=2,
        decode_responses=False,
        client_name=name,
        driver_info=None,
        socket_timeout=None,
        socket_connect_timeout=5,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2),
    )


class _Client(Redis):
    """A client that bounds each command as a whole, attempts and all.

    redis-py's `socket_timeout` would bound each write and read, but the write by asyncio.wait_for,
    which can swallow a cancellation until Python 3.12 (python/cpython#86296). A task that cannot
    be cancelled keeps a whole process from stopping.
    """

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with _in_time(str(args[0])):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        async with _in_time("pipeline"):
            return await super().execute(raise_on_error)


@asynccontextmanager
async def _in_time(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            yield
    except TimeoutError as error:
        raise redis.exceptions.TimeoutError(
            f"no answer to {what} within {COMMAND_TIMEOUT:.0f} s"
        ) from error


async def check_server(client: Redis, *, writable: bool = True) -> None:
    """Refuse a Redis that would lose or silently evict what it is given.

    Args:
        client: from `connect`.
        writable: whether it must be a primary; a gateway may read from a replica.

    Raises:
        UnsuitableServer: it is too old, may evict keys, or is a replica.
        redis.exceptions.RedisError: it cannot be asked.
    """
    info = await client.info()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise UnsuitableServer(f"Redis {version} is too old: 6.2 or newer is needed")
    if writable and info.get("role") != "master":
        raise UnsuitableServer("this Redis is a replica: give the primary's address as redis_url")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise UnsuitableServer(
            f"Redis has maxmemory-policy {policy}, which silently deletes deduplication marks "
            "and leases when memory is short: CONFIG SET maxmemory-policy noeviction"
        )


def is_out_of_memory(error: redis.exceptions.RedisError) -> bool:
    """Whether Redis refused to write because it has reached maxmemory.

    Redis 6.2 wraps the error of a script's command in one of its own, so the class does not tell.
    """
    return isinstance(error, redis.exceptions.OutOfMemoryError) or (
        isinstance(error, redis.exceptions.ResponseError)
        and "OOM command not allowed" in str(error)
    )
