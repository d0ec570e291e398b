"""Skip entries that a log cannot serve, by command of an operator. Each skip is recorded.

Skipped entries have a counter of their own, so that at every instant
published + duplicates + rejected + skipped = next - start.
"""

import secrets

import msgspec
from redis.asyncio import Redis

from certbus.keys import Keys
from certbus.store import MAX_TEXT_CHARS, script_text

_SKIP = script_text("logs/lua/record_skip.lua", "logs/lua/skip.lua")


class Skipped(msgspec.Struct, frozen=True):
    """The entries [first, end) were skipped."""

    first: int
    end: int


class SkipRejected(Exception):
    """Nothing was skipped. The text states why, and what is accepted."""


async def skip(client: Redis, keys: Keys, log_id: str, end: int, reason: str) -> Skipped:
    """Skip all entries of a log before `end` that were not published yet.

    Args:
        client: the primary.
        keys: names of the keys.
        log_id: the log.
        end: index of the entry to continue at.
        reason: stored with the skip, one line.

    Raises:
        SkipRejected: the log has not been started, its position is not before `end`, or its tree
                is smaller.
        redis.exceptions.RedisError: Redis cannot be reached, or is full.
    """
    reply = await client.register_script(_SKIP)(
        keys=[keys.log(log_id), keys.lease(log_id), keys.rejected, keys.head],
        args=[
            log_id,
            end,
            " ".join(reason.split())[:MAX_TEXT_CHARS],
            secrets.token_hex(8),
        ],
    )
    match reply:
        case [b"skipped", first, stop]:
            return Skipped(int(first), int(stop))
        case [b"backwards", next_index]:
            raise SkipRejected(
                f"--to must be above {int(next_index)}, the position of the log, not {end}"
            )
        case [b"beyond", 0]:
            raise SkipRejected("no tree head of the log is known yet; start an ingestor first")
        case [b"beyond", size]:
            raise SkipRejected(
                f"--to must be at most {int(size)}, the size of the newest tree head, not {end}"
            )
    raise SkipRejected("the log has not been started; there is nothing to skip")
