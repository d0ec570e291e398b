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

from certbus.errors import UNAVAILABLE
from certbus.ids import parse_entry_id
from certbus.keys import STREAMS, Keys
from certbus.logs.tree_state import ALARMS_OF
from certbus.scripts import register_script

MAX_TTL = 15.0
"""Longest lifetime of a heartbeat in seconds."""

RATE_WINDOW_SECS = 10.0
"""Over which a rate is taken: several polls of a log, whose batches arrive in bursts."""

EXCLUDED = "excluded"
"""State of a log that no worker follows, because a configuration excludes it."""

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
    """

    log_id: str
    name: str
    url: str
    operator: str
    kind: str
    state: str
    excluded: str = "0"


class LogStatus(msgspec.Struct, frozen=True):
    """A log as Redis knows it; times are milliseconds since the epoch, None if not known.

    The counters add up: published + duplicates + rejected + skipped = next - start. `circuit`,
    `failures` (in a row) and `retry_at` are those of `circuits.CircuitStatus`; `errors` are all
    failures there ever were. `barren` counts the entries rejected since the last that was not.
    `newest` and `newest_timestamp` are of the largest tree head shown. `entry_timestamp` is of the
    last entry accounted for that could be read. `limited_by` is the setting that keeps it behind. A
    retiring log is `draining`, later `retired` (since then); `retired_why` is the reason. The state
    of a log that no worker follows because a configuration excludes it is `excluded`.
    """

    log_id: str
    name: str = ""
    url: str = ""
    operator: str = ""
    kind: str = ""
    state: str = ""
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


class ClusterRegistry:
    """What a worker or gateway reports of itself and its logs.

    Args:
        client: the primary.
        keys: names of the keys.
        ttl: seconds after which a worker or gateway without a heartbeat is gone; at most
            `MAX_TTL`.
    """

    def __init__(self, client: Redis, keys: Keys, ttl: float = MAX_TTL) -> None:
        self._redis = client
        self._keys = keys
        self._ttl_ms = int(ttl * 1000)
        self._describe = register_script(client, "lua/save_log_descriptions.lua")
        self._heartbeat = register_script(client, "lua/heartbeat.lua")
        self._update_fields = register_script(client, "lua/update_fields.lua")

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

    async def record_success(self, log_id: str) -> None:
        """Record that a log has just given a valid response."""
        await self._update_fields(keys=[self._keys.log(log_id)], args=["time", "last_success", 0])

    async def record_newest_head(self, log_id: str, size: int, timestamp: int) -> None:
        """Store size and timestamp (ms) of the largest tree head that a log has shown."""
        fields: list[str | int] = ["newest", size, "newest_timestamp", timestamp]
        await self._redis.hset(self._keys.log(log_id), items=fields)

    async def record_limited_by(self, log_id: str, setting: str) -> None:
        """Store the setting that keeps a log behind its tree head; empty if none does."""
        key = self._keys.log(log_id)
        if setting:
            await self._redis.hset(key, "limited_by", setting)
        else:
            await self._redis.hdel(key, "limited_by")

    async def log_barren(self, log_id: str, entries: int) -> None:
        """Store the number of entries of a log rejected in a row."""
        await self._redis.hset(self._keys.log(log_id), "barren", entries)

    async def record_integrity(self, log_id: str, state: str) -> None:
        """Store the integrity of a log: `proven`, `unsigned`, `unproven`, `lying` or `off`."""
        await self._redis.hset(self._keys.log(log_id), "integrity", state)

    async def heartbeat_worker(self, worker: str, fields: Mapping[str, str | float]) -> None:
        """Send the heartbeat of a worker, with its fields."""
        await self._alive(self._keys.workers, worker, self._keys.worker(worker), fields)

    async def remove_worker(self, worker: str) -> None:
        """Remove a worker that stops."""
        await self._gone(self._keys.workers, worker, self._keys.worker(worker))

    async def heartbeat_gateway(self, gateway: str, fields: Mapping[str, str | float]) -> None:
        """Send the heartbeat of a gateway, with its fields."""
        await self._alive(self._keys.gateways, gateway, self._keys.gateway(gateway), fields)

    async def remove_gateway(self, gateway: str) -> None:
        """Remove a gateway that stops."""
        await self._gone(self._keys.gateways, gateway, self._keys.gateway(gateway))

    async def _alive(
        self, index: str, member: str, key: str, fields: Mapping[str, str | float]
    ) -> None:
        await self._heartbeat(
            keys=[index, key],
            args=[
                member,
                self._ttl_ms,
                _AHEAD_MS,
                *(part for field in fields.items() for part in field),
            ],
        )

    async def _gone(self, index: str, member: str, key: str) -> None:
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zrem(index, member)
            pipeline.delete(key)
            await pipeline.execute()


async def _time(client: Redis) -> int:
    """TIME of Redis in milliseconds since the epoch."""
    seconds, microseconds = await client.time()
    return int(seconds * 1000 + microseconds // 1000)


def _alive_between(now: int) -> tuple[int, int]:
    """Return the scores of members that are alive; see heartbeat.lua about the upper bound."""
    return now, now + _AHEAD_MS


async def load_workers(client: Redis, keys: Keys) -> WorkerLoads:
    """Read the workers that are alive, and their logs.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    alive = _alive_between(await _time(client))
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.hget(keys.head, "epoch")
        pipeline.zrangebyscore(keys.workers, *alive)
        epoch, members = await pipeline.execute()
        workers = sorted(map(_decoded, members))
        for worker in workers:
            pipeline.hmget(keys.worker(worker), "loads", "knows", "writes")
        replies = await pipeline.execute() if workers else []
    held = {
        worker: _loads(loads)
        for worker, (loads, knows, _) in zip(workers, replies, strict=True)
        if knows != b"0"
    }
    writes = {
        worker: streams.decode("utf-8", "replace")
        for worker, (_, _, streams) in zip(workers, replies, strict=True)
        if streams is not None
    }
    return WorkerLoads(epoch and _decoded(epoch), held, writes)


