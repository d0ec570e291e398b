"""`certstream-server retire`: be done with a log, whatever lists and configurations say."""

import argparse
import sys

import msgspec
from redis.asyncio import Redis

from certbus.cluster import LogStatus, snapshot
from certbus.keys import Keys
from certbus.logs.registry import LogRegistry, Retirement
from launcher.commands.find_log import UnknownLog, find_log
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import escape_control_chars

_NO_REASON = "retired by an operator"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("log", metavar="LOG", help="its name, URL or id")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--undo", action="store_true", help="follow it again, from where it was")
    how.add_argument(
        "--now", action="store_true", help="do not read it to its end first: it cannot be read"
    )
    parser.add_argument("--reason", default=_NO_REASON, help="for the record (%(default)r)")


def run(chosen: argparse.Namespace) -> int:
    """Retire it, or take that back, and say so."""

    async def work(client: Redis, keys: Keys) -> int:
        try:
            log = find_log((await snapshot(client, keys)).logs, chosen.log)
        except UnknownLog as error:
            print(f"certstream-server: {error}", file=sys.stderr)
            return 1
        roll = LogRegistry(client, keys)
        problem = await (_undo(roll, log) if chosen.undo else _retire(roll, log, chosen))
        if problem is not None:
            print(
                f"certstream-server: {escape_control_chars(f'{log.name}: {problem}')}",
                file=sys.stderr,
            )
        return 1 if problem is not None else 0

    return run_with_redis(chosen, "retire", work)


async def _retire(roll: LogRegistry, log: LogStatus, chosen: argparse.Namespace) -> str | None:
    """Returns why not."""
    # What it takes to follow it, for workers that do not know it (`ingestor.log.Log`).
    known = {
        "id": log.log_id,
        "name": log.name,
        "url": log.url,
        "kind": log.kind,
        "operator": log.operator,
    }
    # It is over since ever: what it has now is all. And since long, if nobody should try that.
    at = 0.0 if chosen.now else await roll.now()
    raw = msgspec.Raw(msgspec.json.encode(known))
    if not await roll.retire(log.log_id, Retirement("command", chosen.reason, 0.0, at, raw)):
        over = f"it is {log.state} already: {log.retired_why}"
        return over if log.retired_why else "it is not known any more"
    done = "dropped" if chosen.now or log.next is None else "drained, then dropped"
    print(f"{escape_control_chars(log.name)}: {done}: {chosen.reason}")
    return None


async def _undo(roll: LogRegistry, log: LogStatus) -> str | None:
    """Returns why not."""
    if await roll.unretire(log.log_id, "command"):
        print(f"{escape_control_chars(log.name)}: followed again, from entry {log.next}")
        return None
    if log.retired_why:
        return (
            f"{log.retired_why}: a log under custom_logs or static_logs is followed, whatever the "
            "lists say"
        )
    return "it is not retired"
