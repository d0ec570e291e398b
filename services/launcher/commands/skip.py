"""`certstream-server skip`: go on behind entries of a log that cannot be had."""

import argparse
import sys

from redis.asyncio import Redis

from certbus.cluster import LogStatus, snapshot
from certbus.keys import Keys
from certbus.logs.skip import SkipRejected, skip
from launcher import options
from launcher.commands.find_log import UnknownLog, find_log
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import escape_control_chars

_NO_REASON = "skipped by an operator"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("log", metavar="LOG", help="its name, URL or id")
    parser.add_argument(
        "--to", metavar="INDEX", type=options.count, required=True, help="the entry to go on at"
    )
    parser.add_argument("--reason", default=_NO_REASON, help="for the record (%(default)r)")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(chosen: argparse.Namespace) -> int:
    """Ask, skip, and say what was skipped."""
    found: list[LogStatus] = []

    async def find(client: Redis, keys: Keys) -> int:
        try:
            found.append(find_log((await snapshot(client, keys)).logs, chosen.log))
        except UnknownLog as error:
            print(f"certstream-server: {error}", file=sys.stderr)
            return 1
        return 0

    async def go_on(client: Redis, keys: Keys) -> int:
        return await _skip(client, keys, found[0], chosen.to, chosen.reason)

    status = run_with_redis(chosen, "skip", find)
    # Asked between two event loops, so that Ctrl-C is heard at once.
    if status or not (chosen.yes or _confirmed(found[0], chosen.to)):
        return 1
    return run_with_redis(chosen, "skip", go_on)


async def _skip(client: Redis, keys: Keys, log: LogStatus, end: int, reason: str) -> int:
    try:
        done = await skip(client, keys, log.log_id, end, reason)
    except SkipRejected as error:
        print(f"certstream-server: {escape_control_chars(f'{log.name}: {error}')}", file=sys.stderr)
        return 1
    many = f"{done.end - done.first} entries" if done.end - done.first > 1 else "1 entry"
    name = escape_control_chars(log.name)
    print(f"{name}: skipped {many}, {done.first} to {done.end - 1}; it goes on at {done.end}")
    return 0


def _confirmed(log: LogStatus, end: int) -> bool:
    """Show what will not be streamed, and ask."""
    most = max(log.tree_size or 0, log.newest or 0)
    if log.next is None or not log.next < end <= most:
        return True  # there is nothing to ask: the answer will be why not
    print(escape_control_chars(f"log       {log.name}  {log.url}"))
    if log.last_error:
        print(escape_control_chars(f"trouble   {log.last_error}"))
    print(f"skip      {end - log.next} entries, {log.next} to {end - 1}: never to be streamed")
    try:
        answer = input("skip them? [y/N] ")
    except EOFError:
        print()
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return True
    print("nothing was skipped; --yes does not ask")
    return False
