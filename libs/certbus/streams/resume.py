"""Resuming: from a cursor to where a `Follower` goes on, as a gateway does it for its clients."""

from typing import Final

import msgspec
from redis.asyncio import Redis

from certbus.ids import ORIGIN, Cursor
from certbus.keys import Keys
from certbus.streams.codec import Codec
from certbus.streams.continuity import OLDEST, Action, Place, Reason, judge
from certbus.streams.events import FUTURE, NOT_RETAINED, RESET, Unreadable, decode_entry
from certbus.streams.reader import Piece, read_piece

UNKNOWN = "unknown id: redis has lost it"

_WORDS: Final[dict[Reason, str]] = {
    "reset": RESET,
    "lost": UNKNOWN,
    "trimmed": NOT_RETAINED,
    "future": FUTURE,
    "unknown": UNKNOWN,
}


class Start(msgspec.Struct, frozen=True):
    """Where to go on.

    Attributes:
        after: entry id for `Follower.after`.
        rest: (id, JSON text) of the messages that follow the cursor in its own batch.
        gap: why something between the cursor and these is missing; None if nothing is.
    """

    after: str
    rest: list[tuple[str, bytes]] = []
    gap: str | None = None


async def resume(client: Redis, keys: Keys, stream: str, cursor: Cursor) -> Start:
    """Find what follows a cursor.

    Args:
        client: the primary.
        keys: names of the keys.
        stream: its name.
        cursor: without a position, it need not be the id of any batch: what is newer follows.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    place = Place(cursor.entry, cursor.position)
    if place == OLDEST:
        return Start(ORIGIN)
    piece = await read_piece(client, keys, stream, str(place.entry), 2)
    view = piece.view(place.entry)
    verdict = judge(place, view)
    gap = None if verdict.gap is None else _WORDS[verdict.gap]
    match verdict.action:
        case Action.INSIDE:
            return Start(str(place.entry), _rest(stream, piece, cursor.position))
        case Action.NEXT if view.after is not None:
            # The follower compares what it reads first with what this says that it has.
            return Start(str(view.after.prev), gap=gap)
        case Action.END:
            return Start(piece.head.last, gap=gap)
    return Start(ORIGIN, gap=gap)


def _rest(stream: str, piece: Piece, position: int | None) -> list[tuple[str, bytes]]:
    if position is None:
        return []
    entry, fields = piece.entries[0]
    batch = decode_entry(Codec(), stream, entry.decode(), fields)
    messages = [] if isinstance(batch, Unreadable) else batch.messages
    return [(f"{entry.decode()}-{at}", text) for at, text in enumerate(messages) if at > position]
