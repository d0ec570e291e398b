"""The command: one report, or a new one every second."""

import argparse
import os
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.live import Live

from certbus.cluster import Snapshot
from certbus.cluster_report import cluster_report, read_report
from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certbus.sentinel import requires_replicas
from launcher import options
from launcher.commands.redis_target import run_with_redis
from launcher.commands.status.render import Printable, view
from launcher.commands.status.watch import watch
from launcher.terminal import print_json

_PIPE_COLUMNS: Final = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the whole report as JSON on one line")
    form.add_argument("--watch", action="store_true", help="a new report every second until Ctrl-C")
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Print a report.

    Returns:
        1 if the status is unhealthy or Redis is unavailable, else 0.
    """

    async def work(client: Redis, keys: Keys) -> int:
        config, _ = options.configuration(args)
        threshold = config.ct_log.unhealthy_threshold
        read = partial(read_report, client, keys, threshold)
        console = Console(highlight=False, markup=False, width=columns())
        if args.watch:
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                await watch(
                    read,
                    lambda: (console.width, console.height),
                    lambda content: live.update(content, refresh=True),
                )
        try:
            report = await read()
        except UNAVAILABLE as error:
            if not args.json:
                raise
            empty = Snapshot(int(time.time() * 1000))
            report = cluster_report(empty, str(error), unhealthy_threshold=threshold)
        if args.json:
            print_json(msgspec.json.encode(report))
        else:
            console.print(Printable(view(report, console.width)))
            if config.redis_url and config.redis_url.has_sentinels:
                await _check_replication(client)
        return int(report.status == "unhealthy")

    return run_with_redis(args, "status", work)


def columns() -> int | None:
    """Return the width of a report in a pipe, where names are not cut; None: of the terminal."""
    return None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _PIPE_COLUMNS


async def _check_replication(client: Redis) -> None:
    with suppress(*UNAVAILABLE):
        if not await requires_replicas(client):
            print(
                "warning: the primary has no min-replicas-to-write: a fail-over loses what it "
                "accepts until it is demoted. Set min-replicas-to-write 1 and "
                "min-replicas-max-lag 10",
                file=sys.stderr,
            )
