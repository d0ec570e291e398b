"""Reading: what a gateway knows of Redis.

A `Follower` reads the streams from concrete ids with one blocking XREAD, so nothing that arrives
between two reads is lost; `events.py` says how it knows. Batches are unpacked one by one as the
caller takes them, so a gateway that is catching up holds `COUNT` packed batches of each stream
and no more.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
import redis.exceptions
import structlog
from redis.asyncio import Redis

from certbus.codec import Codec, Undecodable
from certbus.events import Event, Gap, NewEpoch, Repeat, StreamBatch, decode, discontinuity
from certbus.ids import ORIGIN, parse_entry_id
from certbus.keys import STREAMS, Keys

__all__ = [
    "COUNT",
    "Event",
    "Follower",
    "Gap",
    "Head",
    "NewEpoch",
    "Repeat",
    "StreamBatch",
    "history",
    "newest",
    "oldest",
    "read_batch",
    "read_head",
]

COUNT = 16
"""Batches of a stream in one read."""

_BLOCK_MS = 1000  # how long a read waits; after one in vain, Redis is asked whether it was rewound
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to reach Redis

log = structlog.get_logger(__name__)

_Entry = tuple[bytes, dict[bytes, bytes]]


class Head(msgspec.Struct, frozen=True):
    """The state of all streams.

    Attributes:
        epoch: random; another one means that Redis was emptied. None if nothing was ever written.
        last: newest entry id.
        streams: those being written.
    """

    epoch: str | None
    last: str
    streams: tuple[str, ...]


async def read_head(client: Redis, keys: Keys) -> Head:
    """Ask for the state of all streams."""
    values: Any = await client.hmget(keys.head, ["epoch", "last", "streams"])
    epoch, last, streams = values
    return Head(
        None if epoch is None else epoch.decode(),
        ORIGIN if last is None else last.decode(),
        () if streams is None else tuple(streams.decode().split()),
    )


class Follower:
    """Follows streams for as long as it is iterated, whatever happens to Redis.

    Iterating gives the batches of each stream in order, and beside them what is to be told of
    them: a `Gap`, a `Repeat`, a `NewEpoch`.

    Args:
        client: what to read from, the primary or a replica.
        keys: names of the keys.
        streams: which streams to read.
        after: entry ids to go on from, by stream ("0-0": from the oldest batch); a stream that
            is not in it begins with the next batch to be published.
        primary: if `client` is a replica: tells one that is behind from a Redis that was rewound.

    Attributes:
        connected: whether the last attempt to read succeeded.
        last_error: why not; None if it did.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        streams: Sequence[str],
        after: Mapping[str, str] | None = None,
        *,
        primary: Redis | None = None,
    ) -> None:
        self.connected = False
        self.last_error: str | None = None
        self._redis = client
        self._primary = primary or client
        self._keys = keys
        self._streams = tuple(streams)
        self._names = {keys.stream(name).encode(): name for name in STREAMS}
        self._positions = {name: parse_entry_id(entry) for name, entry in (after or {}).items()}
        self._epoch: str | None = None
        self._codec = Codec()

    @property
    def positions(self) -> dict[str, str]:
        """Entry id of the newest batch given out (or begun after), by stream.

        Empty until Redis has first been reached.
        """
        return {name: str(position) for name, position in self._positions.items()}

    def change(self, streams: Sequence[str]) -> None:
        """Read these streams from now on; a new one from the next batch to be published."""
        self._streams = tuple(streams)
        self._positions = {name: at for name, at in self._positions.items() if name in streams}

    async def __aiter__(self) -> AsyncIterator[Event]:
        failures = 0
        look = True
        while True:
            try:
                if look or self._positions.keys() != set(self._streams):
                    for told in await self._look_at_head():
                        yield told
                entries = await self._read()
                self.connected, self.last_error, failures = True, None, 0
                look = not entries or self._epoch is None
                for stream, entry in entries:
                    if stream not in self._positions:
                        continue  # it was left out while it was read
                    events = await self._take(stream, entry)
                    for event in events:
                        yield event
                    if _is_void(events):
                        break
            except redis.exceptions.RedisError as error:
                if not failures:
                    log.warning("cannot read from redis, trying again", error=str(error))
                self.connected, self.last_error, look = False, str(error), True
                await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
                failures += 1

    async def _read(self) -> list[tuple[str, _Entry]]:
        if not self._streams:
            await asyncio.sleep(_BLOCK_MS / 1000)
            return []
        reply: Any = await self._redis.xread(
            {self._keys.stream(name): str(self._positions[name]) for name in self._streams},
            count=COUNT,
            block=_BLOCK_MS,
        )
        return [(self._names[key], entry) for key, entries in reply or () for entry in entries]

    async def _take(self, stream: str, entry: _Entry) -> list[Event]:
        """Go on by one stream entry. A `NewEpoch` in the answer voids what was read with it."""
        entry_id, fields = entry[0].decode(), entry[1]
        position = self._positions[stream]
        batch: StreamBatch | None = None
        broken: Gap | Repeat | None
        try:
            batch = decode(self._codec, stream, entry_id, fields)
            broken = discontinuity(stream, position, entry_id, batch.prev)
        except Undecodable as error:
            log.error("unreadable batch", stream=stream, id=entry_id, error=str(error))
            broken = Gap(stream, str(position), entry_id, f"unreadable: {error}")
        if broken is not None:
            told = await self._look_at_head()
            if _is_void(told):
                return told  # an emptied Redis breaks every chain
            if stream not in self._positions:
                return []  # it was left out meanwhile
        self._positions[stream] = parse_entry_id(entry_id)
        return [event for event in (broken, batch) if event is not None]

    async def _look_at_head(self) -> list[Event]:
        """Find out where to begin, and whether Redis has lost what this reader has seen."""
        head = await read_head(self._redis, self._keys)
        last = parse_entry_id(head.last)
        for name in self._streams:
            self._positions.setdefault(name, last)
        if head.epoch is None:
            return []  # never written, or emptied: the epoch will tell
        previous, self._epoch = self._epoch, head.epoch
        if previous not in (None, head.epoch):
            self._positions = dict.fromkeys(self._streams, parse_entry_id(ORIGIN))
            return [NewEpoch(previous or "", head.epoch)]
        ahead = [name for name in self._streams if self._positions[name] > last]
        if not ahead or await self._is_replica_behind(head):
            return []
        told: list[Event] = []
        for name in ahead:
            told.append(Repeat(name, since=head.last, seen=str(self._positions[name])))
            self._positions[name] = last
        return told

    async def _is_replica_behind(self, head: Head) -> bool:
        if self._primary is self._redis:
            return False
        try:
            primary = await read_head(self._primary, self._keys)
        except redis.exceptions.RedisError:
            return True  # nobody can say that anything is lost
        newest_seen = max(self._positions.values())
        return primary.epoch == head.epoch and parse_entry_id(primary.last) >= newest_seen


