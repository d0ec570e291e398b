"""`certstream-server skip`: skip entries that a log cannot serve."""

import argparse

from redis.asyncio import Redis

from certbus.cluster import LogStatus, snapshot
from certbus.keys import Keys
from certbus.logs.skip import Skipped, SkipRejected, skip
from launcher import options
from launcher.commands.find_log import find_log
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import CommandError, escape_control_chars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("log", metavar="LOG", help="its name, URL or id")
    parser.add_argument(
        "--to",
        metavar="INDEX",
        type=options.count,
        required=True,
        help="the first entry that is not skipped",
    )
    parser.add_argument(
        "--reason", default="skipped by an operator", help="for the record (%(default)r)"
    )
    parser.add_argument("--yes", action="store_true", help="skip without confirmation")
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Confirm, skip, and print which entries were skipped."""

    async def find(client: Redis, keys: Keys) -> LogStatus:
        return find_log((await snapshot(client, keys)).logs, args.log)

    async def skip_found(client: Redis, keys: Keys) -> Skipped:
        try:
            return await skip(client, keys, log.log_id, args.to, args.reason)
        except SkipRejected as error:
            raise CommandError(f"{log.name}: {error}") from None

    log = run_with_redis(args, "skip", find)
    # Confirmed between two event loops, so that Ctrl-C interrupts at once.
    if not (args.yes or _confirmed(log, args.to)):
        return 1
    done = run_with_redis(args, "skip", skip_found)
    entries = f"{done.end - done.first} entries" if done.end - done.first > 1 else "1 entry"
    name = escape_control_chars(log.name)
    print(f"{name}: skipped {entries}, {done.first} to {done.end - 1}; next entry: {done.end}")
    return 0


def _confirmed(log: LogStatus, end: int) -> bool:
    """Show the entries that will not be streamed, and request a confirmation."""
    if log.next is None or not log.next < end <= log.size:
        return True  # the skip will be rejected, with the reason
    print(escape_control_chars(f"log       {log.name}  {log.url}"))
    if log.last_error:
        print(escape_control_chars(f"error     {log.last_error}"))
    print(f"skip      {end - log.next} entries, {log.next} to {end - 1}: never to be streamed")
    try:
        answer = input("skip them? [y/N] ")
    except EOFError:
        print()
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return True
    print("nothing skipped; --yes skips without confirmation")
    return False
