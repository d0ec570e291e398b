"""Skipping entries of a log that cannot be had: an operator's way out, recorded.

Skipped entries are the fourth thing that an entry can be, so that still, at every instant,
published + duplicates + rejected + skipped = next - start.
"""

import secrets

import msgspec
from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.scripts import register_script

_MAX_REASON = 500  # characters


class Skipped(msgspec.Struct, frozen=True):
    """It is done: the entries [first, end) were skipped."""

    first: int
    end: int


class SkipRejected(Exception):
    """Nothing was skipped. Says why, and what can be."""


async def skip(client: Redis, keys: Keys, log_id: str, end: int, reason: str) -> Skipped:
    """Pass over all entries of a log before `end` that were not published yet.

    Args:
        client: the primary.
        keys: names of the keys.
        log_id: the log.
        end: index of the entry to go on at.
        reason: for the record; one line.

    Raises:
        CannotSkip: the log has not been started, is further on, or not that large.
        redis.exceptions.RedisError: Redis cannot be reached, or is full.
    """
    script = register_script(client, "logs/lua/skip.lua")
    reply = await script(
        keys=[keys.log(log_id), keys.lease(log_id), keys.rejected, keys.head],
        args=[
            log_id,
            end,
            " ".join(reason.split())[:_MAX_REASON],
            secrets.token_hex(8),
        ],
    )
    match reply:
        case [b"skipped", first, stop]:
            return Skipped(int(first), int(stop))
        case [b"backwards", next_index]:
            raise SkipRejected(
                f"it goes on at entry {int(next_index)} already: nothing before {end} is left"
            )
        case [b"beyond", 0]:
            raise SkipRejected("no tree head of it is known yet: is an ingestor running?")
        case [b"beyond", size]:
            raise SkipRejected(
                f"its newest tree head has {int(size)} entries: --to {int(size)} is the most"
            )
    raise SkipRejected("it has not been started yet: no entry of it was asked for")
