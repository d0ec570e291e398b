"""The state of the cluster: logs, workers, gateways and streams.

Workers and gateways write it; `status` and the HTTP API show it. Nothing here decides anything:
`leases.py` has the owner of a log, publish.lua its position.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from certbus.clock import redis_ms
from certbus.errors import UNAVAILABLE
from certbus.ids import parse_entry_id
from certbus.keys import STREAMS, Keys, Kind
from certbus.logs.tree_state import ALARMS_OF
from certbus.store import (
    Change,
    Store,
    read_json,
    read_struct,
    round_trip,
    script,
    script_text,
    text,
    texts,
)

MAX_TTL = 15.0
"""Longest lifetime of a heartbeat in seconds."""

RATE_WINDOW_SECS = 10.0
"""Over which a rate is taken: several polls of a log, whose batches arrive in bursts."""

EXCLUDED = "excluded"
"""State of a log that no worker follows, because a configuration excludes it."""

CONFIGURED = "configured"
"""In place of the server of a log list: the log is configured."""

_STREAM_RANGE = script_text("streams/lua/stream_range.lua")
_AHEAD_MS = int(2 * MAX_TTL * 1000)
"""How far the score of a member that is alive can be ahead of TIME. Twice the TTL, so that a clock
that is set back by a second or ten makes no member disappear until its next heartbeat."""


class LogDescription(msgspec.Struct, frozen=True):
    """What is known of a log before anything is read from it.

    Attributes:
        log_id: see `keys.py`.
        name: for people.
        url: its base URL.
        operator: who runs it.
        kind: "rfc6962" or "static-ct".
        state: in the log list's words ("usable", "readonly", ...), or "configured".
        excluded: "1" if the worker that writes this must not follow the log, else "0".
        listed_at: scheme and authority of the URL of the list that names it, "file" if that is a
            file, `CONFIGURED` if it is configured; empty if that is not known.
        unsigned_list: name of the unsigned list that states its operator; empty if a signed list
            or the configuration does.
    """

    log_id: str
    name: str
    url: str
    operator: str
    kind: str
    state: str
    excluded: str = "0"
    listed_at: str = ""
    unsigned_list: str = ""


class LogStatus(msgspec.Struct, frozen=True):
    """A log as Redis knows it; times are milliseconds since the epoch, None if not known.

    The counters add up: published + duplicates + rejected + skipped = next - start. `circuit`,
    `failures` (in a row) and `retry_at` are those of `circuits.CircuitStatus`; `errors` are all
    failures there ever were. `barren` counts the entries rejected since the last that was not.
    `newest` and `newest_timestamp` are of the largest tree head shown. `entry_timestamp` is of the
    last entry accounted for that could be read. `limited_by` is the setting that keeps it behind. A
    retiring log is `draining`, later `retired` (since then); `retired_why` is the reason. The state
    of a log that no worker follows because a configuration excludes it is `excluded`. `listed_at`
    and `unsigned_list` are those of `LogDescription`.
    """

    log_id: str
    name: str = ""
    url: str = ""
    operator: str = ""
    kind: str = ""
    state: str = ""
    listed_at: str = ""
    unsigned_list: str = ""
    retired: int | None = None
    retired_why: str | None = None
    start: int | None = None
    next: int | None = None
    published: int = 0
    duplicates: int = 0
    rejected: int = 0
    skipped: int = 0
    tree_size: int | None = None
    tree_timestamp: int | None = None
    owner: str | None = None
    last_success: int | None = None
    last_error: str | None = None
    last_error_at: int | None = None
    circuit: str = "closed"
    failures: int = 0
    errors: int = 0
    retry_at: int | None = None
    integrity: str = ""
    alarms: int = 0
    alarm: str | None = None
    alarm_at: int | None = None
    stale: int = 0
    newest: int | None = None
    newest_timestamp: int | None = None
    entry_timestamp: int | None = None
    barren: int = 0
    limited_by: str | None = None
    skip: str | None = None
    skip_at: int | None = None
    alarms_by_kind: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Entries in the log by its largest tree head, which may not be verified yet."""
        return max(self.tree_size or 0, self.newest or 0)

    @property
    def behind(self) -> int:
        """Entries of that tree head that are not accounted for; 0 until the log is started."""
        return 0 if self.next is None else max(self.size - self.next, 0)

    def tree_head_age(self, now: int) -> float | None:
        """Return the seconds since the log signed that tree head; None without one.

        Args:
            now: TIME of Redis in ms. A time after it counts as it: clocks differ.
        """
        heads = [
            (size, timestamp)
            for size, timestamp in (
                (self.tree_size, self.tree_timestamp),
                (self.newest, self.newest_timestamp),
            )
            if size is not None and timestamp is not None
        ]
        return _age(max(heads)[1], now) if heads else None

    def ingest_delay(self, now: int) -> float | None:
        """Return the seconds since the log accepted the newest entry accounted for.

        Args:
            now: as for `tree_head_age`.

        Returns:
            None until an entry that can be read is accounted for, as new or as duplicate.
        """
        return None if self.entry_timestamp is None else _age(self.entry_timestamp, now)


