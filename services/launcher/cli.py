"""The subcommands of `certstream-server`: a table of them, and their exit statuses.

The module of a command is imported only when that command is chosen: the import of all would cost
half a second.
"""

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final, Protocol, cast

import msgspec

from certconf import ConfigError
from launcher import optional_modules
from launcher.runtime.config_reload import unblock_sighup
from launcher.terminal import CommandError, print_error, silence_broken_pipe

PROGRAM: Final = "certstream-server"

USAGE: Final = 2
"""Exit status of a wrong command line or configuration, as argparse's own."""


class CommandModule(Protocol):
    """The functions of a command's module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, args: argparse.Namespace) -> int:
        """Run the command and return the exit status of the process."""


class Command(msgspec.Struct, frozen=True):
    """One subcommand.

    Attributes:
        name: as on the command line.
        module: in `launcher.commands`; a `CommandModule`.
        summary: imperative, one line of at most 90 characters.
        examples: lines for the end of `--help`.
        reloads: whether it reads its configuration again on SIGHUP, which ends any other command.
    """

    name: str
    module: str
    summary: str
    examples: str
    reloads: bool = False


COMMANDS: Final = (
    Command(
        "up",
        "up.command",
        "run everything on this machine: Redis, ingestors and gateways",
        """\
  certstream-server up                         follow the public logs, serve on port 8080
  certstream-server up --demo                  the same from simulated logs, without a network
  certstream-server up --ingestors 2 --gateways 2
  certstream-server up --redis-url redis://redis.internal:6379/0
  CERTSTREAM_CONFIG=/etc/certstream.yaml certstream-server up""",
        reloads=True,
    ),
    Command(
        "ingest",
        "ingest",
        "run one ingestor: read logs and publish their certificates to Redis",
        """\
  certstream-server ingest --redis-url redis://redis:6379/0
  certstream-server ingest --from-start --set 'log_lists=[]' --config logs.yaml
  certstream-server ingest --admin 127.0.0.1:9101           its own /health and /metrics""",
        reloads=True,
    ),
    Command(
        "gateway",
        "gateway",
        "run one gateway: send certificates from Redis to WebSocket and SSE clients",
        """\
  certstream-server gateway --redis-url redis://redis:6379/0 --port 8080
  certstream-server gateway --set redis_read_url=redis://replica:6379/0
  certstream-server gateway --admin 127.0.0.1:9100          its own /ready and /metrics""",
        reloads=True,
    ),
    Command(
        "simlog",
        "simlog",
        "serve simulated logs: real keys, trees and proofs, generated certificates",
        """\
  certstream-server simlog --port 8090 --rate 100 --preload 5000
  certstream-server simlog --rfc6962 1 --static-ct 0 --seed 7 --total 10000""",
    ),
    Command(
        "status",
        "status.command",
        "show the status of logs, ingestors, gateways and streams (exit status 1 if unhealthy)",
        """\
  certstream-server status                                  of the `up` on this machine
  certstream-server status --watch
  certstream-server status --redis-url redis://redis:6379/0 --json | jq .status""",
    ),
    Command(
        "tail",
        "tail.command",
        "print the messages of a server: domain names, or JSON",
        """\
  certstream-server tail                                    names from ws://localhost:8080
  certstream-server tail --since 10m --match contains:paypal   from the last minutes on
  certstream-server tail --format '{seen} {issuer} {domains}'
  certstream-server tail wss://certs.example.com --lite --limit 10 | jq .data.cert_link
  certstream-server tail http://localhost:8080 --json       by server-sent events
  certstream-server tail --redis redis://localhost:6379/0   without a gateway""",
    ),
    Command(
        "backfill",
        "backfill",
        "write the certificates of one log between two entries or dates as JSON Lines",
        """\
  certstream-server backfill 'Example 2026h1' --from 1000 --to 1999
  certstream-server backfill 'Example 2026h1' --from 2026-05-01 --output may.jsonl
  certstream-server backfill https://ct.example/2026h1 --from 0 --match domain:example.com""",
    ),
    Command(
        "entry",
        "entry",
        "print one entry of a log, proven against its tree",
        """\
  certstream-server entry 'Example 2026h1' 620 | jq .data.cert.all_domains""",
    ),
    Command(
        "rejected",
        "rejected",
        "list the entries of logs that could not be decoded or were skipped",
        """\
  certstream-server rejected                                of the `up` on this machine
  certstream-server rejected --redis-url redis://redis:6379/0 --log 'Example 2026h1' --json
  certstream-server rejected --log 'Example 2026h1' --raw 620 > entry.der""",
    ),
    Command(
        "skip",
        "skip",
        "skip entries a log cannot serve; they will never be streamed",
        """\
  certstream-server skip 'Example 2026h1' --to 621          with a confirmation
  certstream-server skip https://ct.example/2026h1 --to 621 --reason 'always 500' --yes""",
    ),
    Command(
        "retire",
        "retire",
        "drain a log, then stop following it regardless of log lists and configuration",
        """\
  certstream-server retire 'Example 2025h1' --reason 'no longer needed'
  certstream-server retire 'Example 2025h1' --now           without draining it
  certstream-server retire 'Example 2025h1' --undo""",
    ),
    Command(
        "refresh-lists",
        "refresh_lists",
        "fetch the log lists now",
        """\
  certstream-server refresh-lists
  certstream-server refresh-lists --redis-url redis://redis:6379/0""",
    ),
    Command(
        "config",
        "config",
        "print every setting, its value and its source",
        """\
  certstream-server config --config /etc/certstream/config.yaml
  certstream-server config --json | jq '.settings["port"]'
  certstream-server config --check                          exit status 2 on an error
  certstream-server config --schema > config.schema.json    for an editor""",
    ),
    Command(
        "token",
        "token",
        "make a token for a client, and its setting for auth.holders",
        "  certstream-server token --name alice",
    ),
    Command(
        "redis-acl",
        "redis_acl",
        "print the ACL rule of the user that the server needs in Redis",
        """\
  certstream-server redis-acl --redis-url redis://certstream@redis:6379/0 >> users.acl
  certstream-server redis-acl --server replica              for redis_read_url
  certstream-server redis-acl --server sentinel             for redis+sentinel://""",
    ),
    Command("version", "version", "print the version", "  certstream-server version"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status of the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # escape what the locale cannot encode
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser(arguments[:1])
    if not arguments:
        parser.print_help(sys.stderr)
        print_error(f"a command is missing; `{PROGRAM} up` runs everything on this machine")
        return USAGE
    args = parser.parse_args(arguments)
    command: Command = args.command
    if not command.reloads:
        unblock_sighup()
    try:
        code = _module(command).run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_broken_pipe()
        return 0
    except ConfigError as error:
        print_error(f"the configuration cannot be used:\n{error}")
        return USAGE
    except CommandError as error:
        print_error(error)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser(chosen: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with every command, and the options of those in `chosen`."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="The live stream of every TLS certificate that Certificate Transparency logs "
        "receive.",
        epilog=f"`{PROGRAM} COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version(PROGRAM)}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        summary = command.summary
        subparser = commands.add_parser(
            command.name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{command.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(command=command)
        if command.name in chosen:
            _module(command).add_arguments(subparser)
    return parser


def _module(command: Command) -> CommandModule:
    if not command.reloads:
        optional_modules.show()
    return cast("CommandModule", importlib.import_module(f"launcher.commands.{command.module}"))
