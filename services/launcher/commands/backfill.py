"""`certstream-server backfill`: write the certificates of one log as JSON Lines."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Final

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certconf import Config
from ctfilter import Certificate, Filter, Index, Line
from ingestor.backfill.app import Backfill, Log, LogError, Unproven, find_logs, open_log
from launcher import options
from launcher.commands.find_log import find_log
from launcher.commands.redis_target import find_redis
from launcher.commands.tail.arguments import filter_line
from launcher.runtime import logging_setup, run_service
from launcher.terminal import CommandError, escape_control_chars

HEAD: Final = "head"
INTERRUPTED: Final = 130

_BEGINNING: Final = b'{"message_type":"certificate_update","version":2,'
_MAX_LINE_BYTES: Final = 8 << 20

Position = int | datetime | str
"""An index, a time, or `HEAD`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("log", metavar="LOG", help="its name, URL or id")
    parser.add_argument(
        "--from",
        metavar="INDEX|DATE",
        required=True,
        type=partial(position, head=False),
        dest="first",
        help="first entry: an index, or the first of 2026-05-01 (or 2026-05-01T12:00Z) or later",
    )
    parser.add_argument(
        "--to",
        metavar="INDEX|DATE|head",
        default=HEAD,
        type=position,
        dest="last",
        help="last entry, included; head: of the tree when the command starts (%(default)s)",
    )
    parser.add_argument(
        "--match",
        metavar="LINE",
        action="append",
        default=[],
        type=filter_line,
        help="only certificates that match this filter line; repeatable: one of several",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="append to this file, after its last complete line if it exists",
    )
    options.add_configuration(parser)


def run(args: argparse.Namespace) -> int:
    """Write the range; report what is left out and what is not proven."""
    return write(args, args.first, args.last, args.match, args.output)


def position(text: str, *, head: bool = True) -> Position:
    """Parse an index, a date, a time, or `HEAD`; without an offset, it is UTC."""
    if text.isdecimal():
        return int(text)
    if head and text == HEAD:
        return HEAD
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        accepted = "an index, or a date as in 2026-05-01 or 2026-05-01T12:00Z"
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} is not {accepted}{', or head' if head else ''}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def write(
    args: argparse.Namespace,
    first: Position,
    last: Position,
    match: Sequence[Line] = (),
    output: Path | None = None,
) -> int:
    """Write the entries from `first` to `last`, both included, of `args.log`.

    Raises:
        CommandError: an entry is not proven, or the log cannot be read.
    """
    config, _ = options.configuration(args)
    logging_setup.configure("warning", "console", "backfill")
    passes = _matcher(match) if match else None
    code = INTERRUPTED

    async def work() -> None:
        nonlocal code
        async with AsyncExitStack() as stack:
            url = find_redis(config)
            client = None
            if url is None:
                _note("no Redis: the interval between requests is kept by this process alone")
            else:
                client = await stack.enter_async_context(connect(url, name="backfill"))
            log = await _find(config, client, args.log)
            reading = await stack.enter_async_context(open_log(config, log, client))
            await _write(reading, log, (first, last), passes, output)
            code = 0

    try:
        run_service.run(lambda stop: run_service.run_until_signal(stop, work()))
    except (LogError, Unproven) as error:
        raise CommandError(str(error)) from None
    except redis.exceptions.RedisError as error:
        raise CommandError(f"Redis: {error}") from None
    return code


async def _find(config: Config, client: Redis | None, wanted: str) -> Log:
    logs = {log.id: log for log in await find_logs(config, client)}
    return logs[
        find_log([_Named(log.id, log.name, log.url) for log in logs.values()], wanted).log_id
    ]


class _Named(msgspec.Struct, frozen=True):
    log_id: str
    name: str
    url: str


