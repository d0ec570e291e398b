"""Printing, and what there was in the end."""

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
from launcher.commands.tail.reconnect import stream_http, stream_redis, strip_query
from launcher.commands.tail.transports import RefusedError, Stream
from launcher.runtime import logging_setup, run_service
from launcher.terminal import escape_control_chars, harmless_json, silence_broken_pipe


def run(chosen: argparse.Namespace) -> int:
    """Print until the limit, Ctrl-C, or the end of whoever reads our output."""
    logging_setup.configure("warning", "console", "tail")
    said = chosen.json or chosen.lite or chosen.full
    form: str = chosen.format or (formats.JSON if said else formats.NAMES)
    tells_more = chosen.lite or form not in {formats.NAMES, formats.JSON}
    stream: Stream = "full" if chosen.full else "lite" if tells_more else "domains"
    tally = TailSummary(matching=chosen.match is not None)
    if chosen.redis:
        url = RedisURL(chosen.redis)
        if chosen.redis_password:
            url = url.with_password(chosen.redis_password)
        texts = stream_redis(url.reveal(), chosen.prefix, stream, chosen.cursor, _note, tally.gap)
    else:
        texts = stream_http(chosen.url, stream, chosen.cursor, chosen.token, _note, tally.gap)
    writer = _writer(form, chosen.match)
    printing = _print(
        texts, formats.make_formatter(form, chosen.match), writer, tally, chosen.limit
    )
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
        where = "redis" if chosen.redis else strip_query(chosen.url)
        _note(f"{where} does not speak certstream: {error}")
        code = 1
    except BrokenPipeError:
        silence_broken_pipe()
    _note(tally.summary())
    return code


class TailSummary:
    """What there was.

    Args:
        matching: whether not all of it is printed.

    Attributes:
        certificates: that came.
        printed: of them.
        gaps: times that something was missing.
    """

    def __init__(self, *, matching: bool) -> None:
        self.certificates = 0
        self.printed = 0
        self.gaps = 0
        self._matching = matching
        self._began = time.monotonic()
        self._ended: float | None = None

    def end(self) -> None:
        """Let no time count from now on: closing a connection is no part of the rate."""
        self._ended = time.monotonic()

    def gap(self, text: str) -> None:
        """Tell of one, and count it."""
        self.gaps += 1
        _note(text)

    def summary(self) -> str:
        """All of it in one line."""
        seconds = (self._ended or time.monotonic()) - self._began
        what = f"{self.certificates:,} certificates"
        if self._matching:
            what = f"{self.printed:,} of {what}"
        rate = self.certificates / seconds
        gaps = "no gaps" if not self.gaps else f"{self.gaps} gap{'s' * (self.gaps > 1)}"
        return f"{what} in {seconds:,.1f} s, {rate:,.1f}/s, {gaps}"


async def _print(
    texts: AsyncGenerator[bytes],
    printer: formats.Printer,
    write: Callable[[Sequence[str]], None],
    tally: TailSummary,
    limit: int | None,
) -> None:
    async with aclosing(texts):
        try:
            async for text in texts:
                message = formats.decode(text)
                if not message.is_certificate:
                    continue
                found = printer(text, message)
                tally.certificates += 1
                if found is None:
                    continue
                tally.printed += 1
                write(found)
                if tally.printed == limit:
                    return
        finally:
            tally.end()


def _writer(form: str, match: re.Pattern[str] | None) -> Callable[[Sequence[str]], None]:
    """What prints lines: in colours on a terminal, unless NO_COLOR says otherwise."""
    console = Console(highlight=False, markup=False, emoji=False)

    def plain(found: Sequence[str]) -> None:
        for line in found:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def plain_on_a_terminal(found: Sequence[str]) -> None:
        plain([harmless_json(line) for line in found])

    def coloured(found: Sequence[str]) -> None:
        for line in found:
            text = Text(harmless_json(line) if form == formats.JSON else line)
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
