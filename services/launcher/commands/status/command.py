"""The command: one report, or a new one every second."""

import argparse
import time

import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.live import Live

from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from launcher import options
from launcher.commands.redis_target import run_with_redis
from launcher.commands.status.render import view
from launcher.commands.status.report import unreachable
from launcher.commands.status.watch import Collector, watch
from launcher.terminal import Printable, print_json


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
        collector = Collector(client, keys, config.ct_log.unhealthy_threshold)
        console = Console(highlight=False, markup=False)
        if args.watch:
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                await watch(
                    collector,
                    lambda: (console.width, console.height),
                    lambda content: live.update(content, refresh=True),
                )
        try:
            report = await collector.report(settled=True)
        except UNAVAILABLE as error:
            if not args.json:
                raise
            report = unreachable(str(error), time.time())
        if args.json:
            print_json(msgspec.json.encode(report))
        else:
            console.print(Printable(view(report, console.width)))
        return int(report.status == "unhealthy")

    return run_with_redis(args, "status", work)
