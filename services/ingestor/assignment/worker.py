"""The worker of one ingestor: takes its share of the logs, and runs a task for each of them.

Two loops run once a second. The heartbeat loop keeps what this worker has; nothing may delay it:

    renew       the task of a log whose lease was lost ends at once; that of one of which Redis lost
                entries publishes them again
    heartbeat   this worker is alive and holds these logs

The assignment loop changes it:

    read        from all heartbeats: which worker holds which logs, and their loads (`balancer.py`)
    take        the free logs of this worker's share, and orphans
    release     logs that even the loads out, so that a worker that joined has something to take

Redis arbitrates: one worker has the lease of a log, and the fence rejects what any other publishes.
So a late heartbeat, or an outdated plan, loses and repeats nothing. A worker that stops releases
its leases; those of one that dies expire after `LEASE_TTL_SECS`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from certbus.cluster import CONFIGURED, ClusterRegistry, LogDescription, WorkerLoads
from certbus.errors import UNAVAILABLE, describe
from certbus.logs.leases import Lease, Leases
from certtasks import supervise
from ingestor.assignment.assigned_log import IDLE_LOAD, AssignedLog, Load, sum_counters
from ingestor.assignment.balancer import OrphanTracker, plan_releases, plan_takeovers
from ingestor.assignment.factory import FollowerFactory
from ingestor.assignment.start_position import StartPosition, StartSettings
from ingestor.backoff import Backoff
from ingestor.log import Log
from ingestor.pipeline.follower import Follower
from ingestor.pipeline.publish import LeaseLost
from ingestor.redis_retry import RedisRetry

T = TypeVar("T")

HEARTBEAT_SECS = 1.0
LEASE_TTL_SECS = 5.0
# Rounds for which loads are uneven before logs move.
_REBALANCE_AFTER_ROUNDS = 10
# Rounds after which the descriptions of all logs are written again.
_DESCRIBE_EVERY_ROUNDS = 60
# Before a log that failed with an unexpected error is followed again ...
FAILURE_BACKOFF = Backoff(30.0, 900.0)
# ... which begins anew once a log was followed for this long.
_RESET_BACKOFF_AFTER_SECS = 600.0
# For Redis, which may be unavailable, when this worker stops.
_STOP_TIMEOUT_SECS = 2.0

_log = structlog.get_logger(__name__)


class Worker:
    """Takes its share of the logs and follows them.

    The assignment loop owns all fields but two: the heartbeat loop and the task of a log remove it
    from `_assigned` when it ends, and the task of a log adds to `_failures`.

    Args:
        worker_id: unique, also among processes that have ended.
        leases: those of this worker.
        cluster: stores workers and logs.
        factory: makes followers.
        redis_retry: repeats Redis calls while Redis is away.
        starts: where logs start that Redis does not know.
        process_fields: fields of the heartbeat that describe this process.
        status_fields: returns fields of the heartbeat that change.
        on_log_fault: called with the name of a log that failed, the error, and the seconds until
            it is followed again.
    """

    def __init__(
        self,
        worker_id: str,
        leases: Leases,
        cluster: ClusterRegistry,
        factory: FollowerFactory,
        redis_retry: RedisRetry,
        starts: StartSettings,
        process_fields: Mapping[str, str],
        status_fields: Callable[[], Mapping[str, str]] = dict,
        on_log_fault: Callable[[str, Exception, float], None] = lambda *_: None,
    ) -> None:
        self._id = worker_id
        self._leases = leases
        self._cluster = cluster
        self._factory = factory
        self._redis_retry = redis_retry
        self._starts = starts
        self._process_fields = process_fields
        self._status_fields = status_fields
        self._on_log_fault = on_log_fault
        self._logs: dict[str, Log] = {}  # all logs to share in, by id
        self._excluded: Sequence[Log] = ()  # logs to describe only
        self._assigned: dict[str, AssignedLog] = {}
        self._wake = asyncio.Event()  # a log can be taken: do not wait for the next round
        self._rounds = 0
        # What was written about logs, into the Redis of which epoch.
        self._described: dict[str, LogDescription] = {}
        self._epoch: str | None = None
        self._workers: AbstractSet[str] = frozenset()  # that were alive at the last description
        self._writes: Mapping[str, str] = {}  # worker -> the streams that its configuration names
        # Assignment: log id -> last known load.
        self._loads: dict[str, float] = {}
        self._orphans = OrphanTracker()
        self._uneven_rounds = 0
        # Logs without a position: tasks that determine it, and their results.
        self._start_lookups: dict[str, asyncio.Task[None]] = {}
        self._found_starts: dict[str, StartPosition] = {}
        # Logs that failed: how often in a row, and the loop time until which they are left.
        self._failures: dict[str, int] = {}
        self._retry_after: dict[str, float] = {}

    @property
    def assigned(self) -> Sequence[AssignedLog]:
        """The logs that it follows."""
        return tuple(self._assigned.values())

    @property
    def waiting(self) -> int:
        """Number of logs not followed yet: their start is looked up, or they failed."""
        now = asyncio.get_running_loop().time()
        backing_off = {log_id for log_id, until in self._retry_after.items() if until > now}
        return len((self._start_lookups.keys() | backing_off) - self._assigned.keys())

    def follow(self, logs: Mapping[str, Log], excluded: Sequence[Log] = ()) -> None:
        """Share in these logs from the next round on, and describe the excluded ones.

        A log that is followed already continues; if its settings have changed, with the new ones.
        """
        self._logs = {**logs}
        self._excluded = excluded
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; then release all leases."""
        try:
            async with asyncio.TaskGroup() as tasks:
                failed = self._factory.metrics.task_failed
                beat = supervise("heartbeat", self._keep_alive, partial(failed, "heartbeat"))
                tasks.create_task(beat)
                assign = partial(self._keep_assigning, tasks)
                await supervise("assignment", assign, partial(failed, "assignment"))
        finally:
            # In its own task: before Python 3.11.3, a time-out in a task that is being cancelled
            # is no TimeoutError but one more CancelledError.
            await asyncio.create_task(self._leave())

    async def _keep_alive(self) -> None:
        while True:
            await self._redis_retry(self._heartbeat)
            await asyncio.sleep(HEARTBEAT_SECS)

    async def _heartbeat(self) -> None:
        await self._renew()
        now = asyncio.get_running_loop().time()
        for assigned in self._assigned.values():
            assigned.observe(now)
        counters = sum_counters(self._assigned.values(), self._own_loads())
        knows = {"knows": len(self._logs)}
        fields = {**self._process_fields, **self._status_fields(), **counters, **knows}
        await self._cluster.heartbeat("worker", self._id, fields)

    async def _renew(self) -> None:
        """Renew all leases; stop following the logs whose leases were lost.

        What was published before the call is in Redis, unless Redis lost it.
        """
        held = list(self._assigned.values())
        leases = [assigned.lease for assigned in held]
        published = [assigned.follower.publisher.next for assigned in held]
        stored = await self._renewed(leases)
        for assigned, lease, end, next_index in zip(held, leases, published, stored, strict=True):
            if self._assigned.get(lease.log_id) is not assigned or assigned.lease is not lease:
                continue  # ended or restored since
            if next_index is not None:
                if next_index < end:
                    assigned.follower.publisher.rewound.set()
                continue
            try:
                # If Redis lost its data, only this worker knows the position of the log. Another
                # worker may have started the log later.
                await assigned.follower.publisher.restore(lease)
            except LeaseLost:
                _log.warning("lease lost", log=assigned.follower.log.name)
                await self._end(lease.log_id)

    async def _renewed(self, leases: Sequence[Lease]) -> Sequence[int | None]:
        """Renew leases as `Leases.renew` does; one by one if Redis rejects the whole call.

        Redis rejects it if what it holds of one log is unusable.
        """
        try:
            return await self._leases.renew(leases)
        except UNAVAILABLE:
            raise
        except RedisError:
            stored: list[int | None] = []
            for lease in leases:
                next_index: list[int | None] = [None]
                if (assigned := self._assigned.get(lease.log_id)) is not None:
                    async with self._only_affecting(assigned.log, "renewing its lease"):
                        next_index = await self._leases.renew([lease])
                stored += next_index
            return stored

    async def _keep_assigning(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._redis_retry(self._assign, tasks)
            # Not wait_for: in Python 3.11 it may swallow the cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECS):
                    await self._wake.wait()
            self._wake.clear()

    def _own_loads(self) -> dict[str, float]:
        """Return the loads of the logs that this worker holds, or whose start it looks up."""
        lookups = {log_id: self._loads.get(log_id, IDLE_LOAD) for log_id in self._start_lookups}
        return lookups | {log_id: each.load.value for log_id, each in self._assigned.items()}

    async def _assign(self, tasks: asyncio.TaskGroup) -> None:
        """Release and take logs until this worker has its share; then write their status."""
        workers = await self._cluster.load_workers()
        self._compare(workers.writes)
        await self._describe(workers)
        own = self._own_loads()
        not_own = self._logs.keys() - own.keys()
        held = {
            worker: {log: cost for log, cost in logs.items() if log in not_own}
            for worker, logs in workers.loads.items()
        }
        held[self._id] = own
        costs = {log: cost for logs in held.values() for log, cost in logs.items()}
        self._loads = {log: costs.get(log, self._loads.get(log, IDLE_LOAD)) for log in self._logs}
        free = {log: self._loads[log] for log in self._logs if log not in costs}
        now = asyncio.get_running_loop().time()
        orphans = self._orphans.overdue(free, now)
        pinned = self._orphans.pinned(self._assigned.keys(), now)
        for log_id in self._start_lookups.keys() - self._logs.keys():
            self._start_lookups[log_id].cancel()  # removed or retired before it was followed
        for log_id in self._to_release(held, free, pinned):
            await self._release(log_id)
        share = plan_takeovers(held, free, self._id)
        # Another worker may have found the start of a log whose lookup here still waits.
        for log_id in (*self._start_lookups, *share):
            await self._take(log_id, tasks)
        for log_id in set(orphans) - set(share):
            if await self._take(log_id, tasks):
                self._orphans.pin(log_id, now)
        await asyncio.gather(*map(self._publish_status, tuple(self._assigned.values())))
        await self._retire_drained()

    def _to_release(
        self,
        held: Mapping[str, Mapping[str, float]],
        free: Mapping[str, float],
        pinned: set[str],
    ) -> Sequence[str]:
        """Return the logs to release: those that have changed, else those that even loads out."""
        changed = [i for i, each in self._assigned.items() if self._logs.get(i) != each.log]
        surplus = [i for i in plan_releases(held, free, self._id) if i not in pinned]
        self._uneven_rounds = self._uneven_rounds + 1 if surplus else 0
        # A worker without logs has just joined. Otherwise, a burst must not move logs.
        moving = self._uneven_rounds > _REBALANCE_AFTER_ROUNDS or not all(held.values())
        return changed or (surplus if moving else ())

    def _compare(self, writes: Mapping[str, str]) -> None:
        """Log once for each change that the configurations of ingestors name other streams."""
        if writes != self._writes and len(set(writes.values())) > 1:
            _log.warning(
                "ingestor streams differ",
                streams={worker: streams.split() for worker, streams in writes.items()},
                effect="the ingestor that was configured last decides for all",
            )
        self._writes = writes

    async def _describe(self, workers: WorkerLoads) -> None:
        """Write what is known of logs when it changes, and again if Redis lost its data.

        Also when another worker came or left: it may have described a log otherwise.
        """
        self._rounds += 1
        changed = (workers.epoch, workers.loads.keys()) != (self._epoch, self._workers)
        if changed or self._rounds % _DESCRIBE_EVERY_ROUNDS == 0:
            self._described = {}
            for assigned in self._assigned.values():
                assigned.forget_stored()
        known = {log.id: log_description(log) for log in self._logs.values()}
        # A worker that follows one of the excluded logs describes it.
        held = {log_id for logs in workers.loads.values() for log_id in logs}
        known |= {
            log.id: log_description(log, excluded=True)
            for log in self._excluded
            if log.id not in held
        }
        new = [each for log_id, each in known.items() if self._described.get(log_id) != each]
        try:
            await self._cluster.describe(new)
        except UNAVAILABLE:
            raise
        except RedisError:
            for description in new:
                log = self._logs.get(description.log_id)  # None: excluded
                async with self._only_affecting(log, "describing it"):
                    await self._cluster.describe([description])
        self._described, self._epoch, self._workers = known, workers.epoch, workers.loads.keys()

    async def _publish_status(self, assigned: AssignedLog) -> None:
        async with self._only_affecting(assigned.log, "reporting its state"):
            await assigned.publish_status(self._cluster)

    @contextlib.asynccontextmanager
    async def _only_affecting(self, log: Log | None, doing: str) -> AsyncIterator[None]:
        """Stop following a log for a while if Redis rejects a command: its data there is unusable.

        Raises:
            redis.exceptions.RedisError: Redis is unavailable, for all logs.
        """
        try:
            yield
        except UNAVAILABLE:
            raise
        except RedisError as error:
            if log is not None:
                self._failed(log, error, doing)
                await self._end(log.id)

    async def _take(self, log_id: str, tasks: asyncio.TaskGroup) -> bool:
        """Take a log if it is free; if it has no position, look up where it starts."""
        now = asyncio.get_running_loop().time()
        log = self._logs.get(log_id)
        if log is None or self._retry_after.get(log_id, now) > now:
            return False
        async with self._only_affecting(log, "taking it"):
            lease = await self._leases.acquire(log_id, None)
            lookup = self._start_lookups.get(log_id)
            if lease is not None:
                self._begin(log, lease, tasks)
                if lookup is not None:
                    lookup.cancel()
                return True
            if await self._leases.next_index(log_id) is not None:
                if lookup is not None:
                    lookup.cancel()
            elif lookup is None:
                self._start_lookups[log_id] = tasks.create_task(self._find_start(log))
        return False

    def _begin(self, log: Log, lease: Lease, tasks: asyncio.TaskGroup) -> None:
        """Follow a log."""
        follower = self._factory.follower(log, lease)
        start = self._found_starts.pop(log.id, None)  # another worker may have set another one
        is_start = start is not None and start.index == lease.next
        _log.info(
            "log assigned",
            log=log.name,
            url=log.url,
            kind=log.kind.value,
            at=lease.next,
            why=start.why if start is not None and is_start else "its position in redis",
        )
        task = tasks.create_task(self._run(log, follower))
        load = Load(self._loads.get(log.id, IDLE_LOAD))
        self._assigned[log.id] = AssignedLog(follower, task, load)

    async def _run(self, log: Log, follower: Follower) -> None:
        """Follow one log; an error ends this log's task only."""
        began = asyncio.get_running_loop().time()
        try:
            await _uncancelled(follower.run())
        except LeaseLost:
            _log.warning("lease lost", log=log.name)
        except Exception as error:  # noqa: BLE001  (one log's trouble must not end the others)
            if asyncio.get_running_loop().time() - began > _RESET_BACKOFF_AFTER_SECS:
                self._failures.pop(log.id, None)
            self._failed(log, error, "following it")
        self._assigned.pop(log.id, None)

    async def _find_start(self, log: Log) -> None:
        """Look up where an unknown log starts, and store it."""
        try:
            start = await _uncancelled(self._factory.find_start(log, self._starts))
            self._found_starts[log.id] = start
            await self._redis_retry(self._leases.set_start, log.id, start.index)
        except Exception as error:  # noqa: BLE001  (one log's trouble must not end the others)
            self._failed(log, error, "finding where it starts")
        else:
            self._wake.set()
        finally:
            del self._start_lookups[log.id]

    def _failed(self, log: Log, error: Exception, what: str) -> None:
        """Back off from a log, after an error that concerns only this log."""
        failures = self._failures.get(log.id, 0)
        self._failures[log.id] = failures + 1
        pause = round(FAILURE_BACKOFF(failures), 1)
        self._retry_after[log.id] = asyncio.get_running_loop().time() + pause
        self._factory.metrics.log_failed(log.name)
        _log.error("log failed", log=log.name, doing=what, again_in_secs=pause, exc_info=error)
        self._on_log_fault(log.name, error, pause)

    async def _release(self, log_id: str) -> None:
        """Release a log, for a worker with a smaller load."""
        if log_id in self._start_lookups:
            self._start_lookups[log_id].cancel()
            return
        assigned = await self._end(log_id)
        if assigned is not None:
            await self._release_lease(assigned)

    async def _release_lease(self, assigned: AssignedLog) -> None:
        await self._leases.release(assigned.lease)
        _log.info("log released", log=assigned.log.name, at=assigned.follower.publisher.next)

    async def _retire_drained(self) -> None:
        """Drop the logs that are drained, for every worker."""
        draining = [each for each in self._assigned.values() if each.log.drain is not None]
        if not draining:
            return
        now = await self._cluster.now()
        for assigned in draining:
            log_id = assigned.log.id
            if not assigned.is_drained(now) or await self._end(log_id) is None:
                continue
            at = assigned.follower.publisher.next
            if await self._leases.drop(assigned.lease, at):
                self._logs.pop(log_id, None)
                self._described.pop(log_id, None)  # if it is reinstated, describe it again
                _log.info("log drained", log=assigned.log.name, at=at)
            else:  # it was reinstated, or Redis lost entries
                await self._release_lease(assigned)

    async def _end(self, log_id: str) -> AssignedLog | None:
        """Stop following a log; None if its task has ended already."""
        assigned = self._assigned.pop(log_id, None)
        if assigned is not None:
            assigned.task.cancel()
            await asyncio.gather(assigned.task, return_exceptions=True)
        return assigned

    async def _leave(self) -> None:
        """Release every lease, so that other workers take the logs. All tasks have ended.

        An error of one lease does not keep the others.
        """
        releases: list[Callable[[], Awaitable[object]]] = [
            *(partial(self._leases.release, each.lease) for each in self._assigned.values()),
            partial(self._cluster.remove, "worker", self._id),
        ]
        errors: list[Exception] = []
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_SECS):
                for release in releases:
                    try:
                        await release()
                    except RedisError as error:
                        errors.append(error)
        except TimeoutError as error:
            errors.append(error)
        if errors:
            problem = describe(errors[0])
            _log.warning("leases not released", problem=problem, expire_secs=LEASE_TTL_SECS)


async def _uncancelled(work: Awaitable[T]) -> T:
    """Await the work of one log.

    Without this, a task of the group would end in silence, and its log would keep its lease.

    Raises:
        RuntimeError: something that it awaited was cancelled, but not the current task.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        problem = "something that it awaited was cancelled"
        raise RuntimeError(problem) from error


def log_description(log: Log, *, excluded: bool = False) -> LogDescription:
    """Return what Redis has of a log before anything is read from it."""
    return LogDescription(
        log_id=log.id,
        name=log.name,
        url=f"{log.base}/",
        operator=log.operator,
        kind=log.kind.value,
        state=log.state,
        excluded=str(int(excluded)),
        listed_at=CONFIGURED if log.listed_at is None else log.listed_at,
        unsigned_list=log.unsigned_list,
    )
