"""`certstream-server simlog`: simulated logs in this process."""

import argparse

from certconf import Config
from launcher.runtime import run_service
from launcher.runtime.logging_setup import FORMATS, LEVELS
from launcher.terminal import CommandError
from simlog import cli


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    cli.add_arguments(parser)
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="(%(default)s)")
    parser.add_argument("--log-format", choices=FORMATS, default="auto", help="(%(default)s)")
    parser.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve the logs until SIGINT or SIGTERM."""
    config = Config(log_level=args.log_level)
    run_service.prepare("simlog", config, args.log_format, args.parent_pid)
    try:
        return cli.run(args)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
