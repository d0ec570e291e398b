"""The Redis that a command works on: the configured one, or the embedded one of a running `up`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import Keys
from certconf import Config
from launcher import options
from launcher.runtime.embedded_redis import find_running
from launcher.runtime.runtime_dir import DEMO_STATE, runtime_dir_path
from launcher.terminal import escape_control_chars

Work = Callable[[Redis, Keys], Awaitable[int]]


def run_with_redis(args: argparse.Namespace, name: str, work: Work) -> int:
    """Connect to the Redis of this configuration, do `work`, and return its exit status.

    Args:
        args: the options, those of `options.add_configuration` among them.
        name: of the command.
        work: returns the exit status.

    Raises:
        certconf.ConfigError: the configuration is invalid.
    """
    config, _ = options.configuration(args)
    url = config.redis_url.reveal() if config.redis_url else _embedded(config)
    if url is None:
        fail(_nothing_runs(config))
        return 1

    async def with_client() -> int:
        async with connect(url, name=name) as client:
            return await work(client, Keys(config.redis_prefix))

    try:
        return asyncio.run(with_client())
    except redis.exceptions.RedisError as error:
        fail(f"Redis: {error}")
        return 1


def fail(problem: str) -> None:
    """Print the reason why the command fails; it may be text of a log or a server."""
    print(f"certstream-server: {escape_control_chars(problem)}", file=sys.stderr)


def _embedded(config: Config) -> str | None:
    """Return the Redis of a running `up`, or of an `up --demo`, which has its state elsewhere."""
    return find_running(config.state_dir) or find_running(
        runtime_dir_path(config.host, config.port) / DEMO_STATE
    )


def _nothing_runs(config: Config) -> str:
    return (
        f"no `up` runs with the state directory {config.state_dir}, and no `up --demo` listens on "
        f"{config.host} port {config.port}. Start one, or name the one that runs: --state-dir DIR, "
        "--set port=PORT or --set host=ADDRESS for a demo at another address, or --redis-url URL "
        "for a Redis of your own"
    )
