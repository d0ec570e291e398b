"""Messages without end: reconnecting with the last id, and telling what was missed."""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import redis.exceptions
from redis.asyncio import Redis

from certbus.connection import connect
from certbus.errors import UNAVAILABLE
from certbus.ids import parse_cursor
from certbus.keys import Keys
from certbus.streams.events import EpochChanged, Gap, Rewind
from certbus.streams.reader import StreamReader
from certbus.streams.resume import ResumePoint, resolve_cursor
from launcher.commands.tail.formats import decode
from launcher.commands.tail.transports import FAILURES, RefusedError, Stream, messages

_LONGEST_PAUSE: Final = 10.0  # seconds

_REFUSALS: Final = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.NoPermissionError,
)

Tell = Callable[[str], None]
"""Given one line for a person."""


async def stream_http(
    url: str, stream: Stream, cursor: str | None, token: str | None, note: Tell, gap: Tell
) -> AsyncGenerator[bytes]:
    """Messages of one connection after the other, each going on where the last one ended.

    Args:
        url: of the server, see `sources.messages`.
        stream: which one.
        cursor: id of a message to begin after; None begins with what comes next.
        token: to be let in with.
        note: told what happens to the connection.
        gap: told what is missing.
    """
    pauses, noted, shown = _pauses(), "", strip_query(url)
    while True:
        try:
            async with aclosing(messages(url, stream, cursor, token)) as connection:
                async for text in connection:
                    message = decode(text)
                    cursor = message.id or cursor
                    pauses, noted = _pauses(), ""
                    if message.message_type == "gap":
                        gap(f"missed messages: {bytes(message.data).decode()}")
                    yield text
            reason = "closed by the server"
        except FAILURES as error:
            reason = str(error) or type(error).__name__
        if reason != noted:
            noted = reason
            note(f"{shown}: {reason}; trying again until it works")
        await asyncio.sleep(next(pauses))


async def stream_redis(
    url: str, prefix: str, stream: Stream, cursor: str | None, note: Tell, gap: Tell
) -> AsyncGenerator[bytes]:
    """What a gateway would send, read where gateways read it; the follower reconnects itself."""
    keys = Keys(prefix)
    async with connect(url, name="tail") as client:
        await _let_in(client)
        start = None
        while cursor is not None and start is None:
            try:
                start = await resolve_cursor(client, keys, stream, parse_cursor(cursor))
            except UNAVAILABLE as error:
                note(f"cannot read from redis, trying again: {error}")
                await asyncio.sleep(1)
        start = start or ResumePoint("")
        if start.gap is not None:
            gap(f"missed messages after {cursor}: {start.gap}")
        for number, text in start.rest:
            yield _numbered(number, text)
        after: dict[str, str] = {stream: start.after} if start.after else {}
        async for event in StreamReader(client, keys, [stream], after):
            match event:
                case Gap(requested=requested, oldest=oldest, reason=reason):
                    gap(f"missed messages after {requested}, next is {oldest}: {reason}")
                case Rewind(since=since):
                    gap(f"redis lost what followed {since}: certificates come again")
                case EpochChanged():
                    gap("redis was emptied: ids begin anew")
                case batch:
                    for position, text in enumerate(batch.messages):
                        yield _numbered(f"{batch.id}-{position}", text)


async def _let_in(client: Redis) -> None:
    """Find out whether Redis lets this client in at all, if it answers.

    Raises:
        RefusedError: it does not; trying again would not help.
    """
    try:
        await client.ping()
    except redis.exceptions.RedisError as error:
        # As cause: what redis-py makes of it on a unix socket.
        if not any(isinstance(each, _REFUSALS) for each in (error, error.__cause__)):
            return  # away for now: whoever reads it says so
        what = "give the password in --redis-password-file, or in the URL"
        raise RefusedError(f"redis refuses: {error} ({what})") from None


def strip_query(url: str) -> str:
    """A URL to show: its query may hold a token, its host a password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _numbered(number: str, text: bytes) -> bytes:
    return b'{"id":"%b",%b' % (number.encode(), text[1:])


def _pauses() -> Iterator[float]:
    """Seconds between attempts: doubling, with jitter so that clients do not return as one."""
    for attempt in itertools.count():
        yield random.uniform(0.5, 1) * min(_LONGEST_PAUSE, 0.5 * 2 ** min(attempt, 10))  # noqa: S311
