"""The command: one report, or one after the other."""

import argparse
import asyncio
import time
from typing import Final

import msgspec
from redis.asyncio import Redis
from rich.console import Console
from rich.live import Live
from rich.text import Text

from certbus.errors import UNAVAILABLE
from certbus.keys import Keys
from certconf import Config
from launcher import options
from launcher.commands.redis_target import run_with_redis
from launcher.commands.status.collect import collect
from launcher.commands.status.rates import Rates
from launcher.commands.status.render import view
from launcher.commands.status.report import Report, build_report, unreachable
from launcher.terminal import Printable, escape_control_chars, print_json

_BETWEEN: Final = 1.0  # seconds between the two looks that a rate needs
_WATCH: Final = 2.0  # seconds between two reports
_RATE: Final = 10.0  # seconds that a rate looks back while watching
_OTHER_LINES: Final = 24  # of a watched report, beside the logs, with two ingestors and gateways


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, one line; with all there is")
    form.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")


def run(chosen: argparse.Namespace) -> int:
    """Show how everything does.

    Returns:
        0 unless it is unhealthy or Redis cannot be asked.
    """

    async def work(client: Redis, keys: Keys) -> int:
        config, _ = options.configuration(chosen)
        if chosen.watch:
            return await _watch(client, keys, config)
        try:
            found = await _once(client, keys, config)
        except UNAVAILABLE as error:
            if not chosen.json:
                raise
            found = unreachable(str(error), time.time())
        if chosen.json:
            print_json(msgspec.json.encode(found))
        else:
            console = Console(highlight=False, markup=False)
            console.print(Printable(view(found, console.width)))
        return int(found.status == "unhealthy")

    return run_with_redis(chosen, "status", work)


async def _once(client: Redis, keys: Keys, config: Config) -> Report:
    """One report. Processes say how fast their counters grow; those of an older release do not."""
    seen = await collect(client, keys)
    growth: dict[str, float] = {}
    if seen.counts().keys() - seen.rates().keys():
        rates = Rates(_RATE)
        rates.after(time.monotonic(), seen.counts())
        await asyncio.sleep(_BETWEEN)
        seen = await collect(client, keys)
        growth = rates.after(time.monotonic(), seen.counts())
    return build_report(seen, growth, config.ct_log.unhealthy_threshold)


async def _look(client: Redis, keys: Keys, config: Config, rates: Rates) -> Report:
    seen = await collect(client, keys)
    growth = rates.after(time.monotonic(), seen.counts())
    return build_report(seen, growth, config.ct_log.unhealthy_threshold)


async def _watch(client: Redis, keys: Keys, config: Config) -> int:
    rates = Rates(_RATE)
    console = Console(highlight=False, markup=False)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            try:
                found = await _look(client, keys, config, rates)
            except UNAVAILABLE as error:
                live.update(
                    Text(f"Redis: {escape_control_chars(str(error))}", style="red"), refresh=True
                )
            else:
                room = max(console.height - _OTHER_LINES, 3)
                live.update(Printable(view(found, console.width, room)), refresh=True)
            await asyncio.sleep(_WATCH)