class ProcessInfo(msgspec.Struct, frozen=True):
    """A worker or gateway that is alive.

    Attributes:
        id: its id.
        fields: of its newest heartbeat.
    """

    id: str
    fields: dict[str, str]


class WorkerLoads(msgspec.Struct, frozen=True):
    """What workers need of each other, at one moment.

    Attributes:
        epoch: of Redis' data; None if there is none yet.
        loads: of each worker that is alive and knows logs: those it holds, and what each costs it.
        writes: of each worker that is alive: the streams that its configuration names.
    """

    epoch: str | None
    loads: dict[str, dict[str, float]]
    writes: dict[str, str] = {}


class StreamStatus(msgspec.Struct, frozen=True):
    """What a stream holds; bytes are as packed."""

    name: str
    written: bool
    entries: int
    messages: int
    bytes: int


class StreamRange(msgspec.Struct, frozen=True):
    """When the oldest and the newest batch of a stream were published, ms since the epoch."""

    oldest: int
    newest: int


class Snapshot(msgspec.Struct, frozen=True):
    """Everything, at one moment (nearly: it takes three round trips).

    `now` is TIME of that Redis in milliseconds since the epoch: what its times are compared with.
    `dedup_window` is the effective deduplication window in milliseconds; None before an ingestor
    has trimmed.
    """

    now: int
    epoch: str | None = None
    last: str | None = None
    logs: list[LogStatus] = []
    workers: list[ProcessInfo] = []
    gateways: list[ProcessInfo] = []
    streams: list[StreamStatus] = []
    dedup_window: int | None = None


class Rate:
    """The rate of one counter over the last `RATE_WINDOW_SECS`, for a heartbeat. Pure.

    Attributes:
        per_second: 0 before the second observation.
    """

    def __init__(self) -> None:
        self.per_second = 0.0
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self, now: float, count: int) -> None:
        """Record the counter's value at `now`, seconds of a monotonic clock."""
        self._seen.append((now, count))
        while now - self._seen[0][0] > RATE_WINDOW_SECS:
            self._seen.popleft()
        then, before = self._seen[0]
        self.per_second = (count - before) / (now - then) if now > then else 0.0


class ClusterRegistry(Store):
    """What a worker or gateway reports of itself and its logs.

    Args:
        client: the primary.
        keys: names of the keys.
        ttl: seconds after which a worker or gateway without a heartbeat is gone; at most
            `MAX_TTL`.
    """

    _describe = script("lua/save_log_descriptions.lua")
    _heartbeat = script("lua/heartbeat.lua")

    def __init__(self, client: Redis, keys: Keys, ttl: float = MAX_TTL) -> None:
        super().__init__(client, keys)
        self._ttl_ms = int(ttl * 1000)

    async def describe(self, logs: Sequence[LogDescription]) -> None:
        """Store the descriptions of logs, except of those that have a better id."""
        if not logs:
            return
        fields = LogDescription.__struct_fields__[1:]
        await self._describe(
            keys=[self._keys.logs, *(self._keys.log(log.log_id) for log in logs)],
            args=[
                len(fields),
                *fields,
                *(value for log in logs for value in msgspec.structs.astuple(log)),
            ],
        )

    async def record_status(
        self, log_id: str, fields: Mapping[str, str | int], *, succeeded: bool = False
    ) -> None:
        """Store what its owner knows of a log.

        Args:
            log_id: the log.
            fields: `integrity`, `newest`, `newest_timestamp`, `barren`, `page`, `gaps` and
                `limited_by` (see `keys.py`), those that have changed; an empty one is deleted.
            succeeded: whether the log has just given a valid response.
        """
        changes: list[Change] = [
            ("delete" if value == "" else "set", name, value) for name, value in fields.items()
        ]
        if succeeded:
            changes.append(("time", "last_success", 0))
        await self._update(self._keys.log(log_id), *changes)

    async def heartbeat(self, kind: Kind, member: str, fields: Mapping[str, str | float]) -> None:
        """Send the heartbeat of a worker or gateway, with its fields."""
        await self._heartbeat(
            keys=[self._keys.members(kind), self._keys.member(kind, member)],
            args=[
                member,
                self._ttl_ms,
                _AHEAD_MS,
                *(part for field in fields.items() for part in field),
            ],
        )

    async def remove(self, kind: Kind, member: str) -> None:
        """Remove a worker or gateway that stops."""
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.zrem(self._keys.members(kind), member)
            transaction.delete(self._keys.member(kind, member))
            await transaction.execute()

    async def load_workers(self) -> WorkerLoads:
        """Read the workers that are alive, and their logs."""
        alive = _alive_between(await redis_ms(self._redis))
        keys, redis = self._keys, self._redis
        commands = ("HGET", keys.head, "epoch"), ("ZRANGEBYSCORE", keys.members("worker"), *alive)
        epoch, members = await round_trip(redis, commands)
        workers = sorted(map(text, members))
        replies = await round_trip(
            redis,
            (
                ("HMGET", keys.member("worker", each), "loads", "knows", "writes")
                for each in workers
            ),
        )
        loads: dict[str, dict[str, float]] = {}
        writes: dict[str, str] = {}
        for worker, (held, knows, streams) in zip(workers, replies, strict=True):
            if knows != b"0":
                loads[worker] = read_json(held, dict[str, float]) or {}
            if streams is not None:
                writes[worker] = text(streams)
        return WorkerLoads(epoch and text(epoch), loads, writes)


