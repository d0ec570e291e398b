"""Options that are settings, and the Config they make of defaults, file, variables and themselves.

A setting given on the command line travels to child processes in their environment, so that a
child ends with the very configuration its parent checked.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from certconf import Config, ConfigProblem, load, yaml_document
from launcher.runtime.logging_setup import FORMATS

#: Option -> the setting it is a short form of.
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
_PASSED: Final = "CERTSTREAM_OVERRIDES"


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Options that every command with a configuration has."""
    group = parser.add_argument_group(
        "configuration",
        "Options win over CERTSTREAM_* variables, those over config.yaml, that over the defaults.",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="the configuration file (default: $CERTSTREAM_CONFIG, else ./config.yaml if there "
        "is one)",
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
    group.add_argument("--redis-url", metavar="URL", help="redis://, rediss:// or unix://")
    group.add_argument("--state-dir", metavar="DIR", help="where an embedded Redis keeps its data")
    group.add_argument("--log-level", metavar="LEVEL", help="debug, info, warn or error")
    group.add_argument(
        "--log-format",
        choices=FORMATS,
        default="auto",
        help="auto: for reading on a terminal, JSON elsewhere",
    )
    # Set by a supervising `up`: the child ends with it, and repeats nothing it already said.
    parser.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)


def add_listening(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Options of commands that clients connect to."""
    group = parser.add_argument_group("listening")
    group.add_argument("--host", metavar="ADDRESS", help="address to listen on (0.0.0.0)")
    group.add_argument("--port", metavar="PORT", help="port to listen on (8080)")
    return group


def add_admin(parser: argparse.ArgumentParser, pages: str) -> None:
    """The option of commands that are one process, which gives these pages there."""
    parser.add_argument(
        "--admin",
        metavar="ADDRESS",
        type=_admin_address,
        help=f"HOST:PORT or unix:PATH where this one process alone gives {pages}",
    )


def add_start(parser: argparse.ArgumentParser) -> None:
    """Options of commands that follow logs."""
    group = parser.add_argument_group(
        "where to start",
        "For logs that Redis does not know yet; the others go on where they stopped.",
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


def configuration(options: argparse.Namespace) -> tuple[Config, dict[str, Any]]:
    """The Config, and the settings of the command line alone.

    Raises:
        certconf.ConfigError: with everything that is wrong.
    """
    overrides = overrides_of(options)
    return load(options.config, os.environ, overrides), overrides


def reader(options: argparse.Namespace, config: Config) -> Callable[[], Config]:
    """What reads again what `configuration` has read: the same file, even if it has gone."""
    return partial(load, config.file or options.config, os.environ, overrides_of(options))


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the command line, by dotted name."""
    supervised = getattr(options, "parent_pid", None) is not None
    passed = os.environ.get(_PASSED) if supervised else None
    overrides: dict[str, Any] = {**json.loads(passed or "{}"), **dict(options.assignments)}
    for option, setting in _SETTINGS.items():
        if (value := getattr(options, option, None)) is not None:
            overrides[setting] = value
    return overrides


def arguments(config: Config) -> Sequence[str]:
    """The arguments with which a child process, in `environment`, makes the same Config."""
    return [f"--config={config.file}"] if config.file else []


def environment(overrides: Mapping[str, Any]) -> Mapping[str, str]:
    """The environment of a child process, with the settings of its parent's command line.

    Not arguments: everybody on a machine can read those of every process, and these settings may
    hold the password of a Redis, or tokens.
    """
    return {**os.environ, _PASSED: json.dumps(overrides)}


def count(text: str) -> int:
    """The type of an option that says how many, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
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
