"""The subcommands of `certstream-server`."""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Final, Protocol

from certconf import Config, ConfigError, ConfigHolder, ConfigProblem
from certconf.errors import SourceLocation
from certconf.reload_policy import Service
from launcher import options
from launcher.runtime import run_service
from launcher.runtime.config_reload import ConfigReloader, release_hang_ups
from launcher.runtime.logging_setup import FORMATS, LEVELS
from launcher.terminal import silence_broken_pipe

PROGRAM: Final = "certstream-server"

#: Exit status of a wrong command line or configuration, as argparse's own.
USAGE: Final = 2

Handler = Callable[[argparse.Namespace], int]


class _Commands(Protocol):
    """What `add_subparsers` returns, as far as it is used here."""

    def add_parser(
        self,
        name: str,
        *,
        help: str,  # noqa: A002 - argparse's own name
        description: str,
        epilog: str,
        formatter_class: type[argparse.HelpFormatter],
    ) -> argparse.ArgumentParser: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the process's exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the locale cannot show is no reason to end
        sys.stdout.reconfigure(errors="backslashreplace")
    chosen = _parser(arguments[:1]).parse_args(arguments)
    handler: Handler = chosen.handler
    if handler not in _RELOADING:
        release_hang_ups()
    try:
        code = handler(chosen)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_broken_pipe()
        return 0
    except ConfigError as error:
        print(f"{PROGRAM}: the configuration cannot be used:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130
    return code


def _parser(command: Sequence[str]) -> argparse.ArgumentParser:
    """The whole parser; options that a service declares itself only if it is asked for."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="The live stream of every TLS certificate that Certificate Transparency logs "
        "receive.",
        epilog=f"`{PROGRAM} COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands: _Commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_up(commands)
    _add_ingest(commands)
    _add_gateway(commands)
    _add_simlog(commands, with_options="simlog" in command)
    _add_status(commands, with_options="status" in command)
    _add_tail(commands, with_options="tail" in command)
    _add_rejected(commands, with_options="rejected" in command)
    _add_skip(commands, with_options="skip" in command)
    _add_retire(commands, with_options="retire" in command)
    _add_refresh_lists(commands, with_options="refresh-lists" in command)
    _add_config(commands, with_options="config" in command)
    _add_version(commands)
    return parser


def _command(
    commands: _Commands, name: str, handler: Handler, summary: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def _add_up(commands: _Commands) -> None:
    parser = _command(
        commands,
        "up",
        _up,
        "run everything on this machine: Redis, ingestors and gateways",
        """\
  certstream-server up                         follow the public logs, serve on port 8080
  certstream-server up --demo                  the same from simulated logs, without a network
  certstream-server up --ingestors 2 --gateways 2
  certstream-server up --redis-url redis://redis.internal:6379/0
  CERTSTREAM_CONFIG=/etc/certstream.yaml certstream-server up""",
    )
    group = parser.add_argument_group("processes")
    group.add_argument("--ingestors", type=options.count, default=1, metavar="N", help="(1)")
    group.add_argument("--gateways", type=options.count, default=1, metavar="N", help="(1)")
    group.add_argument(
        "--demo",
        action="store_true",
        help="follow four simulated logs only, with a Redis that is thrown away at the end",
    )
    options.add_listening(parser)
    options.add_start(parser)
    options.add_configuration(parser)


def _add_ingest(commands: _Commands) -> None:
    parser = _command(
        commands,
        "ingest",
        _ingest,
        "run one ingestor: logs to Redis",
        """\
  certstream-server ingest --redis-url redis://redis:6379/0
  certstream-server ingest --from-start --set 'log_lists=[]' --config logs.yaml
  certstream-server ingest --admin 127.0.0.1:9101           its own /health and /metrics""",
    )
    options.add_start(parser)
    options.add_admin(parser, "/health, /health/deep and /metrics")
    options.add_configuration(parser)


def _add_gateway(commands: _Commands) -> None:
    parser = _command(
        commands,
        "gateway",
        _gateway,
        "run one gateway: Redis to clients",
        """\
  certstream-server gateway --redis-url redis://redis:6379/0 --port 8080
  certstream-server gateway --set redis_read_url=redis://replica:6379/0
  certstream-server gateway --admin 127.0.0.1:9100          its own /ready and /metrics""",
    )
    options.add_listening(parser)
    options.add_admin(parser, "/health, /ready and /metrics")
    options.add_configuration(parser)


def _add_simlog(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "simlog",
        _simlog,
        "serve simulated logs: real keys, trees and proofs, made-up certificates",
        """\
  certstream-server simlog --port 8090 --rate 100 --preload 5000
  certstream-server simlog --rfc6962 1 --static-ct 0 --seed 7 --total 10000""",
    )
    if with_options:
        from simlog.cli import add_arguments  # noqa: PLC0415

        add_arguments(parser)
        parser.add_argument("--log-level", choices=LEVELS, default="info", help="(%(default)s)")
        parser.add_argument("--log-format", choices=FORMATS, default="auto", help="(%(default)s)")
        parser.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)


def _add_status(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "status",
        _status,
        "show how logs, ingestors, gateways and streams do; exit with 1 if unhealthy",
        """\
  certstream-server status                                  of the `up` that runs here
  certstream-server status --watch
  certstream-server status --redis-url redis://redis:6379/0 --json | jq .status""",
    )
    if with_options:
        from launcher.commands.status.command import add_arguments  # noqa: PLC0415

        add_arguments(parser)
        options.add_configuration(parser)


