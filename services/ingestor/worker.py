"""One ingestor among any number: which logs are its, and the tasks that follow them.

Two loops, each a beat a second. The pulse keeps what is had, and nothing may delay it:

    renew       leases that were lost end their log's task at once
    heartbeat   this worker is alive and holds so many logs

The sharing changes it:

    share       from all heartbeats: how many logs this worker should hold
    give up     what is more than that, so that a worker which joined finds something to take
    take        free leases, up to the share

Redis arbitrates: a lease is had by one worker, and what a worker without it publishes is refused
by the fence. So heartbeats may be late, and shares be wrong for a second, and nothing is lost or
repeated. A worker that stops gives its leases back; one that dies loses them within `LEASE_TTL`.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec
import structlog
from redis.exceptions import RedisError

from certbus.directory import Directory, LogDescription, LogStatus, Snapshot
from certbus.leases import Lease, Leases
from ingestor.assembly import Assembly
from ingestor.catalog.log import Log
from ingestor.first_sight import Starts, find_start
from ingestor.follow.follower import Follower
from ingestor.follow.pipeline import LeaseLost
from ingestor.held import Held, totals
from ingestor.outage import Patience
from ingestor.share import quota
from ingestor.unclaimed import Unclaimed

BEAT = 1.0
LEASE_TTL = 5.0
# A log whose task fails for a reason nobody foresaw is left alone this long.
_PENALTY = 30.0
# Stopping waits no longer than this for a Redis that may be gone.
_FAREWELL = 2.0

_log = structlog.get_logger(__name__)


class Bus(msgspec.Struct, frozen=True):
    """What a worker needs of Redis.

    Attributes:
        leases: this worker's.
        directory: where workers and logs are written down.
        snapshot: reads it.
    """

    leases: Leases
    directory: Directory
    snapshot: Callable[[], Awaitable[Snapshot]]


class Worker:
    """Takes its share of the logs and follows them.

    Args:
        worker_id: no other process has it, or had it.
        bus: Redis.
        assembly: makes followers.
        patience: what to do while Redis is away.
        starts: where logs start that Redis does not know.
        whereabouts: what the directory is told of this process beside its numbers.
    """

    def __init__(
        self,
        worker_id: str,
        bus: Bus,
        assembly: Assembly,
        patience: Patience,
        starts: Starts,
        whereabouts: Mapping[str, str],
    ) -> None:
        self._id = worker_id
        self._whereabouts = whereabouts
        self._bus = bus
        self._assembly = assembly
        self._patience = patience
        self._starts = starts
        self._logs: dict[str, Log] = {}
        self._described: dict[str, LogDescription] = {}
        self._held: dict[str, Held] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}  # for where to start
        self._why: dict[str, str] = {}  # log id -> why it starts where it does
        self._wake = asyncio.Event()  # something can be taken: do not wait for the next beat
        self._left_alone: dict[str, float] = {}  # log id -> loop time until which
        self._unclaimed = Unclaimed()

    @property
    def held(self) -> Sequence[Held]:
        """The logs that it follows."""
        return tuple(self._held.values())

    @property
    def waiting(self) -> int:
        """How many logs it has yet to begin: their start is looked for, or they are left alone."""
        now = asyncio.get_running_loop().time()
        left_alone = {log_id for log_id, until in self._left_alone.items() if until > now}
        return len((self._looking.keys() | left_alone) - self._held.keys())

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
                tasks.create_task(self._keep_pulse())
                while True:
                    await self._patience(lambda: self._share(tasks))
                    # Not wait_for: in Python 3.11 it may swallow the cancellation.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(BEAT):
                            await self._wake.wait()
                    self._wake.clear()
        finally:
            # In a task of its own: before Python 3.11.3, a time-out in a task that is being
            # cancelled is no TimeoutError but one more CancelledError.
            await asyncio.create_task(self._leave())

    async def _keep_pulse(self) -> None:
        while True:
            await self._patience(self._pulse)
            await asyncio.sleep(BEAT)

    async def _pulse(self) -> None:
        await self._renew()
        said = {**self._whereabouts, **totals(self._held.values())}
        await self._bus.directory.worker_alive(self._id, said)

    async def _share(self, tasks: asyncio.TaskGroup) -> None:
        """Hold as many logs as this worker should, and tell how they are."""
        seen = await self._bus.snapshot()
        await self._describe(seen)
        held = {worker.id: int(worker.fields.get("logs", 0)) for worker in seen.workers}
        held[self._id] = len(self._held)
        now = asyncio.get_running_loop().time()
        kept = self._unclaimed.kept(self._held.keys(), now)
        share = max(quota(held, len(self._logs), self._id), len(kept))
        unwanted = [i for i, log in self._held.items() if self._logs.get(i) != log.follower.log]
        theirs = [log_id for log_id in self._held if log_id not in kept][share - len(kept) :]
        for log_id in unwanted or theirs:
            await self._give_up(log_id)
        await self._take(share, seen, tasks)
        await asyncio.gather(*(log.report(self._bus.directory) for log in self._held.values()))
        for log_id in [i for i, held in self._held.items() if held.is_drained(time.time())]:
            await self._drop(log_id)

    async def _renew(self) -> None:
        """Renew all leases; stop following what was lost."""
        leases = [held.lease for held in self._held.values()]
        for lease in await self._bus.leases.renew(leases):
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

    async def _describe(self, seen: Snapshot) -> None:
        """Write down what is known of logs: what has changed, and all for an emptied Redis."""
        known = {log.log_id for log in seen.logs if log.name}
        now = {log.id: _description(log) for log in self._logs.values()}
        before = self._described
        await self._bus.directory.describe(
            [
                said
                for log_id, said in now.items()
                if log_id not in known or before.get(log_id) != said
            ]
        )
        self._described = now

    async def _take(self, share: int, seen: Snapshot, tasks: asyncio.TaskGroup) -> None:
        """Take free logs, up to `share` and what nobody else takes; find where new ones start."""
        known = {log.log_id: log for log in seen.logs}
        alive = {worker.id for worker in seen.workers} - {self._id}
        now = asyncio.get_running_loop().time()

        def order(log_id: str) -> tuple[bool, bytes]:
            # Those that look free first; and each worker begins elsewhere, so that workers which
            # start together do not run after the same logs.
            owner = known[log_id].owner if log_id in known else None
            return owner in alive, hashlib.sha256(f"{self._id} {log_id}".encode()).digest()

        others = self._logs.keys() - self._held.keys()
        free = [i for i in others if i not in known or known[i].owner not in alive]
        long_free = self._unclaimed.long_free(free, now)
        for log_id in sorted(others, key=order):
            if len(self._held) >= share and log_id not in long_free:
                continue
            if self._left_alone.get(log_id, now) > now:
                continue
            log = self._logs[log_id]
            if known.get(log_id, LogStatus(log_id)).next is None:
                if log_id not in self._looking:
                    self._looking[log_id] = tasks.create_task(self._look(log))
                continue
            lease = await self._bus.leases.acquire(log_id, None)
            if lease is not None:
                if len(self._held) >= share:
                    self._unclaimed.keep(log_id, now)
                self._begin(log, lease, tasks)

    def _begin(self, log: Log, lease: Lease, tasks: asyncio.TaskGroup) -> None:
        follower = self._assembly.follower(log, lease)
        why = self._why.pop(log.id, "where redis says it goes on")
        _log.info(
            "following log", log=log.name, url=log.url, kind=log.kind.value, at=lease.next, why=why
        )
        task = tasks.create_task(self._run(log, follower))
        self._held[log.id] = Held(follower, task)

    async def _run(self, log: Log, follower: Follower) -> None:
        """Follow one log; whatever happens to it stays with it."""
        try:
            await follower.run()
        except LeaseLost:
            _log.warning("lease lost", log=log.name)
        except Exception:  # noqa: BLE001  (one log's trouble must not end the others)
            _log.exception("following failed", log=log.name, again_in_secs=_PENALTY)
            self._leave_alone(log)
        self._held.pop(log.id, None)

    async def _look(self, log: Log) -> None:
        """Find out where an unknown log starts, and write it down."""
        try:
            client, breaker = self._assembly.client(log)
            check = self._assembly.signature_check(log)
            alarms = self._assembly.alarms(log)
            start = await find_start(log, client, breaker, self._starts, alarms, check)
            self._why[log.id] = start.why
            await self._patience(partial(self._bus.leases.set_start, log.id, start.index))
        except Exception:  # noqa: BLE001  (one log's trouble must not end the others)
            _log.exception("finding a start failed", log=log.name, again_in_secs=_PENALTY)
            self._leave_alone(log)
        else:
            self._wake.set()
        finally:
            del self._looking[log.id]

    def _leave_alone(self, log: Log) -> None:
        self._left_alone[log.id] = asyncio.get_running_loop().time() + _PENALTY

    async def _give_up(self, log_id: str) -> None:
        """Hand a log over to whoever has fewer."""
        held = await self._end(log_id)
        if held is not None:
            await self._bus.leases.release(held.lease)
            _log.info("gave up log", log=held.follower.log.name, at=held.follower.pipeline.next)

    async def _drop(self, log_id: str) -> None:
        """Be done with a log that is over, for ever and for every worker."""
        held = await self._end(log_id)
        if held is not None and await self._bus.leases.drop(held.lease):
            self._logs.pop(log_id, None)
            _log.info("retired log", log=held.follower.log.name, at=held.follower.pipeline.next)

    async def _end(self, log_id: str) -> Held | None:
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
                await self._bus.directory.worker_gone(self._id)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
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
