"""`certstream-server refresh-lists`: have the log lists fetched now, and say what came of it."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from redis.asyncio import Redis

from certbus.caches.log_lists import ListStatus, LogListCache
from certbus.keys import Keys
from launcher import options
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import escape_control_chars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=options.count,
        default=30,
        help="how long an ingestor may take (%(default)s)",
    )


def run(chosen: argparse.Namespace) -> int:
    """Ask for it, wait, and show each list."""

    async def work(client: Redis, keys: Keys) -> int:
        shelf = LogListCache(client, keys)
        seconds, microseconds = await client.time()
        since = seconds * 1000 + microseconds // 1000
        lists = await shelf.request_refresh()
        if not lists:
            print("certstream-server: no ingestor has any log lists", file=sys.stderr)
            return 1
        slips = await _answers(shelf, lists, since, chosen.wait)
        for slip in slips:
            print(escape_control_chars(f"{slip.name}: {_outcome(slip, since)}"))
        return 0 if all((slip.checked or 0) >= since for slip in slips) else 1

    return run_with_redis(chosen, "refresh-lists", work)


async def _answers(
    shelf: LogListCache, lists: Sequence[str], since: int, wait: float
) -> Sequence[ListStatus]:
    """The lists, once every one has been asked for, or it has taken too long."""
    deadline = asyncio.get_running_loop().time() + wait
    while True:
        slips = await shelf.statuses(lists)
        asked = all(max(slip.checked or 0, slip.problem_at or 0) >= since for slip in slips)
        if asked or asyncio.get_running_loop().time() > deadline:
            return slips
        await asyncio.sleep(0.1)


def _outcome(slip: ListStatus, since: int) -> str:
    held = f"version {slip.version} is held" if slip.digest else "none is held"
    if (slip.checked or 0) >= since:
        return f"{held}, its newest"
    if (slip.problem_at or 0) >= since:
        return f"{held}; refused, {slip.problem}"
    return f"{held}; no ingestor has asked for another in time"
