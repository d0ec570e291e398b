"""`certstream-server config`: print the settings, each with its source."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.syntax import Syntax

from certconf import Config, ConfigError, find_config_file
from certconf.errors import ConfigProblem, SourceLocation
from certconf.flatten import flatten
from certconf.schema import json_schema
from certhttp.address import UNIX
from launcher import options
from launcher.commands.up.addresses import unusable

_DEFAULT = "default"
_COMMENT_COLUMN = 44


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("output").add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="JSON instead of YAML")
    group.add_argument(
        "--check",
        action="store_true",
        help="only check it and print notices; exit status 2 if it is invalid",
    )
    group.add_argument(
        "--schema", action="store_true", help="the JSON Schema of config.yaml, for editors"
    )
    options.add_listening(parser)
    options.add_start(parser)
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Print the configuration, secrets masked.

    Raises:
        certconf.ConfigError: with every problem.
    """
    if args.schema:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    config, origins = find_config_file(args.config, os.environ, options.overrides_of(args))
    if args.check:
        _check_addresses(config, origins)
        for notice in config.notices:
            print(f"note: {notice}")
        print(f"OK: {config.file or 'no file; defaults, variables and command line'}")
    elif args.json:
        print(json.dumps(as_json(config, origins), indent=2, ensure_ascii=False))
    else:
        text = "\n".join(as_yaml(config, origins))
        if sys.stdout.isatty():
            syntax = Syntax(text, "yaml", background_color="default", word_wrap=True)
            Console().print(syntax)
        else:
            print(text)
    return 0


def _check_addresses(config: Config, origins: Mapping[str, SourceLocation]) -> None:
    """Check that this machine can listen on the configured addresses, or already does.

    Raises:
        ConfigError: it cannot.
    """
    addresses = [("host", config.host, config.port)]
    if config.admin is not None and not config.admin.startswith(UNIX):
        host, _, port = config.admin.rpartition(":")
        addresses.append(("admin", host.removeprefix("[").removesuffix("]"), int(port)))
    problems = [
        ConfigProblem(
            origins.get(key, SourceLocation(_DEFAULT)),
            key,
            f"cannot listen on {host} port {port}: {why}",
        )
        for key, host, port in addresses
        if (why := unusable(host, port)) is not None
    ]
    if problems:
        raise ConfigError(tuple(problems))


def as_json(config: Config, origins: Mapping[str, SourceLocation]) -> dict[str, Any]:
    """Return the settings by their dotted names, with value and origin; and the notices."""
    return {
        "file": None if config.file is None else str(config.file),
        "settings": {
            key: {"value": value, "origin": str(origins.get(key, _DEFAULT))}
            for key, value in flatten(config).items()
        },
        "notices": list(config.notices),
    }


def as_yaml(config: Config, origins: Mapping[str, SourceLocation]) -> Iterator[str]:
    """Return the lines of an equivalent config.yaml, each with the origin of its value."""
    yield "# Each value and its source: default, file:line, variable or command line."
    yield from (f"# note: {notice}" for notice in config.notices)
    begun: list[str] = []
    for key, value in flatten(config).items():
        *sections, name = key.split(".")
        for depth, section in enumerate(sections):
            if begun[: depth + 1] != sections[: depth + 1]:
                yield f"{'  ' * depth}{section}:"
        begun = sections
        indent = "  " * len(sections)
        origin = origins.get(key)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield _commented(f"{indent}{name}:", origin)
            for number, item in enumerate(value):
                at = origins.get(f"{key}[{number}]", origin)
                yield _commented(f"{indent}  - {_flow(item)}", at)
        else:
            yield _commented(f"{indent}{name}: {_flow(value)}", origin)


def _flow(value: Any) -> str:
    """A value on one line; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def _commented(line: str, origin: SourceLocation | None) -> str:
    return f"{line:<{_COMMENT_COLUMN}}  # {origin or _DEFAULT}"
