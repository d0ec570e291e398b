"""Streams of messages that reconnect with the last id, and report gaps."""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Final

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
from launcher.commands.tail.transports import (
    FAILURES,
    RefusedError,
    Stream,
    heartbeat,
    messages,
    strip_query,
)

_MAX_DELAY_SECS: Final = 10.0

_ACCESS_ERRORS: Final = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.NoPermissionError,
)

Print = Callable[[str], None]
"""Prints one line for a person."""


async def stream_http(
    url: str,
    stream: Stream,
    cursor: str | None,
    token: Callable[[], str] | None,
    match: Sequence[str],
    note: Print,
    gap: Print,
) -> AsyncGenerator[bytes]:
    """Yield the messages of one connection after the other, each resuming after the last.

    Args:
        url: of the server, see `transports.messages`.
        stream: its name.
        cursor: id of the message to begin after; None: begin with the next message.
        token: returns the bearer token of the next connection.
        match: alternative lines of a filter.
        note: gets the state of the connection.
        gap: gets each gap.
    """
    delays, noted, shown = _delays(), "", strip_query(url)
    while True:
        accepted = asyncio.Event()
        try:
            bearer = None if token is None else token()
            received = messages(url, stream, cursor, bearer, match, accepted.set)
            async with aclosing(received) as connection:
                async for text in connection:
                    message = decode(text)
                    cursor = message.id or cursor
                    delays, noted = _delays(), ""
                    if message.message_type == "gap":
                        gap(f"missed messages: {bytes(message.data).decode()}")
                    yield text
            reason = "closed by the server"
        except FAILURES as error:
            reason = str(error) or type(error).__name__
        if cursor is None and accepted.is_set():
            gap("missed messages: the connection ended before the first id")
        if reason != noted:
            noted = reason
            note(f"{shown}: {reason}; retrying")
        await asyncio.sleep(next(delays))


async def stream_redis(
    url: str, prefix: str, stream: Stream, cursor: str | None, note: Print, gap: Print
) -> AsyncGenerator[bytes]:
    """Yield the messages that a gateway would send; `StreamReader` reconnects.

    A heartbeat with the id of the batch follows each batch, also one of which nothing is left after
    the cursor. After the last one, it resumes without a gap also when Redis has trimmed this batch.
    """
    keys = Keys(prefix)
    async with connect(url, name="tail") as client:
        await _check_access(client)
        start = None
        while cursor is not None and start is None:
            try:
                start = await resolve_cursor(client, keys, stream, parse_cursor(cursor))
            except UNAVAILABLE as error:
                note(f"cannot read from redis, retrying: {error}")
                await asyncio.sleep(1)
        start = start or ResumePoint("")
        if start.gap is not None:
            gap(f"missed messages after {cursor}: {start.gap}")
        for number, text in start.rest:
            yield _numbered(number, text)
        if start.ends_batch:
            yield heartbeat(start.after)
        after: dict[str, str] = {stream: start.after} if start.after else {}
        async for event in StreamReader(client, keys, [stream], after):
            match event:
                case Gap(requested=requested, oldest=oldest, reason=reason):
                    gap(f"missed messages after {requested}, next is {oldest}: {reason}")
                case Rewind(since=since):
                    gap(f"redis lost the messages after {since}: certificates will be sent again")
                case EpochChanged():
                    gap("redis was reset: earlier ids are no longer valid")
                case batch:
                    for position, text in enumerate(batch.messages):
                        yield _numbered(f"{batch.id}-{position}", text)
                    yield heartbeat(batch.id)


async def _check_access(client: Redis) -> None:
    """Check the credentials, if Redis answers.

    Raises:
        RefusedError: Redis rejects them; retrying would not help.
    """
    try:
        await client.ping()
    except redis.exceptions.RedisError as error:
        # On a unix socket, redis-py has it as the cause.
        if not any(isinstance(each, _ACCESS_ERRORS) for each in (error, error.__cause__)):
            return  # unavailable: the reader reports it
        hint = "set the password with --redis-password-file, or in the URL"
        raise RefusedError(f"redis denies access: {error} ({hint})") from None


def _numbered(number: str, text: bytes) -> bytes:
    return b'{"id":"%b",%b' % (number.encode(), text[1:])


def _delays() -> Iterator[float]:
    """Yield seconds between attempts: doubling, with jitter so that clients spread out."""
    for attempt in itertools.count():
        yield random.uniform(0.5, 1) * min(_MAX_DELAY_SECS, 0.5 * 2 ** min(attempt, 10))  # noqa: S311