async def _write(
    reading: Backfill,
    log: Log,
    wanted: tuple[Position, Position],
    passes: Callable[[bytes], bool] | None,
    output: Path | None,
) -> None:
    size = reading.head.size
    first, last = [await _index(reading, each) for each in wanted]
    last = min(last, size - 1) if isinstance(wanted[1], datetime) else last
    if not first <= last < size:
        raise CommandError(
            f"{log.name}: entries {first} to {last} are not a range of its {size:,} entries"
        )
    with ExitStack() as stack:
        file: IO[bytes] = sys.stdout.buffer
        start = first
        if output is not None:
            file = stack.enter_context(output.open("a+b"))
            start = _resume(file, f"{log.base}/", first)
        counts = _Counts(last + 1 - start)
        if start > last:
            _note(f"{output} has all entries up to {last}")
            return
        try:
            async for part in reading.parts(start, last):
                lines = [text for _, text in part.messages if passes is None or passes(text)]
                file.write(b"".join([line + b"\n" for line in lines]))
                file.flush()
                counts.add(part.next - start, len(lines), part.rejected)
        finally:
            if output is not None:
                os.fsync(file.fileno())
            counts.end()


async def _index(reading: Backfill, wanted: Position) -> int:
    if isinstance(wanted, datetime):
        return await reading.find(int(wanted.timestamp() * 1000))
    return reading.head.size - 1 if isinstance(wanted, str) else wanted


def _resume(file: IO[bytes], url: str, first: int) -> int:
    """Remove a line that was cut; return the index after the last complete one.

    Raises:
        CommandError: the file has something else.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MAX_LINE_BYTES))
    end = file.read()
    *complete, cut = end.split(b"\n")
    name = getattr(file, "name", "the output")
    if not complete:
        if not _BEGINNING.startswith(cut[: len(_BEGINNING)]):
            raise CommandError(f"{name} is not the output of a backfill")
        file.truncate(0)
        return first
    try:
        data = msgspec.json.decode(complete[-1])["data"]
        index, source = int(data["entry"]["index"]), data["source"]["url"]
    except (msgspec.DecodeError, LookupError, TypeError, ValueError):
        raise CommandError(f"{name} is not the output of a backfill") from None
    if source != url:
        raise CommandError(f"{name} has entries of {escape_control_chars(str(source))}, not {url}")
    if index + 1 < first:
        raise CommandError(f"{name} ends at entry {index}, before entry {first}")
    file.truncate(size - len(cut))
    file.seek(0, os.SEEK_END)
    return index + 1


class _Source(msgspec.Struct, frozen=True):
    operator: str


class _Entry(msgspec.Struct, frozen=True):
    type: str


class _Issuer(msgspec.Struct, frozen=True):
    CN: str | None = None
    O: str | None = None  # noqa: E741  (X.509's own name)


class _Cert(msgspec.Struct, frozen=True):
    issuer: _Issuer
    all_domains: list[str]


class _Data(msgspec.Struct, frozen=True):
    source: _Source
    entry: _Entry
    cert: _Cert


class _Message(msgspec.Struct, frozen=True):
    data: _Data


def _matcher(lines: Sequence[Line]) -> Callable[[bytes], bool]:
    """Return whether a message of version 2 matches one of the lines."""
    index, decode = Index(), msgspec.json.Decoder(_Message).decode
    index.add(Filter([lines]))

    def passes(text: bytes) -> bool:
        data = decode(text).data
        certificate = Certificate(
            data.cert.all_domains,
            data.cert.issuer.CN or "",
            data.cert.issuer.O or "",
            data.source.operator,
            precertificate=data.entry.type == "precert",
        )
        return bool(index.lookup(certificate))

    return passes


class _Counts:
    """Counts of one run, shown on a terminal.

    Args:
        total: entries to read.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._written = self._rejected = 0
        self._began = time.monotonic()
        self._shows = sys.stderr.isatty()

    def add(self, done: int, written: int, rejected: Sequence[object]) -> None:
        """Count a part; `done`: all entries so far."""
        self._done = done
        self._written += written
        for each in rejected:
            self._rejected += 1
            index, reason = getattr(each, "index", ""), getattr(each, "reason", "")
            _note(f"entry {index} left out: {reason}")
        if self._shows:
            rate = done / max(time.monotonic() - self._began, 0.001)
            left = (self._total - done) / max(rate, 0.001)
            line = f"{done:,} of {self._total:,} entries, {rate:,.0f}/s, {left:,.0f} s left"
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Print all counts."""
        if self._shows:
            print("\r\x1b[K", end="", file=sys.stderr)
        rejected = f", {self._rejected:,} left out" if self._rejected else ""
        _note(
            f"{self._done:,} of {self._total:,} entries read, {self._written:,} written{rejected}"
        )


def _note(text: str) -> None:
    print(f"backfill: {escape_control_chars(text)}", file=sys.stderr)
