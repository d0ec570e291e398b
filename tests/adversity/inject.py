"""What faults do to the processes of one run."""

import asyncio
import hashlib
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import yaml

from certbus.connection import connect
from certbus.errors import UNAVAILABLE
from certbus.store import script_text
from simlog.fault_types import Malformed
from tests.adversity.cluster import START, STOP, Cluster, has_started, last_words
from tests.adversity.faults import (
    INGESTORS,
    LOG_FAULTS,
    ONLY_OF,
    PUBLISH,
    REDIS,
    SCRIPTS,
    SERVERS,
    AnyFault,
    Cut,
    CutAtCall,
    CutAtReply,
    Delay,
    EmptyRedis,
    FailOver,
    FillDisk,
    FillRedis,
    Kill,
    LimitDescriptors,
    LogFault,
    Refuse,
    Reload,
    Restart,
    RestartRedis,
    RewindRedis,
    Roll,
    ShiftClock,
    ShiftHost,
    Stop,
    StopAtPublish,
)
from tests.adversity.plan import Plan
from tests.certbus.proxy import FENCE, Held, Ordered
from tests.certbus.servers import ShiftedRedisServer
from tests.waiting import until

_LOG = re.compile(rb"\n([^\r\n]*\blog:[^\r\n]+)\r")
"""The key of the log in a request that publishes."""


class NothingChanged(Exception):
    """A fault met nothing that it could change; its text is why."""


