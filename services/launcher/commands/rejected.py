"""`certstream-server rejected`: list the entries that could not be decoded or were skipped."""

import argparse
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime

import msgspec
from redis.asyncio import Redis

from certbus.cluster import snapshot
from certbus.keys import Keys
from certbus.streams.rejected import RejectedEntry, read_rejected
from launcher import options
from launcher.commands.find_log import find_log
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import CommandError, escape_control_chars, print_error, print_json

_DEFAULT_LIMIT = 50


class _Line(msgspec.Struct):
    """One line of `--json`."""

    log: str
    log_id: str
    index: int
    last: int
    skipped: bool
    reason: str
    size: int
    kept: int
    time: datetime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--log", metavar="LOG", help="only of this log: its name, URL or id")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=options.count,
        default=_DEFAULT_LIMIT,
        help="the newest N (%(default)s)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per line")
    form.add_argument(
        "--raw", type=int, metavar="INDEX", help="write the bytes of this entry of --log"
    )
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Print the entries, the newest first."""
    if args.raw is not None:
        if args.log is None:
            print_error("--raw needs --log: the index is one of that log")
            return 2
        if sys.stdout.isatty():
            print_error("--raw writes bytes, not to a terminal: add `> entry.der`")
            return 2

    async def work(client: Redis, keys: Keys) -> None:
        logs = (await snapshot(client, keys)).logs
        wanted = find_log(logs, args.log).log_id if args.log else None
        entries = (r async for r in read_rejected(client, keys) if wanted in {None, r.log_id})
        if args.raw is not None:
            await _write_raw(entries, args.log, args.raw)
            return
        names = {log.log_id: log.name or log.url for log in logs}
        shown: list[RejectedEntry] = []
        async for entry in entries:
            shown.append(entry)
            if len(shown) == args.limit:
                break
        _print(shown, names, as_json=args.json)

    run_with_redis(args, "rejected", work)
    return 0


async def _write_raw(entries: AsyncIterator[RejectedEntry], log: str, index: int) -> None:
    async for entry in entries:
        if entry.index != index or entry.last is not None:
            continue
        sys.stdout.buffer.write(entry.raw)
        sys.stdout.flush()
        kept, size = len(entry.raw), entry.size
        if kept < size:
            print_error(f"only the first {kept:,} of {size:,} bytes were kept")
        return
    raise CommandError(f"{log}: entry {index} is not among the stored rejected entries")


def _print(shown: list[RejectedEntry], names: Mapping[str, str], *, as_json: bool) -> None:
    lines = [_line(entry, names) for entry in shown]
    if as_json:
        for line in lines:
            print_json(msgspec.json.encode(line))
        return
    if not lines:
        print("no rejected entries")
        return
    rows = [
        (
            f"{line.time:%Y-%m-%d %H:%M:%S}",
            escape_control_chars(line.log),
            f"{line.index}" if line.index == line.last else f"{line.index}-{line.last}",
            "skipped" if line.skipped else f"{line.size:,}",
            escape_control_chars(line.reason),
        )
        for line in lines
    ]
    rows.insert(0, ("TIME (UTC)", "LOG", "INDEX", "BYTES", "REASON"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for time, log, index, size, reason in rows:
        print(
            f"{time:<{widths[0]}}  {log:<{widths[1]}}  {index:>{widths[2]}}  {size:>{widths[3]}}  "
            f"{reason}"
        )


def _line(entry: RejectedEntry, names: Mapping[str, str]) -> _Line:
    return _Line(
        log=names.get(entry.log_id) or entry.log_id,
        log_id=entry.log_id,
        index=entry.index,
        last=entry.index if entry.last is None else entry.last,
        skipped=entry.last is not None,
        reason=entry.reason,
        size=entry.size,
        kept=len(entry.raw),
        time=datetime.fromtimestamp(entry.at / 1000, UTC),
    )
