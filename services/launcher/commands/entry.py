"""`certstream-server entry`: print one entry of a log, proven against its tree."""

import argparse

from launcher import options
from launcher.commands.backfill import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("log", metavar="LOG", help="its name, URL or id")
    parser.add_argument("index", metavar="INDEX", type=options.index, help="of the entry, from 0")
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Print the message of the entry."""
    return write(args, args.index, args.index)
