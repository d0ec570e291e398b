"""Print messages, and a summary at the end."""

import argparse
import re
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec
import redis.exceptions
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from certconf import RedisURL
from launcher.commands.tail import formats
from launcher.commands.tail.arguments import add_arguments
from launcher.commands.tail.reconnect import stream_http, stream_redis, strip_query
from launcher.commands.tail.transports import RefusedError, Stream
from launcher.runtime import logging_setup, run_service
from launcher.terminal import escape_control_chars, escape_json, silence_broken_pipe

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Print until the limit, Ctrl-C, or until the reader of the output closes it."""
    logging_setup.configure("warning", "console", "tail")
    as_json = args.json or args.lite or args.full
    form: str = args.format or (formats.JSON if as_json else formats.NAMES)
    needs_lite = args.lite or form not in {formats.NAMES, formats.JSON}
    stream: Stream = "full" if args.full else "lite" if needs_lite else "domains"
    summary = TailSummary(matching=args.match is not None)
    if args.redis:
        url = RedisURL(args.redis)
        if args.redis_password:
            url = url.with_password(args.redis_password)
        texts = stream_redis(url.reveal(), args.prefix, stream, args.cursor, _note, summary.gap)
    else:
        texts = stream_http(args.url, stream, args.cursor, args.token, _note, summary.gap)
    write = _writer(form, args.match)
    printing = _print(texts, formats.make_formatter(form, args.match), write, summary, args.limit)
    code = 0
    try:
        run_service.run(lambda stop: run_service.run_until_signal(stop, printing))
    except RefusedError as error:
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
    _note(summary.line())
    return code


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
    limit: int | None,
) -> None:
    async with aclosing(texts):
        try:
            async for text in texts:
                message = formats.decode(text)
                if not message.is_certificate:
                    continue
                lines = lines_of(text, message)
                summary.certificates += 1
                if lines is None:
                    continue
                summary.printed += 1
                write(lines)
                if summary.printed == limit:
                    return
        finally:
            summary.end()


def _writer(form: str, match: re.Pattern[str] | None) -> Callable[[Sequence[str]], None]:
    """Return a function that prints lines: in colours on a terminal, unless NO_COLOR is set."""
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
            if match is not None:
                text.highlight_regex(match, "bold red")
            console.print(text, soft_wrap=True)

    if console.is_terminal and not console.no_color:
        return coloured
    return plain_on_a_terminal if console.is_terminal and form == formats.JSON else plain


def _note(text: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(Text(f"tail: {escape_control_chars(text)}", style="yellow"), soft_wrap=True)
