"""The options of `tail`."""

import argparse
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from certbus.ids import parse_cursor
from certbus.keys import Keys
from certconf import RedisURL
from ctfilter import FilterError, Line, parse_line
from launcher.commands.tail import formats
from launcher.options import count

_SCHEMES: Final = ("ws", "wss", "http", "https")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "url",
        nargs="?",
        default="ws://localhost:8080",
        type=_server,
        help="ws:// or wss:// (WebSocket), http:// or https:// (SSE); a path in it selects the "
        "stream (%(default)s)",
    )
    parser.add_argument(
        "--redis", metavar="URL", type=_redis, help="read from Redis instead of a server"
    )
    parser.add_argument(
        "--redis-password-file",
        metavar="FILE",
        type=_token,
        dest="redis_password",
        help="file with the password of that Redis",
    )
    parser.add_argument("--prefix", default=Keys().prefix, help="prefix of its keys (%(default)s)")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=_token_file,
        dest="token",
        help="file with the token for a server; read again for each connection",
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--since",
        metavar="WHEN",
        type=_since,
        dest="cursor",
        help="begin that long ago (90s, 10m, 2h, 1d) or after an id; 0: the oldest retained",
    )
    begin.add_argument("--cursor", metavar="ID", type=_cursor, help=argparse.SUPPRESS)
    parser.add_argument(
        "--cursor-file",
        metavar="FILE",
        type=Path,
        help="resume after the id in this file, and keep it up to date: at least once",
    )
    parser.add_argument(
        "--match",
        metavar="LINE",
        action="append",
        default=[],
        type=filter_line,
        help="only certificates that match this filter line, such as contains:paypal, "
        "domain:example.com or regex:^pay; repeatable: one of several",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        type=_format,
        help="names (one per line), json, or a template of "
        + ", ".join(f"{{{f}}}" for f in formats.FIELDS),
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="messages of the domains stream as JSON")
    form.add_argument("--lite", action="store_true", help="messages of the lite stream as JSON")
    form.add_argument("--full", action="store_true", help="messages of the full stream as JSON")
    form.add_argument("--v2", action="store_true", help="messages of the v2 stream as JSON")
    parser.add_argument("--limit", type=count, metavar="N", help="exit after N certificates")


def _server(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a ws://, wss://, http:// or https:// URL"
        )
    return text


def _redis(text: str) -> str:
    try:
        RedisURL(text)
    except ValueError as error:
        message = f"not a redis://, rediss:// or unix:// URL: {error}"
        raise argparse.ArgumentTypeError(message) from None
    return text


def _token(path: str) -> str:
    try:
        token = Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(f"{path} is not text in UTF-8") from None
    if not token.isprintable() or not token:
        raise argparse.ArgumentTypeError(f"{path} must have one token, on one line")
    return token


def _token_file(path: str) -> Callable[[], str]:
    """Return a function that reads the token; while the file has none, it returns the last one."""
    last = _token(path)

    def read() -> str:
        nonlocal last
        with suppress(OSError, argparse.ArgumentTypeError):
            if Path(path).is_file():  # what a pipe held was read
                last = _token(path)
        return last

    return read


def _cursor(text: str) -> str:
    try:
        parse_cursor(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _since(text: str) -> str:
    """Parse a time or an id: both are cursors."""
    if (duration := _DURATION.fullmatch(text)) is not None:
        number, unit = duration.groups()
        return str(int(max(time.time() - float(number) * _SECONDS[unit], 0) * 1000))
    try:
        return _cursor(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"invalid --since {text[:60]!r}: expected a duration (90s, 10m, 2h, 1d) or a message id"
        ) from None


def filter_line(text: str) -> Line:
    """Parse a filter line: the type of an option, for argparse."""
    try:
        return parse_line(text)
    except FilterError as error:
        former = "" if ":" in text else f"; a regular expression is regex:{text}"
        raise argparse.ArgumentTypeError(f"not a filter line: {error}{former}") from None


def _format(text: str) -> str:
    if text in {formats.NAMES, formats.JSON}:
        return text
    try:
        return formats.validate_template(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
