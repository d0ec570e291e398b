"""The processes of one run, and what can be done to them.

    simlog <- ingestor-1, ingestor-2 -> proxy -> redis <- proxy <- gateway-1, gateway-2 <- clients

Redis listens on a unix socket; ingestors and gateways reach it through a proxy that can cut and
delay. Whatever ends without a fault is a defect: it is noted, and started again, as a supervisor
would.
"""

import asyncio
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import msgspec

from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from tests.adversity.clients import transcripts
from tests.adversity.faults import GATEWAYS, INGESTORS, REDIS, Plan
from tests.adversity.invariants import Trouble
from tests.certbus.proxy import Proxy
from tests.certbus.servers import FAKETIME, RedisServer, ShiftedRedisServer, executables
from tests.e2e.processes import CERTSTREAM_SERVER, Process, free_port
from tests.e2e.site import Site
from tests.paths import ROOT
from tests.retained import newest
from tests.waiting import until

LINES = "lines"
START = 180.0
"""Seconds in which everything must have started; a busy machine takes most of them."""

STOP = 30.0
MAX_RESTARTS = 20
LEAD = 20.0
"""Seconds that the logs and the ingestors may take to start; the logs grow from its half on."""

TAIL = 8.0
"""Seconds for which the logs still grow after the last fault."""

_CT_LOG = {
    "poll_interval_ms": 100,
    "default_operator_rate_limit_ms": 20,
    "request_timeout_secs": 5,
    "retry_initial_delay_ms": 100,
    "retry_max_delay_ms": 1000,
    "health_check_interval_secs": 2,
}
"""Like a real configuration, but with the waits of a run of a minute."""


_EXCEPTION = re.compile(r"^[ |+-]*((?:\w+\.)*\w*(?:Error|Exception): .{0,200})", re.MULTILINE)


