"""Options that set settings, and the Config of command line, variables, file and defaults.

A supervising `up` passes the settings of its command line to its children in their environment, so
that a child reads the same configuration as its parent.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from certconf import Config, ConfigError, ConfigProblem, load, yaml_document
from certconf.errors import SourceLocation
from launcher.runtime.logging_setup import FORMATS

#: Option -> the setting that it sets.
_SETTINGS: Final[Mapping[str, str]] = {
    "host": "host",
    "port": "port",
    "log_level": "log_level",
    "state_dir": "state_dir",
    "redis_url": "redis_url",
    "start_index": "ct_log.start_index",
    "admin": "admin",
}

#: The variable in which `up` passes the settings of its command line to its children, as JSON.
_OVERRIDES: Final = "CERTSTREAM_OVERRIDES"
_MAX_INDEX_DIGITS: Final = 20  # of 64 bits


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Declare the options of every command that has a configuration."""
    group = parser.add_argument_group(
        "configuration",
        "Precedence: options, then CERTSTREAM_* variables, then config.yaml, then defaults.",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file (default: $CERTSTREAM_CONFIG, else ./config.yaml if it exists)",
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=_assignment,
        dest="assignments",
        help="any setting, its value as YAML: --set streams.full=false --set 'log_lists=[]'",
    )
    group.add_argument(
        "--redis-url", metavar="URL", help="redis://, rediss://, unix:// or redis+sentinel://"
    )
    group.add_argument("--state-dir", metavar="DIR", help="directory of an embedded Redis' data")
    group.add_argument("--log-level", metavar="LEVEL", help="debug, info, warn or error")
    group.add_argument(
        "--log-format",
        choices=FORMATS,
        default="auto",
        help="auto: console on a terminal, else json",
    )
    # Set by a supervising `up`: the child ends with it, and does not repeat its notices.
    parser.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)


def add_listening(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that clients connect to."""
    group = parser.add_argument_group("listening")
    group.add_argument("--host", metavar="ADDRESS", help="address to listen on (0.0.0.0)")
    group.add_argument("--port", metavar="PORT", help="port to listen on (8080)")


def add_admin(parser: argparse.ArgumentParser, pages: str) -> None:
    """Declare the option of commands that are one process with an admin listener."""
    parser.add_argument(
        "--admin",
        metavar="ADDRESS",
        type=_admin_address,
        help=f"admin listener (HOST:PORT or unix:PATH) serving {pages} for this process",
    )


def add_start(parser: argparse.ArgumentParser) -> None:
    """Declare the options of commands that follow logs."""
    group = parser.add_argument_group(
        "where to start",
        "Applies to logs not yet in Redis; others resume at their stored position.",
    ).add_mutually_exclusive_group()
    group.add_argument(
        "--from-start",
        action="store_const",
        const=0,
        dest="start_index",
        help="at each log's first entry, instead of its newest",
    )
    group.add_argument(
        "--from-index", metavar="N", dest="start_index", help="at this index of each log"
    )


def configuration(args: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """Return the Config, and the settings of the command line alone.

    Raises:
        certconf.ConfigError: with every problem.
    """
    overrides = overrides_of(args)
    return load(args.config, os.environ, overrides), overrides


def configuration_with_redis(args: argparse.Namespace) -> Config:
    """Return the Config of a command that starts no Redis.

    Raises:
        certconf.ConfigError: with every problem; one is a missing `redis_url`.
    """
    config, _ = configuration(args)
    if config.redis_url is None:
        origin = SourceLocation(str(config.file or "command line"))
        missing = "is needed (or CERTSTREAM_REDIS_URL, --redis-url); `up` starts a Redis of its own"
        raise ConfigError((ConfigProblem(origin, "redis_url", missing),))
    return config


def reader(args: argparse.Namespace, config: Config) -> Callable[[], Config]:
    """Return a function that reads a configuration again: the same file, even if it is missing."""
    return partial(load, config.file or args.config, os.environ, overrides_of(args))


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the command line, by dotted name."""
    supervised = getattr(args, "parent_pid", None) is not None
    inherited = os.environ.get(_OVERRIDES) if supervised else None
    overrides: dict[str, Any] = {**json.loads(inherited or "{}"), **dict(args.assignments)}
    for option, setting in _SETTINGS.items():
        if (value := getattr(args, option, None)) is not None:
            overrides[setting] = value
    return overrides


def arguments(config: Config) -> Sequence[str]:
    """Return the arguments with which a child process, in `environment`, makes the same Config."""
    return [f"--config={config.file}"] if config.file else []


def environment(overrides: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the environment of a child process, with the settings of its parent's command line.

    Not arguments: every user of a machine can read those of every process, and these settings may
    hold the password of a Redis, or tokens.
    """
    return {**os.environ, _OVERRIDES: json.dumps(overrides)}


def count(text: str) -> int:
    """Parse a number of things: the type of an option, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def index(text: str) -> int:
    """Parse the index of an entry: the type of an argument, for argparse."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_INDEX_DIGITS):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not the index of an entry, 0 or more")
    return int(text)


def _admin_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not text.startswith("unix:") and not (host and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither HOST:PORT nor unix:PATH")
    return text


def _assignment(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    problems: list[ConfigProblem] = []
    try:
        node = yaml_document.parse(os.fsencode(value), "its value", problems)
    except yaml_document.DocumentError as error:
        problems.append(error.problem)
    if problems:
        raise argparse.ArgumentTypeError(f"the value of {key} {problems[0].message}")
    return key.strip(), yaml_document.unfolded(node) if value.strip() else None
