"""Every command of `certstream-server` with its options, from its argument parser."""

import argparse
import re
from collections.abc import Iterator
from typing import Final

from docs.generate.tables import code, table
from launcher import cli

_HEAD: Final = ["argument", "meaning"]


def commands() -> str:
    """Return the shared options of commands with a configuration, and a section per command."""
    found = {name: _parser(name) for name in _subparsers(cli._parser(()))}  # noqa: SLF001
    rows = {name: _options(parser) for name, parser in found.items()}
    configured = [each for each in rows.values() if any("--config" in row[0] for row in each)]
    shared = [row for row in configured[0] if all(row in each for each in configured)]
    parts = [f"### Configuration options\n\n{table(_HEAD, shared)}"]
    for name, parser in found.items():
        own = [row for row in rows[name] if row not in shared]
        about = f"### `{cli.PROGRAM} {name}`\n\n{_plain(parser.description or '')}"
        if len(own) < len(rows[name]):
            about += " Takes the configuration options."
        parts.append(f"{about}\n\n{table(_HEAD, own)}" if own else about)
    return "\n\n".join(parts)


def _parser(name: str) -> argparse.ArgumentParser:
    return _subparsers(cli._parser((name,)))[name]  # noqa: SLF001


def _options(parser: argparse.ArgumentParser) -> list[list[str]]:
    return [row for action in parser._actions for row in _rows(action)]  # noqa: SLF001


def _rows(action: argparse.Action) -> Iterator[list[str]]:
    if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):  # noqa: SLF001
        return
    value = action.metavar if isinstance(action.metavar, str) else None
    if value is None and action.choices is not None:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        name = value or action.dest
    else:
        takes_value = action.nargs != 0
        name = f"{action.option_strings[-1]} {value or action.dest.upper()}"
        name = name if takes_value else action.option_strings[-1]
    yield [code(name), _plain(_expanded(action))]


def _expanded(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": cli.PROGRAM}


def _plain(text: str) -> str:
    """Return the text on one line, with `<` kept from being taken for HTML."""
    return re.sub(r"\s+", " ", text).strip().replace("<", "\\<")


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action
        for action in parser._actions  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction)  # noqa: SLF001
    )
    return dict(action.choices)