class Cluster(Site):
    """Starts the processes of a plan in a directory, and injects the faults into them.

    Args:
        directory: for everything that they write.
        plan: which Redis, how fast the logs grow, what is retained.

    Attributes:
        troubles: what no fault explains.
        lines: how many histories of Redis have ended; they are in `lines/<number>`.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory)
        self.troubles: list[str] = []
        self.lines = 0
        self.directory = directory
        self.redis_lock = asyncio.Lock()  # one at a time may end, stop or replace Redis
        self._plan = plan
        self._stack = AsyncExitStack()
        (directory / REDIS).mkdir()
        executable = executables()[plan.server]
        settings: dict[str, str | int] = {
            "appendfsync": "no",
            "auto-aof-rewrite-percentage": 0,  # the file must keep everything (`lines.py`)
            "logfile": str(directory / "redis.log"),
        }
        kind = ShiftedRedisServer if FAKETIME.exists() else RedisServer
        self.redis: RedisServer = kind(executable, directory / REDIS, **settings)
        self.proxy = Proxy(self.redis.socket)
        self._down: set[str] = set()  # by a fault
        self._restarts = 0
        self._start_of_logs = 0.0
        self.clients: Process | None = None

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.redis.start)
        await self._stack.enter_async_context(self.proxy)
        self.redis_url = f"{self.proxy.url}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        self.redis.kill()
        await until(lambda: not self.proxy.connections, "the proxy has no connection left")
        await self._stack.aclose()

    async def start(self) -> None:
        """Start everything else; the logs last, so that each client gets their first entry."""
        plan = self._plan
        retention = {stream: {"max_bytes": plan.retained} for stream in STREAMS}
        await self._start_gateways(self.save("gateway.yaml", {"retention": retention}))
        arguments = [str(os.getpid()), str(self.directory), str(plan.seed), *self.gateways]
        self.clients = self._start(
            "clients",
            [sys.executable, "-m", "tests.adversity.clients", *arguments],
            {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        )
        await until(self._all_connected, "all clients are connected", START)
        self._start_of_logs = time.time() + LEAD / 2
        await self.start_logs(
            rfc6962=3,
            static_ct=2,
            operators=3,
            duplicates=0.3,
            rate=plan.rate,
            seed=plan.seed,
            total=round(plan.rate * (plan.seconds + LEAD + TAIL)),
            start=self._start_of_logs,
            parent_pid=os.getpid(),
        )
        await self.configure(retention=retention, ct_log=_CT_LOG)
        for _ in INGESTORS:
            self.start_ingestor()

    async def _start_gateways(self, config: Path) -> None:
        for name in GATEWAYS:
            port = free_port()
            listen = ["--host=127.0.0.1", f"--port={port}"]
            command = [*CERTSTREAM_SERVER, "gateway", *listen, *self._common(config)]
            self._start(name, command)
            self.gateways.append(f"127.0.0.1:{port}")
        for name, address in zip(GATEWAYS, self.gateways, strict=True):
            await self._answers(self.process(name), f"http://{address}/health")

    def _all_connected(self) -> bool:
        return all(transcript.is_connected() for transcript in transcripts(self.directory))

    def process(self, name: str) -> Process:
        """The process of that name."""
        return next(process for process in self.processes if process.name == name)

    # What faults do -----------------------------------------------------------------------------

    async def kill(self, names: tuple[str, ...], down: float) -> None:
        """SIGKILL, and start again after `down` seconds. What is down already is left alone."""
        victims = [self.process(name) for name in names if name not in self._down]
        self._down |= {victim.name for victim in victims}
        for victim in victims:
            victim.kill()
        await asyncio.sleep(down)
        for victim in victims:
            victim.restart()
            self._down.discard(victim.name)

    async def restart(self, name: str) -> None:
        """SIGTERM, and start again. A process must end after SIGTERM, with 0."""
        if name in self._down:
            return
        self._down.add(name)
        process = self.process(name)
        try:
            status = await asyncio.to_thread(process.stop, seconds=STOP)
            # SIGTERM may arrive before it has installed its signal handlers.
            if status not in (0, -signal.SIGTERM):
                self.troubles.append(f"{name} ended with {status}: {last_words(process.log)}")
        except AssertionError:
            self.troubles.append(f"{name} does not end within {STOP} s of SIGTERM")
        process.restart()
        self._down.discard(name)

    async def stop_for(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        if name == REDIS:
            async with self.redis_lock:
                await self._suspend(self.redis.send, seconds)
        elif name not in self._down:
            self._down.add(name)
            await self._suspend(self.process(name).send, seconds)
            self._down.discard(name)

    async def replace_redis(
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

    def end_line(self) -> None:
        """Put what Redis wrote aside, for the verdict."""
        lines = self.directory / LINES
        lines.mkdir(exist_ok=True)
        self.redis.data.rename(lines / str(self.lines))
        self.lines += 1

    async def copy_redis(self, copy: Path) -> bool:
        """Copy what Redis has written; False if there is nothing, as while it is replaced."""
        try:
            await asyncio.to_thread(shutil.copytree, self.redis.data, copy)
        except OSError:  # shutil.Error is one
            shutil.rmtree(copy, ignore_errors=True)
            return False
        return True

    async def refuse_for(self, seconds: float) -> None:
        """Accept no connection to Redis."""
        self.proxy.refused = True
        await asyncio.sleep(seconds)
        self.proxy.refused = False

    async def delay_for(self, seconds: float, delay: float) -> None:
        """Let every reply be late."""
        self.proxy.delay = delay
        await asyncio.sleep(seconds)
        self.proxy.delay = 0

    async def empty_redis(self, down: float, *, ingestors: bool) -> None:
        """Let Redis come back with nothing, perhaps while no ingestor runs."""
        async with asyncio.TaskGroup() as group:
            if ingestors:
                group.create_task(self.kill(INGESTORS, down + 1))
            group.create_task(self.replace_redis(down, lose=True))

    async def shift_clock_for(self, offset: float, seconds: float | None) -> None:
        """Set the clock of Redis to the machine's plus `offset` seconds; None: for good."""
        assert isinstance(self.redis, ShiftedRedisServer)
        self.redis.shift(offset)
        if seconds is not None:
            await asyncio.sleep(seconds)
            self.redis.shift(0)

    async def fill_for(self, share: float, seconds: float) -> None:
        """Give Redis no more than a share of the memory that it uses."""
        async with self.redis_lock, connect(self.redis.url) as client:
            used = int((await client.info("memory"))["used_memory"])
            await client.config_set("maxmemory", max(round(used * share), 1))
            await asyncio.sleep(seconds)
            await client.config_set("maxmemory", 0)

    # What is read -------------------------------------------------------------------------------

    async def sizes(self) -> tuple[dict[str, int], bool]:
        """The entries of each log, and whether there will be no more."""
        world = msgspec.json.decode(await self.get(f"{self.logs_url}/world.json"))
        return {log["name"]: log["size"] for log in world["logs"]}, world["complete"]

    async def newest_ids(self) -> dict[str, str]:
        """Id of the newest message that each stream holds; empty if it holds none."""
        keys, ids = Keys(), {}
        async with connect(self.redis.url) as client, asyncio.timeout(5):
            for stream in STREAMS:
                batch = await newest(client, keys, stream)
                ids[stream] = f"{batch.id}-{len(batch.messages) - 1}" if batch else ""
        return ids

    async def end(self) -> None:
        """End everything, and put the line of Redis that is still written with the others."""
        for process in reversed(self.processes):
            process.kill()
        self.redis.kill()
        self.end_line()

    def exceptions(self) -> list[Trouble]:
        """Tracebacks that the server's processes wrote."""
        troubles = []
        for name in (*INGESTORS, *GATEWAYS):
            text = self.process(name).log.read_text(errors="replace")
            found = _EXCEPTION.findall(text)
            if found:
                troubles.append(Trouble(name, "tracebacks", tuple(found)))
        return troubles

    # What is watched -----------------------------------------------------------------------------

    async def watch(self) -> None:
        """Restart processes that ended, and check the accounts, until cancelled."""
        while True:
            for process in self.processes:
                if not process.running and process.name not in self._down:
                    self._ended(process)
            await self._look_at_accounts()
            await asyncio.sleep(0.3)

    def _ended(self, process: Process) -> None:
        self.troubles.append(f"{process.name} ended unexpectedly: {last_words(process.log)}")
        self._restarts += 1
        assert process is not self.clients, str(process)
        assert self._restarts <= MAX_RESTARTS, f"{MAX_RESTARTS} processes ended by themselves"
        process.restart()

    async def _look_at_accounts(self) -> None:
        if self.redis_lock.locked():
            return
        try:
            async with asyncio.timeout(1), connect(self.redis.url) as client:
                logs = (await snapshot(client, Keys())).logs
        except Exception:  # noqa: BLE001 - any error of Redis counts
            return
        for log in logs:
            done = log.published + log.duplicates + log.rejected + log.skipped
            if log.start is not None and log.next is not None and done != log.next - log.start:
                self.troubles.append(
                    f"{log.name}: {done} of {log.next - log.start} entries accounted: {log}"
                )

    def _common(self, config: Path | None = None) -> list[str]:
        return [*super()._common(config), f"--parent-pid={os.getpid()}"]

    async def _suspend(self, send: Callable[[signal.Signals], None], seconds: float) -> None:
        send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            send(signal.SIGCONT)


def last_words(path: Path) -> str:
    """The last exception in a log, else its last line."""
    text = path.read_text(errors="replace").strip()
    exceptions = _EXCEPTION.findall(text[-20_000:])
    return str(exceptions[-1]) if exceptions else text.rpartition("\n")[2][:300]