class FaultyCluster(Cluster):
    """A cluster that faults happen to."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory, plan)
        self._delays: list[float] = []
        self._refusals = 0

    async def apply(self, fault: AnyFault, copy: Path | None) -> None:
        """Let a fault happen, from its begin to its end.

        Args:
            fault: which.
            copy: of the data of Redis, if it rewinds to one.

        Raises:
            NothingChanged: it cannot happen now.
        """
        match fault:
            case Kill():
                await self._kill(fault.processes, fault.down)
            case Restart():
                await self._restart(fault.process)
            case Stop():
                await self._stop_for(fault.process, fault.seconds)
            case StopAtPublish():
                await self._stop_at_publish(fault.seconds)
            case Roll():
                await self._roll(fault.processes)
            case Reload():
                await self._reload(fault)
            case LimitDescriptors():
                await self._limit_descriptors_for(fault)
            case ShiftHost():
                await self._shift_host_for(fault)
            case LogFault():
                await self._fault_of_log(fault)
            case FailOver():
                await self._fail_over(fault)
            case Cut() | CutAtReply() | CutAtCall() | Delay() | Refuse():
                await self._apply_to_connections(fault)
            case _:
                await self._apply_to_redis(fault, copy)

    async def _apply_to_connections(
        self, fault: Cut | CutAtReply | CutAtCall | Delay | Refuse
    ) -> None:
        match fault:
            case Cut():
                self.proxy.cut(fault.how)
            case CutAtReply():
                marker = PUBLISH if fault.publishing else b""
                cut = self.proxy.cut_at(fault.reply, fault.how, fault.when, marker)
                await self._is_made(cut, fault.at)
            case CutAtCall():
                text = script_text(*SCRIPTS[fault.script])
                sha1 = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
                cut = self.proxy.cut_at(fault.call, fault.how, fault.when, sha1.encode())
                await self._is_made(cut, fault.at)
            case Delay():
                await self._delay_for(fault.seconds, fault.delay)
            case Refuse():
                self.proxy.cut(fault.how)
                await self._refuse_for(fault.seconds)

    async def _apply_to_redis(
        self,
        fault: RestartRedis | EmptyRedis | RewindRedis | ShiftClock | FillRedis | FillDisk,
        copy: Path | None,
    ) -> None:
        match fault:
            case RestartRedis():
                await self._replace_redis(fault.down)
            case EmptyRedis():
                await self._empty_redis(fault.down, ingestors=fault.ingestors)
            case RewindRedis():
                if copy is None:
                    raise NothingChanged("there was nothing to copy")
                await self._replace_redis(fault.down, copy)
            case ShiftClock():
                await self._shift_clock_for(fault.offset, fault.seconds)
            case FillRedis():
                await self._fill_for(fault)
            case FillDisk():
                await self._fill_disk_for(fault.spare, fault.seconds)

    async def _kill(self, names: tuple[str, ...], down: float) -> None:
        """SIGKILL, and start again after `down` seconds. What is down already is left alone.

        Raises:
            NothingChanged: all of them are down or stopped.
        """
        victims = [self.process(name) for name in names if name not in self._down]
        if not victims:
            raise NothingChanged("down or stopped")
        self._down |= {victim.name for victim in victims}
        for victim in victims:
            victim.kill()
        await asyncio.sleep(down)
        for victim in victims:
            victim.restart()
            self._down.discard(victim.name)

    async def _kill_if_up(self, names: tuple[str, ...], down: float) -> None:
        with suppress(NothingChanged):
            await self._kill(names, down)

    async def _restart(self, name: str) -> None:
        """SIGTERM, and start again. A process must end after SIGTERM, with 0.

        Raises:
            NothingChanged: it is down or stopped.
        """
        if name in self._down:
            raise NothingChanged(f"{name} is down or stopped")
        self._down.add(name)
        process = self.process(name)
        try:
            status = await asyncio.to_thread(process.stop, seconds=STOP)
            # SIGTERM may arrive before it has installed its signal handlers.
            if status not in (0, -signal.SIGTERM):
                self.troubles.append(f"{name} ended with {status}: {last_words(process.printed)}")
        except AssertionError:
            self.troubles.append(f"{name} does not end within {STOP} s of SIGTERM")
        process.restart()
        self._down.discard(name)

    async def _stop_for(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`.

        Raises:
            NothingChanged: it is down or stopped.
        """
        if name == REDIS:
            async with self.redis_lock:
                await self._suspend(self.redis.send, seconds)
            return
        if name in self._down:
            raise NothingChanged(f"{name} is down or stopped")
        self._down.add(name)
        await self._suspend(self.process(name).send, seconds)
        self._down.discard(name)

    async def _stop_at_publish(self, seconds: float) -> None:
        """Let Redis have a batch just after the lease of its log went to another ingestor.

        Raises:
            NothingChanged: no batch came, or no other ingestor took its log.
        """
        held: Held | None = None
        victim: str | None = None
        is_taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                held = await self.proxy.hold(PUBLISH)
                victim = self._owner(held.port)
                if victim is not None:
                    self._down.add(victim)
                    self.process(victim).send(signal.SIGSTOP)
                    await until(partial(self._has_new_fence, held.requests), "a new fence")
                    is_taken = True
        if held is not None:
            held.released.set()
        if victim is not None:
            self.process(victim).send(signal.SIGCONT)
            self._down.discard(victim)
        if not is_taken:
            raise NothingChanged("no batch, or no other ingestor that took its log")

    def _owner(self, port: int) -> str | None:
        """The ingestor with a connection from a port, unless a fault ends or stops it."""
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inodes = {f"socket:[{row[9]}]" for row in sockets if row[1].endswith(f":{port:04X}")}
        for name in set(INGESTORS) - self._down:
            with suppress(OSError):
                for file in Path(f"/proc/{self.process(name).pid}/fd").iterdir():
                    if str(file.readlink()) in inodes:
                        return name
        return None

    async def _has_new_fence(self, requests: bytes) -> bool:
        """Whether the log of a batch has another fence than the batch."""
        log, fence = _LOG.findall(requests)[0], FENCE.findall(requests)[0]
        with suppress(*UNAVAILABLE):
            async with connect(self.redis.url) as client:
                present = await client.hget(log.decode(), "fence")
                return present is not None and present != fence
        return False

    async def _replace_redis(
        self, down: float, copy: Path | None = None, *, lose: bool = False
    ) -> None:
        """Kill Redis and start it again.

        Args:
            down: seconds without it.
            copy: of its data, to come back with.
            lose: come back with nothing.
        """
        async with self.redis_lock:
            self.redis.kill()
            if lose or copy is not None:
                self.end_line()
                if copy is not None:
                    shutil.move(copy, self.redis.data)
            await asyncio.sleep(down)
            await asyncio.to_thread(self.redis.start)

    async def copy_redis(self, copy: Path) -> bool:
        """Copy what Redis has written; False if there is nothing, as while it is replaced."""
        try:
            await asyncio.to_thread(shutil.copytree, self.redis.data, copy)
        except OSError:  # shutil.Error is one
            shutil.rmtree(copy, ignore_errors=True)
            return False
        return True

    async def _refuse_for(self, seconds: float) -> None:
        """Accept no connection to Redis."""
        self._refusals += 1
        self.proxy.refused = True
        await asyncio.sleep(seconds)
        self._refusals -= 1
        self.proxy.refused = self._refusals > 0

    async def _is_made(self, cut: Ordered, at: float) -> None:
        """Wait for a cut while faults happen.

        Raises:
            NothingChanged: it was not made, or another one took its place.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(cut.over.wait(), self._plan.seconds - at)
        if not cut.is_made:
            raise NothingChanged("no such call or reply")

    async def _delay_for(self, seconds: float, delay: float) -> None:
        """Let every reply be late."""
        self._delays.append(delay)
        self.proxy.delay = max(self._delays)
        await asyncio.sleep(seconds)
        self._delays.remove(delay)
        self.proxy.delay = max(self._delays, default=0)

    async def _empty_redis(self, down: float, *, ingestors: bool) -> None:
        """Let Redis come back with nothing, perhaps while no ingestor runs."""
        async with asyncio.TaskGroup() as group:
            if ingestors:
                group.create_task(self._kill_if_up(INGESTORS, down + 1))
            group.create_task(self._replace_redis(down, lose=True))

    async def _shift_clock_for(self, offset: float, seconds: float | None) -> None:
        """Set the clock of Redis to the machine's plus `offset` seconds; None: for good."""
        assert isinstance(self.redis, ShiftedRedisServer)
        self.redis.shift(offset)
        if seconds is not None:
            await asyncio.sleep(seconds)
            self.redis.shift(0)

    async def _fill_for(self, fault: FillRedis) -> None:
        """Give Redis no more than a share of the memory that it uses."""
        async with self.redis_lock, connect(self.redis.url) as client:
            used = int((await client.info("memory"))["used_memory"])
            await client.config_set("maxmemory", max(round(used * fault.share), 1))
            await asyncio.sleep(fault.seconds)
            await client.config_set("maxmemory", 0)

    async def _fill_disk_for(self, spare: int, seconds: float) -> None:
        """Let the append-only file grow by `spare` bytes and no more."""
        async with self.redis_lock:
            self.redis.limit_file_size(spare)
            await asyncio.sleep(seconds)
            self.redis.limit_file_size(None)
            # Redis writes within a second what it holds back; a kill before that would lose it.
            await until(self._is_written, "Redis writes its file again", 20)

    async def _is_written(self) -> bool:
        async with connect(self.redis.url) as client:
            return bool((await client.info("persistence"))["aof_last_write_status"] == "ok")

    async def _roll(self, names: tuple[str, ...]) -> None:
        """Restart one process after the other, each when the one before runs again."""
        for name in names:
            with suppress(NothingChanged):
                await self._restart(name)
            await until(partial(self._handles_sighup, name), f"{name} runs", START)

    async def _reload(self, fault: Reload) -> None:
        """Change the configuration of ingestors and gateways again and again."""
        for number in range(fault.times):
            for file in ("config.yaml", "gateway.yaml"):
                self._exchange(self.directory / file, number, last=number == fault.times - 1)
            for name in SERVERS:
                if name not in self._down and self._handles_sighup(name):
                    self.process(name).send(signal.SIGHUP)
            await asyncio.sleep(fault.pause)

    def _exchange(self, path: Path, number: int, *, last: bool) -> None:
        original = path.with_suffix(".original")
        if not original.exists():
            shutil.copy(path, original)
        config = yaml.safe_load(original.read_text())
        config |= {
            "log_level": ("debug", "info")[number % 2],
            "filters": {f"storm-{number}": [f"domain:{number}.example"]},
            "connection_limit": {"enabled": number % 2 == 0, "per_ip_limit": 1000},
        }
        text = yaml.safe_dump(config) + ("port: none\n" if number % 3 == 2 and not last else "")
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)

    def _handles_sighup(self, name: str) -> bool:
        """Whether a process handles or blocks SIGHUP, which would end it just after its start."""
        try:
            status = Path(f"/proc/{self.process(name).pid}/status").read_text()
        except OSError:
            return False
        masks = dict(line.split(":\t", 1) for line in status.splitlines())  # proc(5)
        return bool((int(masks["SigCgt"], 16) | int(masks["SigBlk"], 16)) & 1)

    async def _limit_descriptors_for(self, fault: LimitDescriptors) -> None:
        """Let a process open only a few descriptors more. While it starts, it would end."""
        process = self.process(fault.process)
        await until(
            lambda: has_started(process.name, process.printed), f"{process.name} starts", START
        )
        pid, kind = process.pid, resource.RLIMIT_NOFILE
        try:
            before = resource.prlimit(pid, kind)
            used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
            resource.prlimit(pid, kind, (used + fault.spare, before[1]))
            await asyncio.sleep(fault.seconds)
            resource.prlimit(pid, kind, before)
        except (ProcessLookupError, FileNotFoundError) as error:
            raise NothingChanged(f"{fault.process} ended") from error

    async def _shift_host_for(self, fault: ShiftHost) -> None:
        """Set the clock of a process to the machine's plus an offset."""
        file = self.directory / f"{fault.process}.offset"
        for offset in (fault.offset, 0.0):
            new = file.with_suffix(".new")
            new.write_text(f"{offset:+f}\n")
            new.replace(file)
            if offset:
                await asyncio.sleep(fault.seconds)

    async def _fault_of_log(self, fault: LogFault) -> None:
        """Make a log slow, broken or untrue; simlog ends it by its own clock."""
        if isinstance(LOG_FAULTS[fault.fault], Malformed):
            return  # in the tree, by `Plan.malformed`, so that simlog started again repeats it
        kind = ONLY_OF.get(type(LOG_FAULTS[fault.fault]))
        names = [log.name for log in self._logs if kind in (None, log.kind)]
        if not names:
            raise NothingChanged(f"no {kind} log")
        name = names[fault.log % len(names)]
        wrong = msgspec.structs.replace(LOG_FAULTS[fault.fault], until=fault.seconds)
        body = msgspec.json.encode([wrong])
        await self.put(f"{self.logs_url}/control/{name}/faults", body)
        await asyncio.sleep(fault.seconds)

    async def _fail_over(self, fault: FailOver) -> None:
        assert self.watched is not None
        servers = {server.name for server in self.watched.servers.values()}
        self._down |= servers
        await self.watched.apply(fault)
        self._down -= servers

    async def _suspend(self, send: Callable[[signal.Signals], None], seconds: float) -> None:
        send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            send(signal.SIGCONT)