def _loads(field: bytes | None) -> dict[str, float]:
    try:
        return msgspec.json.decode(field or b"{}", type=dict[str, float])
    except msgspec.DecodeError:
        return {}


async def snapshot(client: Redis, keys: Keys) -> Snapshot:
    """Read the whole state. Unusable fields of a log or process are left out, the others are kept.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    now = await _time(client)
    alive = _alive_between(now)
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.hgetall(keys.head)
        pipeline.smembers(keys.logs)
        pipeline.zrangebyscore(keys.workers, *alive)
        pipeline.zrangebyscore(keys.gateways, *alive)
        head, logs, workers, gateways = await pipeline.execute()
        log_ids, worker_ids, gateway_ids = (
            sorted(map(_decoded, members)) for members in (logs, workers, gateways)
        )
        for log_id in log_ids:
            pipeline.get(keys.lease(log_id))
            pipeline.hgetall(keys.log(log_id))
        for member in worker_ids:
            pipeline.hgetall(keys.worker(member))
        for member in gateway_ids:
            pipeline.hgetall(keys.gateway(member))
        replies = map(_usable, await pipeline.execute(raise_on_error=False))
    head = _text(head)
    return Snapshot(
        now,
        head.get("epoch"),
        head.get("last"),
        [_log_status(log_id, next(replies), _text(next(replies))) for log_id in log_ids],
        [ProcessInfo(member, _text(next(replies))) for member in worker_ids],
        [ProcessInfo(member, _text(next(replies))) for member in gateway_ids],
        [_stream_status(name, head) for name in (*STREAMS, "rejected")],
        int(head["window"]) if head.get("window", "").isdecimal() else None,
    )


async def stream_ranges(client: Redis, keys: Keys) -> dict[str, StreamRange]:
    """Read the time range of each stream; an empty stream is left out.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    script = register_script(client, "streams/lua/stream_range.lua")
    found = {}
    for name in (*STREAMS, "rejected"):
        ids: Any = await script(keys=[keys.stream(name)])
        if ids:
            oldest, newest = (parse_entry_id(entry.decode()) for entry in ids)
            found[name] = StreamRange(oldest.ms, newest.ms)
    return found


def _log_status(log_id: str, lease: bytes | None, fields: dict[str, str]) -> LogStatus:
    known: dict[str, Any] = {
        name: fields[name] for name in LogStatus.__struct_fields__ if name in fields
    }
    # Redis knows only text; strict=False reads numbers from it.
    by_kind = {
        name.removeprefix(ALARMS_OF): count
        for name, count in fields.items()
        if name.startswith(ALARMS_OF)
    }
    # `owner` in the hash is whose the newest lease was, even if that worker was killed.
    owner = None if lease is None else _decoded(lease)
    known |= {"log_id": log_id, "alarms_by_kind": by_kind, "owner": owner}
    if "retiring" in fields:
        known["state"] = "retired" if "retired" in fields else "draining"
    if fields.get("excluded") == "1" and owner is None and "retired" not in fields:
        known["state"] = EXCLUDED
    try:
        return msgspec.convert(known, LogStatus, strict=False)
    except msgspec.ValidationError:
        return msgspec.convert(_readable(known), LogStatus, strict=False)


def _readable(known: dict[str, Any]) -> dict[str, Any]:
    """Those fields of a log that hold what belongs there; the others are as if absent."""
    readable = {"log_id": known["log_id"]}
    for name, value in known.items():
        try:
            msgspec.convert({**readable, name: value}, LogStatus, strict=False)
        except msgspec.ValidationError:
            continue
        readable[name] = value
    return readable


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


def _count(text: str | None) -> int:
    """A number of things; 0 for text that is none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _text(reply: dict[bytes, bytes] | None) -> dict[str, Any]:
    return {_decoded(name): _decoded(value) for name, value in (reply or {}).items()}
