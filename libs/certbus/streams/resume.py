"""Resolve a cursor to the position at which a `StreamReader` continues, as gateways do."""

from typing import Final

import msgspec
from redis.asyncio import Redis

from certbus.ids import FIRST_ID, Cursor
from certbus.keys import Keys
from certbus.streams.codec import Codec
from certbus.streams.continuity import (
    OLDEST,
    Action,
    ReaderPosition,
    Reason,
    decide,
    earlier,
)
from certbus.streams.events import (
    CURSOR_AHEAD_REASON,
    NOT_RETAINED_REASON,
    RESET,
    Unreadable,
    decode_entry,
)
from certbus.streams.reader import Piece, read_piece

LOST: Final = "unknown id: redis has lost it"
UNKNOWN: Final = f"{LOST}; the minute before it comes again"

_REASONS: Final[dict[Reason, str]] = {
    "reset": RESET,
    "lost": LOST,
    "trimmed": NOT_RETAINED_REASON,
    "future": CURSOR_AHEAD_REASON,
    "unknown": UNKNOWN,
}


class ResumePoint(msgspec.Struct, frozen=True):
    """The position at which a reader continues.

    Attributes:
        after: entry id for `StreamReader(after=…)`.
        rest: (id, JSON text) of the messages that follow the cursor in its own batch.
        gap: why something between the cursor and these is missing; None if nothing is.
        ends_batch: whether a reader with the cursor and these has the whole batch `after`.
    """

    after: str
    rest: list[tuple[str, bytes]] = []
    gap: str | None = None
    ends_batch: bool = False


async def resolve_cursor(client: Redis, keys: Keys, stream: str, cursor: Cursor) -> ResumePoint:
    """Find what follows a cursor.

    Args:
        client: the primary.
        keys: names of the keys.
        stream: its name.
        cursor: what follows it is wanted.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    place = ReaderPosition(cursor.entry, cursor.position, is_moment=cursor.is_moment)
    if place == OLDEST:
        return ResumePoint(FIRST_ID)
    piece = await read_piece(client, keys, stream, str(place.entry), 2)
    view = piece.view(place.entry)
    verdict = decide(place, view)
    gap = None if verdict.gap is None else _REASONS[verdict.gap]
    match verdict.action:
        case Action.INSIDE:
            return _inside(stream, piece, cursor)
        case Action.NEXT if view.after is not None:
            # The reader compares the first batch that it reads with this position.
            return ResumePoint(str(view.after.prev), gap=gap)
        case Action.EARLIER:
            before = earlier(place.entry)
            moment = Cursor(before.entry, None, is_moment=True)
            return msgspec.structs.replace(
                await resolve_cursor(client, keys, stream, moment), gap=gap
            )
        case Action.END:
            return ResumePoint(piece.head.last, gap=gap)
    return ResumePoint(FIRST_ID, gap=gap)


def _inside(stream: str, piece: Piece, cursor: Cursor) -> ResumePoint:
    """Return the rest of the batch of a cursor, which is the first one of a piece."""
    after, position = str(cursor.entry), cursor.position
    if position is None:
        return ResumePoint(after, ends_batch=True)
    batch = decode_entry(Codec(), stream, after, piece.entries[0][1])
    if isinstance(batch, Unreadable):
        return ResumePoint(after, gap=f"unreadable: {batch.error}")
    texts = enumerate(batch.messages)
    rest = [(f"{after}-{at}", text) for at, text in texts if at > position]
    return ResumePoint(after, rest, ends_batch=True)