def _add_tail(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "tail",
        _tail,
        "print what a server sends: domain names, or messages as JSON",
        """\
  certstream-server tail                                    names from ws://localhost:8080
  certstream-server tail --since 10m --match '(^|\\.)paypal'   those of the last minutes first
  certstream-server tail --format '{seen} {issuer} {domains}'
  certstream-server tail wss://certs.example.com --lite --limit 10 | jq .data.cert_link
  certstream-server tail http://localhost:8080 --json       by server-sent events
  certstream-server tail --redis redis://localhost:6379/0   without a gateway""",
    )
    if with_options:
        from launcher.commands.tail.arguments import add_arguments  # noqa: PLC0415

        add_arguments(parser)


def _add_rejected(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "rejected",
        _rejected,
        "show which entries of logs could not be read, or were skipped",
        """\
  certstream-server rejected                                of the `up` that runs here
  certstream-server rejected --redis-url redis://redis:6379/0 --log 'Example 2026h1' --json
  certstream-server rejected --log 'Example 2026h1' --raw 620 > entry.der""",
    )
    if with_options:
        from launcher.commands.rejected import add_arguments  # noqa: PLC0415

        add_arguments(parser)
        options.add_configuration(parser)


def _add_skip(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "skip",
        _skip,
        "go on behind entries of a log that cannot be had, which are then never streamed",
        """\
  certstream-server skip 'Example 2026h1' --to 621          asks first
  certstream-server skip https://ct.example/2026h1 --to 621 --reason 'always 500' --yes""",
    )
    if with_options:
        from launcher.commands.skip import add_arguments  # noqa: PLC0415

        add_arguments(parser)
        options.add_configuration(parser)


def _add_retire(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "retire",
        _retire,
        "read a log to its end and follow it no more, whatever lists and configurations say",
        """\
  certstream-server retire 'Example 2025h1' --reason 'nobody needs it'
  certstream-server retire 'Example 2025h1' --now           it cannot be read any more
  certstream-server retire 'Example 2025h1' --undo""",
    )
    if with_options:
        from launcher.commands.retire import add_arguments  # noqa: PLC0415

        add_arguments(parser)
        options.add_configuration(parser)


def _add_refresh_lists(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "refresh-lists",
        _refresh_lists,
        "have the log lists fetched now instead of within the hour",
        """\
  certstream-server refresh-lists
  certstream-server refresh-lists --redis-url redis://redis:6379/0""",
    )
    if with_options:
        from launcher.commands.refresh_lists import add_arguments  # noqa: PLC0415

        add_arguments(parser)
        options.add_configuration(parser)


