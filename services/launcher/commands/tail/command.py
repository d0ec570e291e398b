"""Print messages, and a summary at the end."""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any

import msgspec
import redis.exceptions
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from certconf import RedisURL
from ctfilter import Line
from launcher.commands.tail import formats
from launcher.commands.tail.arguments import add_arguments
from launcher.commands.tail.cursor_file import CursorFile, end_cut_line
from launcher.commands.tail.reconnect import stream_http, stream_redis
from launcher.commands.tail.transports import RefusedError, Stream, strip_query
from launcher.runtime import logging_setup, run_service
from launcher.terminal import (
    CommandError,
    escape_control_chars,
    escape_json,
    silence_broken_pipe,
)

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Print until the limit, Ctrl-C, or until the reader of the output closes it."""
    logging_setup.configure("warning", "console", "tail")
    if args.v2 and args.redis:
        _note("--v2 requires a server: gateways make the stream v2, Redis does not hold it")
        return 2
    match = formats.Matcher(args.match) if args.match else None
    is_whole = args.lite or args.full or args.v2
    form: str = args.format or (formats.JSON if args.json or is_whole else formats.NAMES)
    stream = _stream(args, form, match)
    lines_of = formats.make_formatter(form, match, only_names=not is_whole)
    cursor, file = args.cursor, None
    if args.cursor_file is not None:
        outputs = {"standard output": sys.stdout.fileno(), "standard error": sys.stderr.fileno()}
        file = CursorFile(args.cursor_file, outputs)
        cursor = file.load() or cursor
        end_cut_line(sys.stdout.fileno())
    summary = TailSummary(matching=match is not None)
    texts = _messages(args, stream, cursor, summary)
    printing = _print(texts, lines_of, _writer(form, match), summary, file, args.limit)
    code = 0
    try:
        work = printing if file is None else _until_first([printing, file.keep()])
        run_service.run(lambda stop: run_service.run_until_signal(stop, work))
    except (RefusedError, CommandError) as error:
        _note(str(error))
        code = 1
    except redis.exceptions.RedisError as error:
        _note(f"Redis: {escape_control_chars(str(error))}")
        code = 1
    except msgspec.DecodeError as error:
        source = "redis" if args.redis else strip_query(args.url)
        _note(f"unexpected response from {source}: not a certstream server: {error}")
        code = 1
    except BrokenPipeError:
        silence_broken_pipe()
    except OSError as error:  # of the output: those of connections are handled
        silence_broken_pipe()
        _note(f"output: {error.strerror}")
        code = 1
    if file is not None:
        try:
            file.save()
        except CommandError as error:
            _note(str(error))
            code = 1
    _note(summary.line())
    return code


def _stream(args: argparse.Namespace, form: str, match: formats.Matcher | None) -> Stream:
    """Return the smallest stream that has what the options require."""
    if args.full:
        return "full"
    if args.v2:
        return "v2"
    if args.lite or form not in {formats.NAMES, formats.JSON}:
        return "lite"
    return "lite" if match is not None and match.needs_certificate else "domains"


def _messages(
    args: argparse.Namespace, stream: Stream, cursor: str | None, summary: "TailSummary"
) -> AsyncGenerator[bytes]:
    """Return the messages of the server or the Redis that the options name."""
    if not args.redis:
        lines = [line.text for line in args.match]
        return stream_http(args.url, stream, cursor, args.token, lines, _note, summary.gap)
    url = RedisURL(args.redis)
    if args.redis_password:
        url = url.with_password(args.redis_password)
    return stream_redis(url.reveal(), args.prefix, stream, cursor, _note, summary.gap)


async def _until_first(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all at the same time until one ends or fails; cancel the others, and raise its error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


class TailSummary:
    """Counts of one run.

    Args:
        matching: whether only matching certificates are printed.

    Attributes:
        certificates: received.
        printed: of the received ones.
        gaps: number of gaps.
    """

    def __init__(self, *, matching: bool) -> None:
        self.certificates = 0
        self.printed = 0
        self.gaps = 0
        self._matching = matching
        self._began = time.monotonic()
        self._ended: float | None = None

    def end(self) -> None:
        """Stop the clock: the rate does not include the time to close the connection."""
        self._ended = time.monotonic()

    def gap(self, text: str) -> None:
        """Print a gap, and count it."""
        self.gaps += 1
        _note(text)

    def line(self) -> str:
        """Return all counts on one line."""
        seconds = (self._ended or time.monotonic()) - self._began
        counts = f"{self.certificates:,} certificates"
        if self._matching:
            counts = f"{self.printed:,} of {counts}"
        rate = self.certificates / seconds
        gaps = "no gaps" if not self.gaps else f"{self.gaps} gap{'s' * (self.gaps > 1)}"
        return f"{counts} in {seconds:,.1f} s, {rate:,.1f}/s, {gaps}"


async def _print(
    texts: AsyncGenerator[bytes],
    lines_of: formats.Formatter,
    write: Callable[[Sequence[str]], None],
    summary: TailSummary,
    file: CursorFile | None,
    limit: int | None,
) -> None:
    async with aclosing(texts):
        try:
            async for text in texts:
                message = formats.decode(text)
                if message.is_certificate:
                    lines = lines_of(text, message)
                    if lines is not None:
                        write(lines)
                    summary.certificates += 1
                    summary.printed += lines is not None
                if file is not None and message.id is not None:
                    file.advance(message.id)
                if summary.printed == limit:
                    return
        finally:
            summary.end()


def _writer(form: str, match: formats.Matcher | None) -> Callable[[Sequence[str]], None]:
    """Return a function that prints lines, and flushes them.

    They are in colours on a terminal, unless NO_COLOR is set.
    """
    marked = None if match is None else _marked(match.lines)
    console = Console(highlight=False, markup=False, emoji=False)

    def plain(lines: Sequence[str]) -> None:
        for line in lines:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def plain_on_a_terminal(lines: Sequence[str]) -> None:
        plain([escape_json(line) for line in lines])

    def coloured(lines: Sequence[str]) -> None:
        for line in lines:
            text = Text(escape_json(line) if form == formats.JSON else line)
            if form == formats.JSON:
                JSONHighlighter().highlight(text)
            if marked is not None:
                text.highlight_regex(marked, "bold red")
            console.print(text, soft_wrap=True)

    if console.is_terminal and not console.no_color:
        return coloured
    return plain_on_a_terminal if console.is_terminal and form == formats.JSON else plain


def _marked(lines: Sequence[Line]) -> re.Pattern[str]:
    """Return a pattern of the words of lines that names contain."""
    terms = [term for line in lines for term in line.terms if not term.negated]
    words = [re.escape(t.value) for t in terms if t.key in {"name", "domain", "contains", "like"}]
    for term in terms:
        if term.key == "regex":
            with suppress(re.error):  # RE2 has a few forms that `re` has not
                words.append(re.compile(term.value).pattern)
    return re.compile("|".join(words) or r"(?!)", re.IGNORECASE)


def _note(text: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(Text(f"tail: {escape_control_chars(text)}", style="yellow"), soft_wrap=True)
