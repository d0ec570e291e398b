"""What could not be read of the logs, or was skipped: `stream:rejected`, newest first."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from redis.asyncio import Redis

from certbus.ids import parse_entry_id
from certbus.keys import Keys

_PAGE = 64  # entries; at 16 KiB each, 1 MiB a reply


class RejectedEntry(msgspec.Struct, frozen=True):
    """One entry that was rejected, or a range that was skipped.

    Attributes:
        log_id: the log.
        index: of the entry, or the first one that was skipped.
        last: the last one that was skipped; None for a rejected entry.
        reason: one line, for a person.
        raw: the bytes that could not be read, as far as they were kept.
        size: of all of them.
        at: when it was recorded, milliseconds since the epoch.
    """

    log_id: str
    index: int
    last: int | None
    reason: str
    raw: bytes
    size: int
    at: int


async def read_rejected(client: Redis, keys: Keys) -> AsyncIterator[RejectedEntry]:
    """All that are still kept, the newest first.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    newest = "+"
    while True:
        page: Any = await client.xrevrange(keys.rejected, newest, "-", count=_PAGE)
        for entry_id, fields in page:
            yield _rejection(entry_id.decode(), fields)
        if len(page) < _PAGE:
            return
        newest = f"({page[-1][0].decode()}"


def _rejection(entry_id: str, fields: dict[bytes, bytes]) -> RejectedEntry:
    return RejectedEntry(
        log_id=fields[b"log"].decode(),
        index=int(fields[b"index"]),
        last=int(fields[b"last"]) if b"last" in fields else None,
        reason=fields[b"reason"].decode("utf-8", "replace"),
        raw=fields[b"raw"],
        size=int(fields[b"size"]),
        at=parse_entry_id(entry_id)[0],
    )