def _add_config(commands: _Commands, *, with_options: bool) -> None:
    parser = _command(
        commands,
        "config",
        _config,
        "print every setting, its value, and where that was said",
        """\
  certstream-server config --config /etc/certstream/config.yaml
  certstream-server config --json | jq '.settings["port"]'
  certstream-server config --check                          for CI: exit status 2 on a mistake""",
    )
    if with_options:
        from launcher.commands.config import add_arguments  # noqa: PLC0415

        add_arguments(parser)
    options.add_listening(parser)
    options.add_start(parser)
    options.add_configuration(parser)


def _add_version(commands: _Commands) -> None:
    _command(
        commands, "version", _print_version, "print the version", "  certstream-server version"
    )


def _up(chosen: argparse.Namespace) -> int:
    from launcher.commands.up.command import run  # noqa: PLC0415

    return run(chosen)


def _ingest(chosen: argparse.Namespace) -> int:
    config = _with_redis(chosen)
    from ingestor.app import serve  # noqa: PLC0415

    run_service.prepare("ingestor", config, chosen.log_format, chosen.parent_pid)
    present = ConfigHolder(config)
    return run_service.run_reporting_errors(
        lambda stop: serve(config, stop, present=present),
        _reloader("ingestor", chosen, present),
    )


def _gateway(chosen: argparse.Namespace) -> int:
    config = _with_redis(chosen)
    from gateway.app import serve  # noqa: PLC0415

    run_service.prepare("gateway", config, chosen.log_format, chosen.parent_pid)
    present = ConfigHolder(config)
    return run_service.run_reporting_errors(
        lambda stop: serve(config, stop, admin=config.admin, present=present),
        _reloader("gateway", chosen, present),
    )


#: Commands that read their configuration again on SIGHUP: a `Reloader` unblocks it there.
_RELOADING: Final = (_up, _ingest, _gateway)


def _reloader(name: Service, chosen: argparse.Namespace, present: ConfigHolder) -> ConfigReloader:
    read = options.reader(chosen, present.config)
    return ConfigReloader(name, present, read, quiet=chosen.parent_pid is not None)


def _with_redis(chosen: argparse.Namespace) -> Config:
    """The configuration of a command that has no Redis of its own."""
    config, _ = options.configuration(chosen)
    if config.redis_url is None:
        origin = SourceLocation(str(config.file or "command line"))
        missing = "is needed (or CERTSTREAM_REDIS_URL, --redis-url); `up` runs a Redis of its own"
        raise ConfigError((ConfigProblem(origin, "redis_url", missing),))
    return config


def _simlog(chosen: argparse.Namespace) -> int:
    from simlog.cli import run  # noqa: PLC0415

    run_service.prepare(
        "simlog", Config(log_level=chosen.log_level), chosen.log_format, chosen.parent_pid
    )
    try:
        return run(chosen)
    except (ValueError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1


def _status(chosen: argparse.Namespace) -> int:
    from launcher.commands.status.command import run  # noqa: PLC0415

    return run(chosen)


def _tail(chosen: argparse.Namespace) -> int:
    from launcher.commands.tail.command import run  # noqa: PLC0415

    return run(chosen)


def _rejected(chosen: argparse.Namespace) -> int:
    from launcher.commands.rejected import run  # noqa: PLC0415

    return run(chosen)


def _retire(chosen: argparse.Namespace) -> int:
    from launcher.commands.retire import run  # noqa: PLC0415

    return run(chosen)


def _refresh_lists(chosen: argparse.Namespace) -> int:
    from launcher.commands.refresh_lists import run  # noqa: PLC0415

    return run(chosen)


def _skip(chosen: argparse.Namespace) -> int:
    from launcher.commands.skip import run  # noqa: PLC0415

    return run(chosen)


def _config(chosen: argparse.Namespace) -> int:
    from launcher.commands.config import run  # noqa: PLC0415

    return run(chosen)


def _print_version(_: argparse.Namespace) -> int:
    print(PROGRAM, _version())
    return 0


def _version() -> str:
    return version(PROGRAM)
