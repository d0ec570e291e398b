"""`certstream-server rejected`: what could not be read of the logs, or was skipped."""

import argparse
import os
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime

import msgspec
from redis.asyncio import Redis

from certbus.cluster import snapshot
from certbus.keys import Keys
from certbus.streams.rejected import RejectedEntry, read_rejected
from launcher import options
from launcher.commands.find_log import UnknownLog, find_log
from launcher.commands.redis_target import run_with_redis
from launcher.terminal import escape_control_chars, print_json

_LIMIT = 50


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
        "--limit", type=options.count, default=_LIMIT, metavar="N", help="the newest (%(default)s)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON object a line")
    form.add_argument(
        "--raw", type=int, metavar="INDEX", help="write the bytes of this entry of --log"
    )


def run(chosen: argparse.Namespace) -> int:
    """Print them, the newest first."""
    if chosen.raw is not None:
        if chosen.log is None:
            _complain("--raw needs --log: an index is a log's")
            return 2
        if sys.stdout.isatty():
            _complain("--raw writes bytes: `… > entry.der`")
            return 2

    async def work(client: Redis, keys: Keys) -> int:
        logs = (await snapshot(client, keys)).logs
        try:
            wanted = find_log(logs, chosen.log).log_id if chosen.log else None
        except UnknownLog as error:
            _complain(str(error))
            return 1
        found = (r async for r in read_rejected(client, keys) if wanted in {None, r.log_id})
        if chosen.raw is not None:
            return await _write_raw(found, chosen.log, chosen.raw)
        names = {log.log_id: log.name or log.url for log in logs}
        shown: list[RejectedEntry] = []
        async for rejection in found:
            shown.append(rejection)
            if len(shown) == chosen.limit:
                break
        _print(shown, names, as_json=chosen.json)
        return 0

    try:
        return run_with_redis(chosen, "rejected", work)
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`. Python would complain while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def _write_raw(found: AsyncIterator[RejectedEntry], log: str, index: int) -> int:
    async for rejection in found:
        if rejection.index != index or rejection.last is not None:
            continue
        sys.stdout.buffer.write(rejection.raw)
        sys.stdout.flush()
        kept, size = len(rejection.raw), rejection.size
        if kept < size:
            _complain(f"only the first {kept:,} of {size:,} bytes were kept")
        return 0
    _complain(f"{log}: entry {index} is not among the rejected that are kept")
    return 1


def _complain(problem: str) -> None:
    print(f"certstream-server: {problem}", file=sys.stderr)


def _print(shown: list[RejectedEntry], names: Mapping[str, str], *, as_json: bool) -> None:
    lines = [_line(rejection, names) for rejection in shown]
    if as_json:
        for line in lines:
            print_json(msgspec.json.encode(line))
        return
    if not lines:
        print("nothing is rejected")
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


def _line(rejection: RejectedEntry, names: Mapping[str, str]) -> _Line:
    return _Line(
        log=names.get(rejection.log_id) or rejection.log_id,
        log_id=rejection.log_id,
        index=rejection.index,
        last=rejection.index if rejection.last is None else rejection.last,
        skipped=rejection.last is not None,
        reason=rejection.reason,
        size=rejection.size,
        kept=len(rejection.raw),
        time=datetime.fromtimestamp(rejection.at / 1000, UTC),
    )
