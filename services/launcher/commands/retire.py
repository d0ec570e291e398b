"""`certstream-server retire`: retire a log, regardless of log lists and configuration."""

import argparse

import msgspec
from redis.asyncio import Redis

from certbus.cluster import CONFIGURED, LogStatus, snapshot
from certbus.keys import Keys
from certbus.logs.registry import LogRegistry, Retirement
from launcher import options
from launcher.commands.find_log import find_log
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import CommandError, escape_control_chars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("log", metavar="LOG", help="its name, URL or id")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--undo", action="store_true", help="follow it again, from its stored position"
    )
    how.add_argument("--now", action="store_true", help="retire immediately without draining")
    parser.add_argument(
        "--reason", default="retired by an operator", help="for the record (%(default)r)"
    )
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Retire the log or reinstate it, and print the result."""

    async def work(client: Redis, keys: Keys) -> str:
        log = find_log((await snapshot(client, keys)).logs, args.log)
        registry = LogRegistry(client, keys)
        if args.undo:
            result = await _undo(registry, log, client, keys)
        else:
            result = await _retire(registry, log, args.reason, drain=not args.now)
        return f"{log.name}: {result}"

    print(escape_control_chars(run_with_redis(args, "retire", work)))
    return 0


async def _retire(registry: LogRegistry, log: LogStatus, reason: str, *, drain: bool) -> str:
    """Retire a log and return the result."""
    # For ingestors whose log lists do not have it (`ingestor.log.Log`).
    description: dict[str, str | None] = {
        "id": log.log_id,
        "name": log.name,
        "url": log.url,
        "kind": log.kind,
        "operator": log.operator,
    }
    if log.listed_at:  # an earlier release does not store it: then the log is not trusted
        description |= {
            "listed_at": None if log.listed_at == CONFIGURED else log.listed_at,
            "unsigned_list": log.unsigned_list,
        }
    # Every entry that the log has now is to be read; without draining, the retirement has expired.
    retired_at = await registry.now() if drain else 0.0
    raw = msgspec.Raw(msgspec.json.encode(description))
    if not await registry.retire(log.log_id, Retirement("command", reason, 0.0, retired_at, raw)):
        if log.retired_why:
            raise CommandError(f"{log.name}: it is already {log.state}: {log.retired_why}")
        raise CommandError(f"{log.name}: it is no longer in Redis")
    done = "drained, then dropped" if drain and log.next is not None else "dropped"
    return f"{done}: {reason}"


async def _undo(registry: LogRegistry, log: LogStatus, client: Redis, keys: Keys) -> str:
    """Reinstate a log and return the result."""
    result = f"followed again, from entry {log.next}"
    if await registry.unretire(log.log_id, "command"):
        return result
    if not log.retired_why:
        raise CommandError(f"{log.name}: it is not retired")
    if not find_log((await snapshot(client, keys)).logs, log.log_id).retired_why:
        return result  # the call was repeated, because the reply to the first one was lost
    raise CommandError(
        f"{log.name}: {log.retired_why}: a log under custom_logs or static_logs is followed "
        "regardless of the lists"
    )