def _alive_between(now: int) -> tuple[int, int]:
    """Return the scores of members that are alive; see heartbeat.lua about the upper bound."""
    return now, now + _AHEAD_MS


async def snapshot(client: Redis, keys: Keys) -> Snapshot:
    """Read the whole state. Unusable fields of a log or process are left out, the others are kept.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    now = await redis_ms(client)
    alive = _alive_between(now)
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.hgetall(keys.head)
        pipeline.smembers(keys.logs)
        pipeline.zrangebyscore(keys.members("worker"), *alive)
        pipeline.zrangebyscore(keys.members("gateway"), *alive)
        head, *members = await pipeline.execute()
        log_ids, workers, gateways = (sorted(map(text, found)) for found in members)
        for log_id in log_ids:
            pipeline.get(keys.lease(log_id))
            pipeline.hgetall(keys.log(log_id))
        for worker in workers:
            pipeline.hgetall(keys.member("worker", worker))
        for gateway in gateways:
            pipeline.hgetall(keys.member("gateway", gateway))
        replies = map(_usable, await pipeline.execute(raise_on_error=False))
    head = _fields(head)
    return Snapshot(
        now,
        head.get("epoch"),
        head.get("last"),
        [_log_status(log_id, next(replies), _fields(next(replies))) for log_id in log_ids],
        [ProcessInfo(worker, _fields(next(replies))) for worker in workers],
        [ProcessInfo(gateway, _fields(next(replies))) for gateway in gateways],
        [_stream_status(name, head) for name in (*STREAMS, "rejected")],
        read_json(head.get("window"), int),
    )


async def stream_ranges(client: Redis, keys: Keys) -> dict[str, StreamRange]:
    """Read the time range of each stream; an empty stream is left out.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    script = client.register_script(_STREAM_RANGE)
    found = {}
    for name in (*STREAMS, "rejected"):
        ids: Any = await script(keys=[keys.stream(name)])
        if ids:
            oldest, newest = (parse_entry_id(entry.decode()) for entry in ids)
            found[name] = StreamRange(oldest.ms, newest.ms)
    return found


def _log_status(log_id: str, lease: bytes | None, fields: dict[str, str]) -> LogStatus:
    known: dict[str, Any] = {
        **fields,
        "alarms_by_kind": {
            name.removeprefix(ALARMS_OF): count
            for name, count in fields.items()
            if name.startswith(ALARMS_OF)
        },
        # `owner` in the hash is whose the newest lease was, even if that worker was killed.
        "owner": None if lease is None else text(lease),
    }
    if "retiring" in fields:
        known["state"] = "retired" if "retired" in fields else "draining"
    if fields.get("excluded") == "1" and lease is None and "retired" not in fields:
        known["state"] = EXCLUDED
    return read_struct(LogStatus, known, log_id=log_id)


def _usable(reply: Any) -> Any:
    """A reply of a pipeline; None if Redis rejected the command because of its key.

    Raises:
        redis.exceptions.RedisError: Redis is unavailable.
    """
    if isinstance(reply, UNAVAILABLE):
        raise reply
    return None if isinstance(reply, redis.exceptions.ResponseError) else reply


def _stream_status(name: str, head: dict[str, str]) -> StreamStatus:
    return StreamStatus(
        name,
        name == "rejected" or name in head.get("streams", "").split(),
        *(_count(head.get(f"{name}.{counter}")) for counter in ("entries", "messages", "bytes")),
    )


def _age(timestamp: int, now: int) -> float:
    """Return the age of a stored time in seconds: between 0 and the time since the epoch."""
    return (now - min(max(timestamp, 0), now)) / 1000


def _count(number: str | None) -> int:
    """A number of things; 0 for text that is none."""
    return max(read_json(number, int) or 0, 0)


def _fields(reply: dict[bytes, bytes] | None) -> dict[str, str]:
    return texts(reply.keys(), reply.values()) if reply else {}
