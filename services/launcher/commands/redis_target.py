"""Which Redis a command is about: the configured one, or the embedded one of a running `up`."""

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


def run_with_redis(chosen: argparse.Namespace, name: str, work: Work) -> int:
    """Do something with the Redis of this configuration; returns the exit status.

    Args:
        chosen: the options, those of `options.add_configuration` among them.
        name: of the command.
        work: returns the exit status.

    Raises:
        certconf.ConfigError: the configuration cannot be used.
    """
    config, _ = options.configuration(chosen)
    url = config.redis_url.reveal() if config.redis_url else _embedded(config)
    if url is None:
        print(f"certstream-server: {_nothing_runs(config)}", file=sys.stderr)
        return 1

    async def with_client() -> int:
        async with connect(url, name=name) as client:
            return await work(client, Keys(config.redis_prefix))

    try:
        return asyncio.run(with_client())
    except redis.exceptions.RedisError as error:
        print(f"certstream-server: Redis: {escape_control_chars(str(error))}", file=sys.stderr)
        return 1


def _embedded(config: Config) -> str | None:
    """The Redis of a running `up`, or of an `up --demo`, which has its state elsewhere."""
    return find_running(config.state_dir) or find_running(
        runtime_dir_path(config.host, config.port) / DEMO_STATE
    )


def _nothing_runs(config: Config) -> str:
    return (
        f"no `up` runs with the state directory {config.state_dir}, and no `up --demo` listens on "
        f"{config.host} port {config.port}. Start one, or name the one that runs: --state-dir DIR, "
        "--set port=PORT for a demo on another port (--set host=ADDRESS likewise), or --redis-url "
        "URL for a Redis of your own"
    )
