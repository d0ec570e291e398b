"""The Redis that a command works on: the configured one, or the embedded one of a running `up`."""

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.keys import Keys
from certconf import Config
from certconf.settings import LogList
from launcher import options
from launcher.runtime.embedded_redis import find_running
from launcher.runtime.runtime_dir import DEMO_LISTS, DEMO_STATE, open_runtime_dir
from launcher.terminal import CommandError

T = TypeVar("T")


def run_with_redis(
    args: argparse.Namespace, name: str, work: Callable[[Redis, Keys], Awaitable[T]]
) -> T:
    """Connect to the Redis of this configuration, do `work`, and return its result.

    Args:
        args: the options, those of `options.add_configuration` among them.
        name: of the command.
        work: the command.

    Raises:
        certconf.ConfigError: the configuration is invalid.
        CommandError: Redis does not run or is unavailable; or raised by `work`.
    """
    config, _ = options.configuration(args)
    url = find_redis(config)
    if url is None:
        raise CommandError(
            f"no `up` runs with the state directory {config.state_dir}, and no `up --demo` listens "
            f"on {config.host} port {config.port}. Start one, or name the one that runs: "
            "--state-dir DIR, --set port=PORT or --set host=ADDRESS for a demo at another address, "
            "or --redis-url URL for a Redis of your own"
        )

    async def with_client() -> T:
        async with connect(url, name=name) as client:
            return await work(client, Keys(config.redis_prefix))

    try:
        return asyncio.run(with_client())
    except redis.exceptions.RedisError as error:
        raise CommandError(f"Redis: {error}") from error


def find_redis(config: Config) -> str | None:
    """Return the URL of the configured Redis, or of a running `up`; None if there is none.

    The state of an `up --demo` is elsewhere.
    """
    if config.redis_url:
        return config.redis_url.reveal()
    if (url := find_running(config.state_dir)) is not None:
        return url
    with open_runtime_dir(config.host, config.port) as directory:
        return None if directory is None else find_running(Path(DEMO_STATE), directory)


def with_demo_lists(config: Config) -> Config:
    """Return the configuration and the log lists of the demo whose Redis `find_redis` returns.

    Its logs are in no configuration file. Without a demo, return `config`.
    """
    if config.redis_url or find_running(config.state_dir):
        return config
    with open_runtime_dir(config.host, config.port) as directory:
        if directory is None:
            return config
        try:
            lists = os.open(DEMO_LISTS, os.O_RDONLY, dir_fd=directory)
        except OSError:
            return config
        with os.fdopen(lists, "rb") as file:
            held = file.read()
        if find_running(Path(DEMO_STATE), directory) is None:
            return config
    demo = msgspec.json.decode(held, type=tuple[LogList, ...])
    return msgspec.structs.replace(config, log_lists=(*config.followed_lists, *demo))
