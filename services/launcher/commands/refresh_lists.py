"""`certstream-server refresh-lists`: fetch the log lists now, and print the result for each."""

import argparse
import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis

from certbus.caches.log_lists import ListStatus, LogListCache
from certbus.keys import Keys
from launcher import options
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import CommandError, escape_control_chars

_CHECK_INTERVAL_SECS = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=options.count,
        default=30,
        help="time that an ingestor may take (%(default)s)",
    )
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Request the lists, wait, and print each; exit status 1 unless all were fetched."""

    async def work(client: Redis, keys: Keys) -> int:
        cache = LogListCache(client, keys)
        seconds, microseconds = await client.time()
        requested_at = seconds * 1000 + microseconds // 1000
        list_ids = await cache.request_refresh()
        if not list_ids:
            raise CommandError("no ingestor has any log lists")
        lists = await _wait_for_fetches(cache, list_ids, requested_at, args.wait)
        for each in lists:
            print(escape_control_chars(f"{each.name}: {_outcome(each, requested_at)}"))
        return 0 if all((each.checked or 0) >= requested_at for each in lists) else 1

    return run_with_redis(args, "refresh-lists", work)


async def _wait_for_fetches(
    cache: LogListCache, list_ids: Sequence[str], since: int, max_wait: float
) -> Sequence[ListStatus]:
    """Return the lists once each was fetched since then, or after `max_wait` seconds."""
    deadline = asyncio.get_running_loop().time() + max_wait
    while True:
        lists = await cache.statuses(list_ids)
        complete = all(max(each.checked or 0, each.problem_at or 0) >= since for each in lists)
        if complete or asyncio.get_running_loop().time() > deadline:
            return lists
        await asyncio.sleep(_CHECK_INTERVAL_SECS)


def _outcome(status: ListStatus, since: int) -> str:
    stored = f"version {status.version} stored" if status.digest else "none stored"
    if (status.checked or 0) >= since:
        return f"{stored}, up to date"
    if (status.problem_at or 0) >= since:
        return f"{stored}; rejected, {status.problem}"
    return f"{stored}; not fetched in time by any ingestor"
