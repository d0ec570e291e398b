"""The Redis that a command works on: the configured one, or the embedded one of a running `up`."""

import argparse
import asyncio
import os
import stat
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
from launcher.runtime.runtime_dir import DEMO_LISTS, DEMO_STATE, runtime_dir_path
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
    directory = _demo_dir(config)
    return None if directory is None else find_running(directory / DEMO_STATE)


def _demo_dir(config: Config) -> Path | None:
    """Return the directory of a demo of this user; None if another user has made it."""
    directory = runtime_dir_path(config.host, config.port)
    try:
        found = directory.lstat()
    except OSError:
        return None
    return directory if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() else None


def with_demo_lists(config: Config) -> Config:
    """Return the configuration with the log lists of the demo whose Redis `find_redis` returns.

    Its logs are in no configuration file. Without a demo, return `config`.
    """
    directory = _demo_dir(config)
    if directory is None or config.redis_url or find_running(config.state_dir):
        return config
    try:
        held = (directory / DEMO_LISTS).read_bytes()
    except OSError:
        return config
    if find_running(directory / DEMO_STATE) is None:
        return config
    lists = msgspec.json.decode(held, type=tuple[LogList, ...])
    return msgspec.structs.replace(config, log_lists=lists, custom_logs=(), static_logs=())
