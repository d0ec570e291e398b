"""`certstream-server backfill`: write the certificates of one log as JSON Lines."""

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, contextmanager
from datetime import UTC, datetime, timedelta
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
from launcher.commands.redis_target import find_redis, with_demo_lists
from launcher.commands.tail.arguments import filter_line
from launcher.runtime import logging_setup, run_service
from launcher.terminal import CommandError, escape_control_chars, silence_broken_pipe

HEAD: Final = "head"
INTERRUPTED: Final = 130

_BEGINNING: Final = b'{"message_type":"certificate_update","version":2,'
_MAX_LINE_BYTES: Final = 8 << 20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

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
        return options.index(text)
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


def milliseconds(moment: datetime) -> int:
    """Return a time in milliseconds since the epoch, rounded up."""
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


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
    config = with_demo_lists(options.configuration(args)[0])
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
    if not size:
        raise CommandError(f"{log.name} has no entries")
    first, last = [await _index(reading, each) for each in wanted]
    if first == size and isinstance(wanted[0], datetime):
        raise CommandError(f"{log.name}: no entry has a timestamp of {wanted[0]} or later")
    last = min(last, size - 1) if isinstance(wanted[1], datetime) else last
    if not first <= last < size:
        raise CommandError(
            f"{log.name}: entries {first} to {last} are not a range of its {size:,} entries"
        )
    with _reported(output), ExitStack() as stack:
        file: IO[bytes] = sys.stdout.buffer
        start = first
        if output is not None:
            file, held = stack.enter_context(_opened(output, f"{log.base}/"))
            if held is not None:
                missing = range(first, min(held.start, last + 1))
                await _check_left_out(reading, missing, passes, output)
                start = held.stop
            if start < first:
                raise CommandError(f"{output} ends at entry {start - 1}, before entry {first}")
        if start > last:
            _note(f"{output} has all entries up to {last}")
            return
        counts = _Counts(last + 1 - start)
        try:
            async with aclosing(reading.parts(start, last)) as parts:
                async for part in parts:
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
        return await reading.find(milliseconds(wanted))
    return reading.head.size - 1 if isinstance(wanted, str) else wanted


@contextmanager
def _reported(output: Path | None) -> Iterator[None]:
    """Make an error of the output that of the command; a closed pipe is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if output is None:
            silence_broken_pipe()
        name = "standard output" if output is None else output
        raise CommandError(f"{name}: {error.strerror or error}") from None


@contextmanager
def _opened(output: Path, url: str) -> Iterator[tuple[IO[bytes], range | None]]:
    """Open a file to append to it, for this process alone, without a line that was cut.

    Args:
        output: the file; it need not exist.
        url: of the log.

    Yields:
        The file, and the range from its first entry to its last one; None if it has none.

    Raises:
        CommandError: it is no file, another process writes to it, or it has something else.
        OSError: it cannot be opened or written.
    """
    if output.exists() and not output.is_file():
        raise CommandError(f"{output} is not a regular file; without --output, lines are printed")
    with output.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"another process writes to {output}") from None
        except OSError:
            pass  # a file system without locks
        file.seek(0)
        beginning = file.readline(_MAX_LINE_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _MAX_LINE_BYTES))
        *complete, cut = file.read().split(b"\n")
        held = None
        if complete:
            first, last = [_index_of(output, text, url) for text in (beginning, complete[-1])]
            held = range(first, last + 1)
        elif not _BEGINNING.startswith(cut[: len(_BEGINNING)]):
            raise _other_content(output)
        file.truncate(size - len(cut))
        file.seek(0, os.SEEK_END)
        yield file, held


def _index_of(output: Path, line: bytes, url: str) -> int:
    try:
        data = msgspec.json.decode(line, type=_Message).data
    except msgspec.DecodeError:
        raise _other_content(output) from None
    if data.source.url != url:
        source = escape_control_chars(data.source.url)
        raise CommandError(f"{output} has entries of {source}, not {url}")
    return data.entry.index


def _other_content(output: Path) -> CommandError:
    return CommandError(f"{output} is not the output of a backfill")


async def _check_left_out(
    reading: Backfill,
    missing: range,
    passes: Callable[[bytes], bool] | None,
    output: Path,
) -> None:
    """Check that a file rightly begins after some entries: they do not match, or are left out.

    Raises:
        CommandError: it lacks one of them.
    """
    if not missing:
        return
    async with aclosing(reading.parts(missing.start, missing.stop - 1)) as parts:
        async for part in parts:
            for index, text in part.messages:
                if passes is None or passes(text):
                    raise CommandError(
                        f"{output} begins after entry {index} and lacks it; write to another file"
                    )


class _Source(msgspec.Struct, frozen=True):
    url: str
    operator: str


class _Entry(msgspec.Struct, frozen=True):
    index: int
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
