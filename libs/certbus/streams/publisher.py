"""Publishing, as an ingestor does it.

A worker reads with `find_known` which certificates of a window are known before it parses them,
and publishes the others as a `Batch`. `lua/publish.lua` does that in one atomic step, and only if
the worker holds the log's lease, the batch begins at the log's position, and none of the
certificates was published since. So if any process is killed at any time, for every log

    published + duplicates + rejected + skipped = next - start

and there is no state in between: a worker that is not sure whether a batch arrived (its
connection broke) sends it again and gets `Stale`.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import redis.exceptions
import structlog
from redis.asyncio import Redis

from certbus.errors import is_out_of_memory
from certbus.ids import FIRST_ID, parse_entry_id
from certbus.keys import DEFAULT_REMEMBER_MS, FORMAT, STREAMS, DedupBy, Keys
from certbus.logs.leases import Lease
from certbus.store import MAX_TEXT_CHARS, Store, script
from certbus.streams.batch import (
    AlreadyPublished,
    Batch,
    Fenced,
    Missing,
    Outcome,
    Published,
    Stale,
    check,
    duplicates_within,
)
from certbus.streams.codec import LEVEL, Codec, Name
from certbus.streams.events import VERIFICATION_CODES
from ctparse.entry import Rejected
from ctparse.tree_head import TreeHead

RESIDUES = 1 << 24
"""Of sequence numbers that are ahead of TIME, a random one for each call; as in publish.lua."""

_MAX_RAW = 16 * 1024  # bytes kept of one unreadable entry
_MAX_RAW_BATCH = 1024 * 1024
_OOM_PAUSES_SECS = (0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # the last one is repeated

log = structlog.get_logger(__name__)


class PublisherSettings(msgspec.Struct, frozen=True):
    """What is published, and how.

    Attributes:
        streams: which of `keys.STREAMS` are written.
        remember_ms: how long a published certificate is known: the larger of the deduplication
            window and the longest retention.
        codec: how batches are packed.
        level: of that codec.
        dedup: what is published once.
    """

    streams: tuple[str, ...] = STREAMS
    remember_ms: int = DEFAULT_REMEMBER_MS
    codec: Name = "zstd"
    level: int = LEVEL
    dedup: DedupBy = "certificate"


class Publisher(Store):
    """Publishes batches of any number of logs. Not for use by several threads.

    Args:
        client: the primary.
        keys: names of the keys.
        settings: what is published, and how.
        free_memory: called when Redis is full; removes some of what is retained and returns how
            many bytes (`Trimmer.free_bytes`).
        rejected: called each time that Redis is full, with the error and how often in a row.
    """

    _publish = script("lua/marks.lua", "streams/lua/publish.lua")
    _find_marks = script("lua/marks.lua", "streams/lua/find_marks.lua")

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        settings: PublisherSettings,
        free_memory: Callable[[], Awaitable[int]],
        rejected: Callable[[redis.exceptions.RedisError, int], None] = lambda _, __: None,
    ) -> None:
        super().__init__(client, keys)
        self._rejected = rejected
        self._settings = settings
        self._free_memory = free_memory
        self._codec = Codec(settings.codec, settings.level)
        self._encode = msgspec.json.Encoder().encode
        self._streams = settings.streams
        self._dedup = settings.dedup
        # The greatest id that this worker has received: a Redis that lost its last second must not
        # give it to another batch. Nor one that it has not received: see publish.lua.
        self._floor = FIRST_ID
        self._freeing = asyncio.Lock()
        self._times_freed = 0  # so often memory was freed

    async def configure(self, settings: PublisherSettings | None = None) -> None:
        """Make this worker's settings those of all workers: the newest configuration counts.

        Args:
            settings: instead of those it has; None keeps them. The codec stays.

        Raises:
            UnsupportedFormat: Redis holds the data of a newer version.
            redis.exceptions.RedisError: Redis cannot be reached, or is full.
        """
        if settings is not None:
            self._settings = settings
        stored = await self._redis.hget(self._keys.head, "format")
        if stored is not None and int(stored) != FORMAT:
            raise UnsupportedFormat(
                f"Redis holds format {int(stored)} of the data at {self._keys.head}, this version "
                f"reads and writes format {FORMAT}: use another redis_prefix, or the other version"
            )
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.hsetnx(self._keys.head, "epoch", _new_epoch())
            transaction.hset(
                self._keys.head,
                mapping={
                    "format": FORMAT,
                    "streams": " ".join(self._settings.streams),
                    "remember": self._settings.remember_ms,
                },
            )
            if self._settings.dedup == "certificate":
                transaction.hdel(self._keys.head, "dedup")
            else:
                transaction.hset(self._keys.head, "dedup", self._settings.dedup)
            await transaction.execute()

    async def find_known(self, sha256s: Sequence[bytes]) -> list[bool]:
        """Find which certificates were published within the lifetime of a mark."""
        return (await self.find_known_at(sha256s))[0]

    async def find_known_at(self, sha256s: Sequence[bytes]) -> tuple[list[bool], str]:
        """Find which certificates were published within the lifetime of a mark.

        Returns the newest entry id, too, for `Batch.known_at`. One round trip. A certificate that
        is not known may be published by another log a moment later; `publish` checks again.

        Args:
            sha256s: SHA-256 of each certificate's DER, 32 bytes each.
        """
        if not sha256s:
            return [], FIRST_ID
        answer, newest = await self._find_marks(
            keys=[self._keys.head, self._keys.windows, *map(self._keys.stream, self._streams)],
            args=[self._keys.marks, b"".join(sha256s), self._settings.remember_ms],
        )
        self._raise_floor(newest.decode())
        return [mark == ord("1") for mark in answer], newest.decode()

    async def publish(self, lease: Lease, batch: Batch) -> Outcome:
        """Publish a batch whole, or not at all.

        When Redis is full, what is retained is trimmed and the batch is tried again until it
        fits. When the connection breaks it is not known whether the batch arrived: publish it
        again.

        Raises:
            ValueError: the batch does not add up, or is too large.
            redis.exceptions.RedisError: Redis cannot be reached, or refuses to write.
        """
        check(batch)
        attempt = 0
        while True:
            if repeated := await self._duplicates_within(batch):
                return AlreadyPublished(repeated, batch.known_at)
            times_freed = self._times_freed
            try:
                reply = await self._send(lease, batch)
            except redis.exceptions.ResponseError as error:
                if not is_out_of_memory(error):
                    raise
                pause = _OOM_PAUSES_SECS[min(attempt, len(_OOM_PAUSES_SECS) - 1)]
                attempt += 1
                self._rejected(error, attempt)
                freed = await self._free_memory_after(times_freed)
                log.warning(
                    "redis memory exhausted", log_id=lease.log_id, freed=freed, attempt=attempt
                )
                await asyncio.sleep(pause)
                continue
            if reply[0] == b"dedup":
                self._dedup = _dedup_by(reply[1])
                continue
            if reply[0] != b"streams":
                return self._outcome(reply)
            self._streams = tuple(reply[1].decode().split())
            if not set(self._streams) <= set(STREAMS):
                raise UnsupportedFormat(
                    f"{self._keys.head} wants the streams {' '.join(self._streams)}; this version "
                    f"knows {' '.join(STREAMS)}"
                )

    async def _free_memory_after(self, times_freed: int) -> int:
        """Free memory unless that has been done since a batch was sent, which may fit now.

        All logs publish at the same time, and a full Redis refuses the batches of all of them.

        Args:
            times_freed: `_times_freed` when the batch was sent.

        Returns:
            Bytes removed for this batch.
        """
        async with self._freeing:
            if times_freed != self._times_freed:
                return 0
            freed = await self._free_memory()
            self._times_freed += 1
            return freed

    async def _duplicates_within(self, batch: Batch) -> list[int]:
        """Return the positions of what the batch has a second time."""
        repeated = duplicates_within(batch, self._dedup)
        if repeated and self._dedup == "issuance":  # unless the configuration has changed
            known, dedup = await self._redis.hmget(self._keys.head, "epoch", "dedup")
            self._dedup = _dedup_by(dedup) if known else self._settings.dedup
            repeated = duplicates_within(batch, self._dedup)
        return repeated

    async def _send(self, lease: Lease, batch: Batch) -> list[Any]:
        messages = batch.messages
        header = {
            "format": FORMAT,
            "epoch": _new_epoch(),
            "floor": self._floor,
            "residue": secrets.randbelow(RESIDUES),
            "streams": " ".join(self._streams),
            "remember": self._settings.remember_ms,
            "marks": self._keys.marks,
            "sha1_marks": self._keys.sha1_marks,
            "fence": lease.fence,
            "log": lease.log_id,
            "first": batch.first,
            "next": batch.next,
            "n": len(messages),
            "codec": self._codec.name,
            "dedup": self._dedup,
            "duplicates": batch.duplicates,
            "known_at": batch.known_at,
            "verified": VERIFICATION_CODES[batch.verification].decode(),
            "rejected": [
                {"index": each.index, "reason": _line(each.reason), "size": len(each.raw)}
                for each in batch.rejected
            ],
        }
        streams = self._streams
        digests = b"".join([digest for m in messages for digest in (m.sha256, m.sha1)])
        if self._dedup == "issuance":
            digests += b"".join([m.tbs_sha256 for m in messages])
        blobs = [self._codec.pack([getattr(m, name) for m in messages]) for name in streams]
        reply: list[Any] = await self._publish(
            keys=[
                self._keys.head,
                self._keys.log(lease.log_id),
                self._keys.rejected,
                self._keys.windows,
                *map(self._keys.stream, streams),
            ],
            args=[
                self._encode(header),
                digests,
                *blobs,
                *_cut_short(batch.rejected),
                *_tree_head_fields(batch.tree_head),
                *(() if batch.frontier is None else ("frontier", batch.frontier)),
                *(() if batch.timestamp is None else ("entry_timestamp", batch.timestamp)),
            ],
        )
        return reply

    def _outcome(self, reply: list[Any]) -> Outcome:
        match reply:
            case [b"published", entry_id, next_index]:
                if not entry_id:
                    return Published(None, int(next_index))
                self._raise_floor(entry_id.decode())
                return Published(entry_id.decode(), int(next_index))
            case [b"repeated", newest, *positions]:
                known_at = newest.decode()
                self._raise_floor(known_at)
                return AlreadyPublished([int(position) for position in positions], known_at)
            case [b"stale", next_index, last]:
                self._raise_floor(last.decode())
                return Stale(int(next_index))
            case [b"fenced"]:
                return Fenced()
            case [b"missing"]:
                return Missing()
        raise RuntimeError(f"publish.lua answered {reply!r}")

    def _raise_floor(self, entry_id: str) -> None:
        self._floor = max(self._floor, entry_id, key=parse_entry_id)


class UnsupportedFormat(Exception):
    """Redis holds data of another version."""


def _dedup_by(stored: Any) -> DedupBy:
    return "issuance" if stored == b"issuance" else "certificate"


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _line(reason: str) -> str:
    """Return a reason, which may quote unreadable bytes, as one line."""
    return " ".join(reason[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode().split())


def _cut_short(rejected: list[Rejected]) -> list[bytes]:
    """Keep no more of the raw bytes than a log that serves garbage may cost."""
    room = min(_MAX_RAW, _MAX_RAW_BATCH // max(len(rejected), 1))
    return [entry.raw[:room] for entry in rejected]


def _tree_head_fields(tree_head: TreeHead | None) -> tuple[str | int | bytes, ...]:
    if tree_head is None:
        return ()
    return (
        *("tree_size", tree_head.size),
        *("tree_timestamp", tree_head.timestamp),
        *("tree_root", tree_head.root),
        *("tree_signature", tree_head.signature),
    )
