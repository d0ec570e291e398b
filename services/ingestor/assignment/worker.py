"""One ingestor among any number: which logs are its, and the tasks that follow them.

Two loops, each a beat a second. The pulse keeps what is had, and nothing may delay it:

    renew       leases that were lost end their log's task at once
    heartbeat   this worker is alive and holds so many logs

The sharing changes it:

    roster      from all heartbeats: who holds what, and what it costs (`share.py`)
    take        the free logs that are this worker's part, and those that nobody else takes
    give up     what evens the loads out, so that a worker which joined finds something to take

Redis arbitrates: a lease is had by one worker, and what a worker without it publishes is refused
by the fence. So heartbeats may be late, and shares be wrong for a second, and nothing is lost or
repeated. A worker that stops gives its leases back; one that dies loses them within `LEASE_TTL`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec
import structlog
from redis.exceptions import RedisError

from certbus.cluster import ClusterRegistry, LogDescription, WorkerLoads
from certbus.errors import UNAVAILABLE
from certbus.logs.leases import Lease, Leases
from certtasks import supervise
from ingestor.assignment.assigned_log import AssignedLog, sum_counters
from ingestor.assignment.balancer import plan_releases, plan_takeovers
from ingestor.assignment.factory import FollowerFactory
from ingestor.assignment.load import IDLE_LOAD, Load
from ingestor.assignment.orphans import OrphanTracker
from ingestor.assignment.start_position import StartPosition, StartSettings, find_start
from ingestor.backoff import Backoff
from ingestor.log import Log
from ingestor.pipeline.follower import Follower
from ingestor.pipeline.publish import LeaseLost
from ingestor.redis_retry import RedisRetry

BEAT = 1.0
LEASE_TTL = 5.0
# Loads that have been uneven for so many beats are evened out.
_REBALANCE_AFTER_ROUNDS = 10
# Everything that is known of the logs is written down again after so many beats.
_DESCRIBE_EVERY = 60
# A log that fails for a reason nobody foresaw is left alone so many seconds, longer each time ...
PENALTY = Backoff(30.0, 900.0)
# ... unless it was followed for this long.
_SOUND = 600.0
# Stopping waits no longer than this for a Redis that may be gone.
_FAREWELL = 2.0

_log = structlog.get_logger(__name__)


class RedisStores(msgspec.Struct, frozen=True):
    """What a worker needs of Redis.

    Attributes:
        leases: this worker's.
        directory: where workers and logs are written down.
        roster: reads which workers there are.
    """

    leases: Leases
    directory: ClusterRegistry
    roster: Callable[[], Awaitable[WorkerLoads]]


class Worker:
    """Takes its share of the logs and follows them.

    Args:
        worker_id: no other process has it, or had it.
        bus: Redis.
        assembly: makes followers.
        patience: what to do while Redis is away.
        starts: where logs start that Redis does not know.
        whereabouts: what the directory is told of this process beside its numbers.
        says: the same, asked at each heartbeat.
        log_fault: called with the name of a log that failed, the error, and seconds until it is
            tried again.
    """

    def __init__(
        self,
        worker_id: str,
        bus: RedisStores,
        assembly: FollowerFactory,
        patience: RedisRetry,
        starts: StartSettings,
        whereabouts: Mapping[str, str],
        says: Callable[[], Mapping[str, str]] = dict,
        log_fault: Callable[[str, Exception, float], None] = lambda *_: None,
    ) -> None:
        self._log_fault = log_fault
        self._says = says
        self._writes: Mapping[str, str] = {}  # worker -> the streams that its configuration names
        self._id = worker_id
        self._whereabouts = whereabouts
        self._bus = bus
        self._assembly = assembly
        self._patience = patience
        self._starts = starts
        self._logs: dict[str, Log] = {}
        self._described: dict[str, LogDescription] = {}
        self._epoch: str | None = None  # of the Redis in which it was
        self._beats = 0
        self._held: dict[str, AssignedLog] = {}
        self._start_lookups: dict[str, asyncio.Task[None]] = {}  # for where to start
        self._loads: dict[str, float] = {}  # log id -> what it cost whoever held it last
        self._found: dict[
            str, StartPosition
        ] = {}  # log id -> where it starts, by this worker's look
        self._wake = asyncio.Event()  # something can be taken: do not wait for the next beat
        self._retry_after: dict[str, float] = {}  # log id -> loop time until which
        self._unclaimed = OrphanTracker()
        self._failures: dict[str, int] = {}  # log id -> how often it failed, in a row
        self._uneven = 0  # for how many beats logs should have moved

    @property
    def held(self) -> Sequence[AssignedLog]:
        """The logs that it follows."""
        return tuple(self._held.values())

    @property
    def waiting(self) -> int:
        """How many logs it has yet to begin: their start is looked for, or they are left alone."""
        now = asyncio.get_running_loop().time()
        left_alone = {log_id for log_id, until in self._retry_after.items() if until > now}
        return len((self._start_lookups.keys() | left_alone) - self._held.keys())

    def follow(self, logs: Mapping[str, Log]) -> None:
        """Share in these logs from the next beat on.

        What is followed already goes on, from where it is if something about it has changed.
        """
        self._logs = {**logs}
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; then give everything back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                failed = self._assembly.meter.task_failed
                pulse = supervise("heartbeat", self._keep_pulse, partial(failed, "heartbeat"))
                tasks.create_task(pulse)
                share = partial(self._keep_sharing, tasks)
                await supervise("assignment", share, partial(failed, "assignment"))
        finally:
            # In a task of its own: before Python 3.11.3, a time-out in a task that is being
            # cancelled is no TimeoutError but one more CancelledError.
            await asyncio.create_task(self._leave())

    async def _keep_sharing(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._patience(lambda: self._share(tasks))
            # Not wait_for: in Python 3.11 it may swallow the cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._wake.wait()
            self._wake.clear()

    async def _keep_pulse(self) -> None:
        while True:
            await self._patience(self._pulse)
            await asyncio.sleep(BEAT)

    async def _pulse(self) -> None:
        await self._renew()
        now = asyncio.get_running_loop().time()
        for held in self._held.values():
            held.observe(now)
        counted = sum_counters(self._held.values(), self._own_loads())
        said = {**self._whereabouts, **self._says(), **counted, "knows": len(self._logs)}
        await self._bus.directory.heartbeat_worker(self._id, said)

    def _own_loads(self) -> dict[str, float]:
        """What this worker holds or looks at, and what each log costs."""
        looking = {log_id: self._loads.get(log_id, IDLE_LOAD) for log_id in self._start_lookups}
        return looking | {log_id: held.load.value for log_id, held in self._held.items()}

    async def _share(self, tasks: asyncio.TaskGroup) -> None:
        """Hold the logs that this worker should, and tell how they are."""
        seen = await self._bus.roster()
        self._compare(seen.writes)
        await self._describe(seen)
        mine = self._own_loads()
        others = self._logs.keys() - mine.keys()
        held = {
            worker: {log: cost for log, cost in logs.items() if log in others}
            for worker, logs in seen.loads.items()
        }
        held[self._id] = mine
        costs = {log: cost for logs in held.values() for log, cost in logs.items()}
        self._loads = {log: costs.get(log, self._loads.get(log, IDLE_LOAD)) for log in self._logs}
        free = {log: self._loads[log] for log in self._logs if log not in costs}
        now = asyncio.get_running_loop().time()
        long_free = self._unclaimed.overdue(free, now)
        kept = self._unclaimed.pinned(self._held.keys(), now)
        for log_id in self._start_lookups.keys() - self._logs.keys():
            self._start_lookups[
                log_id
            ].cancel()  # removed, or retired, before anything was read of it
        unwanted = [i for i, log in self._held.items() if self._logs.get(i) != log.follower.log]
        given = [i for i in plan_releases(held, free, self._id) if i not in kept]
        self._uneven = self._uneven + 1 if given else 0
        # Who has nothing has just come; else it takes time to tell a trend from a burst.
        moving = self._uneven > _REBALANCE_AFTER_ROUNDS or not all(held.values())
        for log_id in unwanted or (given if moving else ()):
            await self._release(log_id)
        mine_to_take = plan_takeovers(held, free, self._id)
        for log_id in mine_to_take:
            await self._take(log_id, tasks)
        for log_id in set(long_free) - set(mine_to_take):
            if await self._take(log_id, tasks):
                self._unclaimed.pin(log_id, now)
        await asyncio.gather(*map(self._report, tuple(self._held.values())))
        for log_id in [i for i, held in self._held.items() if held.is_drained(time.time())]:
            await self._drop(log_id)

    def _compare(self, writes: Mapping[str, str]) -> None:
        """Report ingestors whose configurations name different streams, once for each change."""
        if writes != self._writes and len(set(writes.values())) > 1:
            _log.warning(
                "ingestor streams differ",
                streams={worker: streams.split() for worker, streams in writes.items()},
                effect="the ingestor that was configured last decides for all",
            )
        self._writes = writes

    async def _renew(self) -> None:
        """Renew all leases; stop following what was lost."""
        leases = [held.lease for held in self._held.values()]
        for lease in await self._lost(leases):
            held = self._held.get(lease.log_id)
            if held is None or held.lease is not lease:
                continue  # ended, or restored, while we asked
            if await self._bus.leases.next_index(lease.log_id) is None:
                # Nobody took it: Redis was emptied, and only this worker knows where the log was.
                try:
                    await held.follower.pipeline.restore(lease)
                except LeaseLost:
                    pass
                else:
                    continue
            _log.warning("lease lost", log=held.follower.log.name)
            await self._end(lease.log_id)

    async def _lost(self, leases: Sequence[Lease]) -> Sequence[Lease]:
        """Renew leases together; each alone if what Redis holds of one of them is unusable."""
        try:
            return await self._bus.leases.renew(leases)
        except RedisError as error:
            if isinstance(error, UNAVAILABLE):
                raise
        lost: list[Lease] = []
        for lease in leases:
            try:
                lost += await self._bus.leases.renew([lease])
            except RedisError as error:
                if isinstance(error, UNAVAILABLE):
                    raise
                if (held := self._held.get(lease.log_id)) is not None:
                    self._failed(held.follower.log, error, "renewing its lease")
                    await self._end(lease.log_id)
        return lost

    async def _report(self, held: AssignedLog) -> None:
        """Tell the directory how a log is."""
        try:
            await held.publish_status(self._bus.directory)
        except RedisError as error:
            if isinstance(error, UNAVAILABLE):
                raise
            self._failed(held.follower.log, error, "reporting its state")
            await self._end(held.follower.log.id)

    async def _describe(self, seen: WorkerLoads) -> None:
        """Write down what is known of logs: when it changes, and again if Redis was emptied."""
        self._beats += 1
        if seen.epoch != self._epoch or self._beats % _DESCRIBE_EVERY == 0:
            self._described = {}
            for held in self._held.values():
                held.heartbeat()
        known = {log.id: _description(log) for log in self._logs.values()}
        new = [told for log_id, told in known.items() if self._described.get(log_id) != told]
        try:
            await self._bus.directory.describe(new)
        except RedisError as error:
            if isinstance(error, UNAVAILABLE):
                raise
            await self._describe_each(new)
        self._described, self._epoch = known, seen.epoch

    async def _describe_each(self, logs: Sequence[LogDescription]) -> None:
        """Write down logs one by one: what Redis holds of one of them is unusable."""
        for told in logs:
            try:
                await self._bus.directory.describe([told])
            except RedisError as error:
                if isinstance(error, UNAVAILABLE):
                    raise
                self._failed(self._logs[told.log_id], error, "describing it")

    async def _take(self, log_id: str, tasks: asyncio.TaskGroup) -> bool:
        """Take a log if it is free, or find out where it starts if that is not known."""
        now = asyncio.get_running_loop().time()
        if log_id in self._start_lookups or self._retry_after.get(log_id, now) > now:
            return False
        log = self._logs[log_id]
        try:
            lease = await self._bus.leases.acquire(log_id, None)
            is_new = lease is None and await self._bus.leases.next_index(log_id) is None
        except RedisError as error:
            if isinstance(error, UNAVAILABLE):
                raise
            self._failed(log, error, "taking it")
            return False
        if lease is not None:
            self._begin(log, lease, tasks)
        elif is_new:
            self._start_lookups[log_id] = tasks.create_task(self._find_start(log))
        return lease is not None

    def _begin(self, log: Log, lease: Lease, tasks: asyncio.TaskGroup) -> None:
        follower = self._assembly.follower(log, lease)
        start = self._found.pop(log.id, None)  # another worker may have been the first to say
        why = "where redis says it goes on"
        if start is not None and start.index == lease.next:
            why = start.why
        _log.info(
            "following log", log=log.name, url=log.url, kind=log.kind.value, at=lease.next, why=why
        )
        task = tasks.create_task(self._run(log, follower))
        self._held[log.id] = AssignedLog(follower, task, Load(self._loads.get(log.id, IDLE_LOAD)))

    async def _run(self, log: Log, follower: Follower) -> None:
        """Follow one log; whatever happens to it stays with it."""
        began = asyncio.get_running_loop().time()
        try:
            await follower.run()
        except LeaseLost:
            _log.warning("lease lost", log=log.name)
        except Exception as error:  # noqa: BLE001  (one log's trouble must not end the others)
            if asyncio.get_running_loop().time() - began > _SOUND:
                self._failures.pop(log.id, None)
            self._failed(log, error, "following it")
        self._held.pop(log.id, None)

    async def _find_start(self, log: Log) -> None:
        """Find out where an unknown log starts, and write it down."""
        try:
            client, breaker = self._assembly.client(log)
            check = self._assembly.signature_check(log)
            alarms = self._assembly.alarms(log)
            start = await find_start(log, client, breaker, self._starts, alarms, check)
            self._found[log.id] = start
            await self._patience(partial(self._bus.leases.set_start, log.id, start.index))
        except Exception as error:  # noqa: BLE001  (one log's trouble must not end the others)
            self._failed(log, error, "finding where it starts")
        else:
            self._wake.set()
        finally:
            del self._start_lookups[log.id]

    def _failed(self, log: Log, error: Exception, what: str) -> None:
        """Leave a log alone for a while, after an error that concerns it and no other."""
        failures = self._failures.get(log.id, 0)
        self._failures[log.id] = failures + 1
        pause = round(PENALTY(failures), 1)
        self._retry_after[log.id] = asyncio.get_running_loop().time() + pause
        self._assembly.meter.log_failed(log.name)
        _log.error("log failed", log=log.name, doing=what, again_in_secs=pause, exc_info=error)
        self._log_fault(log.name, error, pause)

    async def _release(self, log_id: str) -> None:
        """Hand a log over to whoever has less to do."""
        if log_id in self._start_lookups:
            self._start_lookups[log_id].cancel()
            return
        held = await self._end(log_id)
        if held is not None:
            await self._bus.leases.release(held.lease)
            _log.info("gave up log", log=held.follower.log.name, at=held.follower.pipeline.next)

    async def _drop(self, log_id: str) -> None:
        """Be done with a log that is over, for ever and for every worker."""
        held = await self._end(log_id)
        if held is None:
            return
        log, at = held.follower.log, held.follower.pipeline.next
        if await self._bus.leases.drop(held.lease):
            self._logs.pop(log_id, None)
            self._described.pop(log_id, None)  # if it comes back, all of it is new
            _log.info("retired log", log=log.name, at=at)
        else:  # somebody wants it after all
            await self._bus.leases.release(held.lease)
            _log.info("gave up log", log=log.name, at=at)

    async def _end(self, log_id: str) -> AssignedLog | None:
        """Stop following a log; None if somebody did already."""
        held = self._held.pop(log_id, None)
        if held is not None:
            held.task.cancel()
            await asyncio.gather(held.task, return_exceptions=True)
        return held

    async def _leave(self) -> None:
        """Release every lease, so that other workers go on at once. All tasks have ended."""
        try:
            async with asyncio.timeout(_FAREWELL):
                for held in self._held.values():
                    await self._bus.leases.release(held.lease)
                await self._bus.directory.remove_worker(self._id)
        except (RedisError, TimeoutError) as error:
            _log.warning("leases not released, they will expire", problem=str(error))


def _description(log: Log) -> LogDescription:
    return LogDescription(
        log_id=log.id,
        name=log.name,
        url=f"{log.base}/",
        operator=log.operator,
        kind=log.kind.value,
        state=log.state,
    )