def _is_void(events: Sequence[Event]) -> bool:
    """Whether what was read together with these events is of an epoch that has ended."""
    return any(isinstance(event, NewEpoch) for event in events)


async def history(
    client: Redis, keys: Keys, stream: str, after: str, count: int
) -> list[StreamBatch]:
    """Read what a stream retains after an entry id, at most `count` batches, oldest first.

    A batch that cannot be decoded is left out and logged; like a trimmed one it shows as a break
    in the chain of `prev` (see `events.discontinuity`).
    """
    entries: Any = await client.xrange(keys.stream(stream), min=f"({after}", count=count)
    return _decode_all(stream, entries)


async def read_batch(client: Redis, keys: Keys, stream: str, entry: str) -> StreamBatch | None:
    """Read one batch by its id; None if the stream does not retain it."""
    entries: Any = await client.xrange(keys.stream(stream), min=entry, max=entry)
    batches = _decode_all(stream, entries)
    return batches[0] if batches else None


async def oldest(client: Redis, keys: Keys, stream: str) -> StreamBatch | None:
    """Read the oldest batch that a stream retains."""
    batches = await history(client, keys, stream, ORIGIN, 1)
    return batches[0] if batches else None


async def newest(client: Redis, keys: Keys, stream: str) -> StreamBatch | None:
    """Read the newest batch of a stream."""
    entries: Any = await client.xrevrange(keys.stream(stream), count=1)
    batches = _decode_all(stream, entries)
    return batches[0] if batches else None


def _decode_all(stream: str, entries: list[_Entry]) -> list[StreamBatch]:
    codec = Codec()
    batches = []
    for entry_id, fields in entries:
        try:
            batches.append(decode(codec, stream, entry_id.decode(), fields))
        except Undecodable as error:
            log.error("unreadable batch", stream=stream, id=entry_id.decode(), error=str(error))
    return batches
