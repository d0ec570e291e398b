"""Reconnecting with the last id, and printing."""

import argparse
import asyncio
import itertools
import os
import random
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final
from urllib.parse import urlsplit

import msgspec

from certbus.connection import connect
from certbus.events import Gap, NewEpoch, Repeat
from certbus.keys import Keys
from certbus.reader import Follower
from certconf import RedisURL
from launcher import logsetup, service
from launcher.options import count
from launcher.tail.sources import FAILURES, RefusedError, Stream, messages

_SERVERS: Final = ("ws", "wss", "http", "https")
_LONGEST_PAUSE: Final = 10.0  # seconds


class _Message(msgspec.Struct):
    """What every message has; `data` is read further only when its names are printed."""

    message_type: str
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


_message = msgspec.json.Decoder(_Message).decode
_names = msgspec.json.Decoder(list[str]).decode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "url",
        nargs="?",
        default="ws://localhost:8080",
        type=_server,
        help="ws:// or wss:// (WebSocket), http:// or https:// (SSE); default %(default)s",
    )
    begin = parser.add_mutually_exclusive_group()  # what is read from Redis begins now
    begin.add_argument(
        "--redis", metavar="URL", type=_redis, help="read Redis itself instead of a server"
    )
    begin.add_argument("--cursor", metavar="ID", help="begin after the message with this id")
    parser.add_argument("--prefix", default=Keys().prefix, help="of the keys there (%(default)s)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="messages of the domains stream as JSON")
    form.add_argument("--lite", action="store_true", help="messages of the lite stream as JSON")
    form.add_argument("--full", action="store_true", help="messages of the full stream as JSON")
    parser.add_argument("--limit", type=count, metavar="N", help="end after N certificates")


def run(chosen: argparse.Namespace) -> int:
    """Print until the limit, Ctrl-C, or the end of whoever reads our output."""
    logsetup.configure("warning", "console", "tail")
    stream: Stream = "full" if chosen.full else "lite" if chosen.lite else "domains"
    as_json = chosen.json or chosen.lite or chosen.full
    if chosen.redis:
        texts = _from_redis(chosen.redis, chosen.prefix, stream)
    else:
        texts = _from_server(chosen.url, stream, chosen.cursor)
    printing = _print(texts, as_json=as_json, limit=chosen.limit)
    try:
        service.run(lambda stop: service.until(stop, printing))
    except RefusedError as error:
        _note(str(error))
        return 1
    except msgspec.DecodeError as error:
        where = "redis" if chosen.redis else chosen.url  # a Redis URL may hold a password
        _note(f"{where} does not speak certstream: {error}")
        return 1
    except BrokenPipeError:
        # Nobody reads any more, as with `| head`. Python would complain while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


async def _print(texts: AsyncGenerator[bytes], *, as_json: bool, limit: int | None) -> None:
    certificates = 0
    async with aclosing(texts):
        async for text in texts:
            message = _message(text)
            if message.message_type not in {"certificate_update", "dns_entries"}:
                continue
            certificates += 1
            for line in [text.decode()] if as_json else map(_harmless, _names(message.data)):
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            if certificates == limit:
                return


async def _from_server(url: str, stream: Stream, cursor: str | None) -> AsyncGenerator[bytes]:
    """Messages of one connection after the other, each going on where the last one ended."""
    pauses, noted = _pauses(), ""
    while True:
        try:
            async with aclosing(messages(url, stream, cursor)) as connection:
                async for text in connection:
                    message = _message(text)
                    cursor = message.id or cursor
                    pauses, noted = _pauses(), ""
                    if message.message_type == "gap":
                        _note(f"missed messages: {bytes(message.data).decode()}")
                    yield text
            reason = "closed by the server"
        except FAILURES as error:
            reason = str(error) or type(error).__name__
        if reason != noted:
            noted = reason
            _note(f"{url}: {reason}; trying again until it works")
        await asyncio.sleep(next(pauses))


async def _from_redis(url: str, prefix: str, stream: Stream) -> AsyncGenerator[bytes]:
    """What a gateway would send, read where gateways read it; the follower reconnects itself."""
    async with connect(url, name="tail") as client:
        async for event in Follower(client, Keys(prefix), [stream]):
            match event:
                case Gap(requested=requested, oldest=oldest, reason=reason):
                    _note(f"missed messages after {requested}, next is {oldest}: {reason}")
                case Repeat(since=since):
                    _note(f"redis lost what followed {since}: certificates come again")
                case NewEpoch():
                    _note("redis was emptied: ids begin anew")
                case batch:
                    for position, text in enumerate(batch.messages):
                        yield b'{"id":"%s-%d",%s' % (batch.id.encode(), position, text[1:])


def _pauses() -> Iterator[float]:
    """Seconds between attempts: doubling, with jitter so that clients do not return as one."""
    for attempt in itertools.count():
        yield random.uniform(0.5, 1) * min(_LONGEST_PAUSE, 0.5 * 2 ** min(attempt, 10))  # noqa: S311


def _harmless(name: str) -> str:
    """A name as it is, unless it would write more than itself: names are made by strangers."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def _note(text: str) -> None:
    print(f"tail: {text}", file=sys.stderr)


def _server(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in _SERVERS or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a ws://, wss://, http:// or https:// URL"
        )
    return text


def _redis(text: str) -> str:
    try:
        RedisURL(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
