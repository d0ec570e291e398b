"""One run: start everything, let the faults of a plan happen, wait until all is quiet, judge."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
import msgspec
from redis.exceptions import RedisError

from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import Keys
from simlog.api import request_stats
from simlog.oracle import ground_truth
from simlog.oracle.check_message import GroundTruth
from simlog.oracle.oracle import Tally
from tests.adversity import invariants, lines
from tests.adversity.clients import Profile, profiles, transcripts
from tests.adversity.cluster import INTERVAL_MS, LINES, START
from tests.adversity.faults import (
    AnyFault,
    EmptyRedis,
    FailOver,
    Reload,
    RewindRedis,
    ShiftClock,
)
from tests.adversity.inject import FaultyCluster
from tests.adversity.invariants import EXPIRY_SECS, STEADY_SECS, Trouble
from tests.adversity.plan import Plan, name_of
from tests.waiting import until

RESULT: Final = "result.json"
RECORD: Final = "record"
ACCOUNTS: Final = "accounts"
PUBLISHED: Final = "published"
NOT_QUIET: Final = "not quiet in time"
NOT_CHECKED: Final = "clients not checked to move"

QUIET_TIMEOUT_SECS: Final = 90.0
"""Seconds without any progress after which the server has failed to recover from the faults."""

MOVE_SECS: Final = 30.0
"""Seconds after the last fault within which every client gets another message."""

RECOVERY: Final = 300.0
"""Seconds after which it has, progress or not: a busy machine is slow, but not as slow. The length
of a run, if it is more: an empty Redis gets everything again that the logs have had."""


class Accounts(msgspec.Struct, frozen=True):
    """The counters of each log, and how many entries each has, when everything is quiet."""

    tallies: list[Tally]
    sizes: dict[str, int]


class Applied(msgspec.Struct, frozen=True):
    """A fault that happened.

    Attributes:
        at: when it began, seconds since the epoch.
        fault: its text.
        error: what went wrong in doing it, or why it changed nothing; empty if it happened.
        name: its kind.
    """

    at: float
    fault: str
    error: str = ""
    name: str = ""


class Result(msgspec.Struct, frozen=True):
    """What came of a run.

    Attributes:
        plan: what was to happen.
        began: when the first fault could happen, seconds since the epoch.
        applied: what happened.
        troubles: what must not have; none: the run passed.
        numbers: how much there was, for people.
        lost_since: when Redis first lost something, or its clock was ahead; None: never.
    """

    plan: Plan
    began: float
    applied: list[Applied]
    troubles: list[Trouble]
    numbers: dict[str, int]
    lost_since: float | None = None

    def __str__(self) -> str:
        plan = self.plan
        verdict = "failed" if self.troubles else "passed"
        counted = ", ".join(f"{number} {name}" for name, number in self.numbers.items())
        return "\n".join(
            [
                f"seed {plan.seed}: {verdict} ({plan.server}, {plan.retained} bytes retained)",
                *(
                    f"  {done.at - self.began:6.2f} s  {done.fault} {done.error}".rstrip()
                    for done in self.applied
                ),
                f"  {counted}",
                *_summary(self.troubles),
            ]
        )

    @property
    def happened(self) -> list[str]:
        """The kind of each fault that changed something, and of the logs of the run."""
        faults = [done.name for done in self.applied if not done.error]
        return [*faults, *self.plan.kinds_of_logs()]

    @property
    def details(self) -> str:
        """Every trouble with examples."""
        return "\n".join([str(self), "", *map(str, self.troubles)])


def _summary(troubles: Sequence[Trouble]) -> list[str]:
    """One line and one example for each kind of trouble, wherever it was."""
    kinds: dict[str, list[Trouble]] = {}
    for trouble in troubles:
        kinds.setdefault(trouble.kind, []).append(trouble)
    lines = []
    for kind, found in kinds.items():
        where = ", ".join(f"{trouble.where} ({len(trouble.examples)})" for trouble in found)
        lines.append(f"  {kind.upper()}: {where}")
        lines += [f"    e.g. {example[:400]}" for example in found[0].examples[:2]]
    return lines


async def run(plan: Plan, directory: Path, move_secs: float = MOVE_SECS) -> Result:
    """Run a plan.

    Args:
        plan: what is to happen.
        directory: an empty one, which keeps what every process writes.
        move_secs: seconds after the last fault within which every client gets another message.
    """
    async with FaultyCluster(directory, plan) as cluster:
        run = _Run(cluster, plan, move_secs)
        await run.all()
        return run.result


class _Run:
    def __init__(self, cluster: FaultyCluster, plan: Plan, move_secs: float) -> None:
        self._cluster = cluster
        self._plan = plan
        self._move_secs = move_secs
        self._clients = transcripts(cluster.directory)
        self._applied: list[Applied] = []
        self._troubles: list[Trouble] = []
        self._began = 0.0
        self._lost_since: float | None = None
        self._numbers: dict[str, int] = {}

    @property
    def result(self) -> Result:
        return Result(
            self._plan,
            self._began,
            self._applied,
            self._troubles,
            self._numbers,
            self._lost_since,
        )

    async def all(self) -> None:
        """Do everything."""
        cluster = self._cluster
        await cluster.start()
        await until(self._everybody_began, "each client has a message", START)
        watching = asyncio.create_task(cluster.watch())
        self._began = time.time()
        async with asyncio.TaskGroup() as group:
            for fault in self._plan.faults:
                group.create_task(self._happen(fault))
        # What ends a fault may itself wait for Redis.
        assert cluster.clients is not None
        cluster.clients.send(signal.SIGUSR1)
        ended = time.time()
        _, complete = await self._cluster.sizes()
        if missing := await self._quiet():
            self._troubles.append(Trouble("run", NOT_QUIET, (missing,)))
        self._numbers["seconds to quiet"] = round(time.time() - ended)
        if complete:  # there may be nothing that they could get
            self._numbers[NOT_CHECKED] = 1
        else:
            self._check_moved(ended)
        await asyncio.sleep(1)  # anything that comes now is more than there should be
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await self._judge()

    def _check_moved(self, ended: float) -> None:
        """Check how long after the last fault each client got the next message."""
        waits = {client.name: client.moved_after(ended) for client in self._clients}
        late = [
            f"{name} after {round(at - ended) if at is not None else 'the end'} s"
            for name, at in waits.items()
            if at is None or at - ended > self._move_secs
        ]
        if late:
            self._troubles.append(Trouble("clients", "late to move", tuple(late)))
        slowest = max((at - ended for at in waits.values() if at is not None), default=0)
        self._numbers["seconds until all clients moved"] = round(slowest)

    async def _check_connections(self) -> None:
        """Check that Redis counts the connections that the gateways have.

        After a reload, those of some gateways may not be limited, and not counted.
        """
        is_reloaded = any(isinstance(fault, Reload) for fault in self._plan.faults)
        found = ""

        async def agrees() -> bool:
            nonlocal found
            try:
                counted, held = await self._cluster.connections()
            except (RedisError, TimeoutError) as error:
                found = f"{type(error).__name__} {error}"
                return False
            found = f"{counted} in Redis, {held} in the gateways"
            return counted == held or (is_reloaded and counted < held)

        try:
            await until(agrees, "Redis counts the connections", MOVE_SECS)
        except AssertionError:
            self._troubles.append(Trouble("connections", "not counted", (found,)))

    async def _happen(self, fault: AnyFault) -> None:
        copy: Path | None = None
        if isinstance(fault, RewindRedis):
            await self._until(fault.at - fault.age)
            copy = self._cluster.directory / f"copy-{fault.at}"
            if not await self._cluster.copy_redis(copy):
                copy = None
        await self._until(fault.at)
        at, error = time.time(), ""
        if isinstance(fault, EmptyRedis | RewindRedis | FailOver) or lets_marks_expire(fault):
            self._lost_since = at if self._lost_since is None else self._lost_since
        try:
            await self._cluster.apply(fault, copy)
        except Exception as problem:  # noqa: BLE001 - reported with the fault
            error = f"({type(problem).__name__} {problem})"
            if isinstance(fault, FailOver):
                self._troubles.append(Trouble("redis", "no fail-over", (error,)))
        self._applied.append(Applied(at, str(fault), error, name_of(fault)))
        self._applied.sort(key=lambda done: done.at)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(self._began + at - time.time(), 0))

    def _everybody_began(self) -> bool:
        for client in self._clients:
            client.update()
        return all(client.last_id for client in self._clients)

    async def _quiet(self) -> str:
        """Wait until everything has been read and delivered.

        Returns:
            What has not; empty if everything has.
        """
        end = time.monotonic() + max(RECOVERY, self._plan.seconds)
        progress, since = -1, time.monotonic()
        while True:
            try:
                missing, done = await self._missing()
            except (httpx.HTTPError, RedisError, TimeoutError, AssertionError) as error:
                missing, done = f"{type(error).__name__} {error}", progress
            now = time.monotonic()
            if done > progress:
                progress, since = done, now
            if not missing or now > end or now - since > QUIET_TIMEOUT_SECS:
                return missing
            await asyncio.sleep(0.3)

    async def _missing(self) -> tuple[str, int]:
        """What has not been read or delivered, and a number that grows while any of it is."""
        sizes, complete = await self._cluster.sizes()
        next_of = {tally.log: tally.next for tally in await self._tallies()}
        missing = [
            f"{log} is at {next_of.get(log)} of {size}"
            for log, size in sizes.items()
            if next_of.get(log) != size
        ]
        newest = await self._cluster.newest_ids()
        for client in self._clients:
            client.update()
        everything = Profile("websocket", "lite", "steady").name
        lite = next(client for client in self._clients if client.name == everything)
        passed = lite.last_that_passes()
        for client, profile in zip(self._clients, profiles(), strict=True):
            owed = passed if profile.is_filtered else newest[profile.form]
            if client.last_id != owed and newest[profile.form]:  # an empty stream owes nothing
                missing.append(f"{client.name} is at {client.last_id} of {owed}")
        if not complete:
            missing.append("the logs still grow")
        received = sum(client.messages for client in self._clients)
        return ", ".join(missing), received + sum(sizes.values()) + sum(next_of.values())

    async def _tallies(self) -> list[Tally]:
        async with connect(self._cluster.redis_admin_url) as client, asyncio.timeout(5):
            logs = (await snapshot(client, Keys())).logs
        return [
            Tally(
                log.name,
                log.start or 0,
                log.next or 0,
                log.published,
                log.duplicates,
                log.rejected,
                log.skipped,
            )
            for log in logs
        ]

    async def _judge(self) -> None:
        cluster = self._cluster
        (cluster.directory / PUBLISHED).write_bytes(msgspec.json.encode(cluster.proxy.published))
        (cluster.directory / RECORD).write_bytes(await cluster.get(f"{cluster.logs_url}/record"))
        requests = request_stats.read(await cluster.get(f"{cluster.logs_url}/requests"))
        late = cluster.late_secs()
        self._troubles += invariants.of_operators(requests.operators, INTERVAL_MS / 1000, late)
        self._troubles += invariants.of_memory(cluster.peaks)
        for kind in ("ingestor", "gateway"):
            peak = max(mib for name, mib in cluster.peaks.items() if name.startswith(kind))
            self._numbers[f"MiB of one {kind}"] = round(peak)
        self._numbers[f"requests to one operator in {invariants.RATE_SPAN_SECS:g} s"] = max(
            counted.most(invariants.RATE_SPAN_SECS) for counted in requests.operators.values()
        )
        await self._check_connections()
        accounts = Accounts(await self._tallies(), (await cluster.sizes())[0])
        (cluster.directory / ACCOUNTS).write_bytes(msgspec.json.encode(accounts))
        await cluster.end()
        if cluster.troubles:
            self._troubles.append(Trouble("processes", "troubles", tuple(cluster.troubles)))
        self._troubles += cluster.exceptions()
        quiet = all(trouble.kind != NOT_QUIET for trouble in self._troubles)
        troubles, numbers = judge(cluster.directory, self._plan, self._lost_since, quiet=quiet)
        self._troubles += troubles
        self._numbers |= numbers


def lets_marks_expire(fault: AnyFault) -> bool:
    """Whether the clock of Redis jumps by as much as marks last, and keeps it until ages count."""
    return (
        isinstance(fault, ShiftClock)
        and abs(fault.offset) >= EXPIRY_SECS
        and (fault.seconds is None or fault.seconds > STEADY_SECS)
    )


def judge(
    directory: Path, plan: Plan, lost_since: float | None, *, quiet: bool
) -> tuple[list[Trouble], dict[str, int]]:
    """Judge what Redis held and what each client got.

    Args:
        directory: of a run that has ended.
        plan: of the run.
        lost_since: when Redis first lost something, or its clock was ahead; None: never.
        quiet: whether every client had the time to get everything.
    """
    truth = GroundTruth(ground_truth.read_jsonl((directory / RECORD).read_bytes()))
    paths = sorted((directory / LINES).iterdir(), key=lambda path: int(path.name))
    held = [lines.read(path, truth) for path in paths]
    expires = any(map(lets_marks_expire, plan.faults))
    emptied = any(isinstance(fault, EmptyRedis) for fault in plan.faults)
    published = msgspec.json.decode((directory / PUBLISHED).read_bytes(), type=dict[str, str])
    troubles = invariants.of_redis(
        held, truth, published, marks_may_expire=expires, is_read_again=not emptied
    )
    accounts = msgspec.json.decode((directory / ACCOUNTS).read_bytes(), type=Accounts)
    unpublishable = truth.malformed + Counter(log for log, _ in held[-1].forged)
    troubles += invariants.of_logs(
        accounts.tallies, accounts.sizes, unpublishable, skips=plan.is_bounded
    )
    numbers = Counter(
        {
            "certificates": len(truth.owed),
            "lines": len(held),
            "messages published": sum(len(line.messages) for line in held),
        }
    )
    known = invariants.identify(held)
    for transcript, profile in zip(transcripts(directory), profiles(), strict=True):
        transcript.update()
        one = invariants.client_of(profile, transcript.lines, truth, known)
        gaps = sum(isinstance(item, invariants.Gap) for item in one.items)
        numbers["connections"] += sum(line.kind == "open" for line in transcript.lines)
        numbers["messages received"] += len(one.items) - gaps
        numbers["gaps received"] += gaps
        troubles += invariants.of_client(one, held, lost_since, quiet=quiet)
    return troubles, dict(numbers)
