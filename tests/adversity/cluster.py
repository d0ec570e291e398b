"""The processes of one run, and what can be done to them.

    simlog <- ingestor-1, ingestor-2 -> proxy -> redis <- proxy <- gateway-1, gateway-2 <- clients

Redis listens on a unix socket; ingestors and gateways reach it through a proxy that can cut and
delay. Where the plan has sentinels, a primary with two replicas is in the place of both. Whatever
ends without a fault is a defect: it is noted, and started again, as a supervisor would.
"""

import asyncio
import os
import re
import shutil
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import psutil

from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from simlog.field.operators import field_spec
from simlog.spec import LogSpec, spread
from tests.adversity.clients import transcripts
from tests.adversity.faults import (
    GATEWAYS,
    INGESTORS,
    LOGS,
    REDIS,
    SERVERS,
    FailOver,
    ShiftHost,
    Stop,
)
from tests.adversity.invariants import Trouble
from tests.adversity.plan import Plan
from tests.adversity.watched import RecordedRedis
from tests.certbus.proxy import Proxy
from tests.certbus.servers import FAKETIME, RedisServer, ShiftedRedisServer, executables
from tests.e2e.processes import CERTSTREAM_SERVER, Process, free_port
from tests.e2e.site import Site
from tests.paths import ROOT
from tests.retained import newest
from tests.waiting import until

LINES = "lines"
FAR_BEHIND = 17_000
"""Certificates that two logs hold at the start of a run with a bounded delay: more than the least
limit, 10,000 entries, in each of them."""

_BOUND = {"max_catchup_lag_entries": 10_000, "start_overlap_leaves": 50}
START = 180.0
"""Seconds in which everything must have started; a busy machine takes most of them."""

INVALID = "port: 'none'"
"""In the last words of a process that started while a fault had made its configuration invalid."""

STOP = 30.0
MAX_RESTARTS = 20
LEAD = 20.0
"""Seconds that the logs and the ingestors may take to start; the logs grow from its half on."""

LONG_LEAD = 40.0
"""The same for logs with a profile and logs that are far behind."""

TAIL = 8.0
"""Seconds for which the logs still grow after the last fault, by the plan."""

INTERVAL_MS = 40
"""Between two requests to one operator: so long that some wait."""

BUSY_SECS = 5.0
"""By so much a busy machine, or a Redis that lost its slots, may delay or repeat requests."""

_CT_LOG = {
    "poll_interval_ms": 100,
    "default_operator_rate_limit_ms": INTERVAL_MS,
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
        watched: Redis behind sentinels, if the plan has them.
        peaks: the most MiB that each ingestor and each gateway took.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        super().__init__(directory)
        self.troubles: list[str] = []
        self.peaks = dict.fromkeys(SERVERS, 0.0)
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
        self.watched = RecordedRedis(self, directory, executable) if plan.has_sentinels else None
        self._down: set[str] = set()  # by a fault
        self._restarts = 0
        self._start_of_logs = 0.0
        self.clients: Process | None = None
        self._shifted = {f.process for f in plan.faults if isinstance(f, ShiftHost)}
        self._logs: tuple[LogSpec, ...] = ()
        self._lead = LONG_LEAD if plan.operators or plan.is_bounded else LEAD

    async def __aenter__(self) -> Self:
        if self.watched is not None:
            await self._stack.enter_async_context(self.watched.network)
            return self
        await asyncio.to_thread(self.redis.start)
        await self._stack.enter_async_context(self.proxy)
        self.redis_url = f"{self.proxy.url}/0"
        self.redis_admin_url = self.redis.url
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
        self.redis.kill()
        await until(lambda: not self.proxy.connections, "the proxy has no connection left")
        await self._stack.aclose()

    async def start(self) -> None:
        """Start everything else; the logs last, so that each client gets their first entry."""
        plan = self._plan
        common: dict[str, Any] = {
            "retention": {stream: {"max_bytes": plan.retained} for stream in STREAMS},
            "connection_limit": {"enabled": True, "per_ip_limit": 200},
        }
        if self.watched is not None:
            await self.watched.start()
            self.redis_url, self.redis_admin_url = self.watched.url, self.watched.admin_url
            common |= self.watched.settings
        await self._start_gateways(self.save("gateway.yaml", common))
        arguments = [str(os.getpid()), str(self.directory), str(plan.seed), *self.gateways]
        self.clients = self._start(
            "clients",
            [sys.executable, "-m", "tests.adversity.clients", *arguments],
            {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])},
        )
        await until(self._all_connected, "all clients are connected", START)
        self._start_of_logs = time.time() + self._lead / 2
        await self.start_logs(
            **self._world(),
            seed=plan.seed,
            start=self._start_of_logs,
            parent_pid=os.getpid(),
        )
        ct_log = {**_CT_LOG, **(_BOUND if plan.is_bounded else {})}
        await self.configure(**common, ct_log=ct_log)
        for name in INGESTORS:
            self.start_ingestor(environment=self._clock_of(name))

    def _world(self) -> dict[str, object]:
        """The options of the simulated logs, whose specifications it keeps."""
        plan = self._plan
        seconds = plan.end + self._lead + TAIL
        options: dict[str, object]
        if plan.operators:
            rate = 2 * plan.rate  # in entries
            spec = field_spec(0, plan.seed, rate=rate, operators=plan.operators)
            logs, total = spec.logs, round(spec.rate * seconds)
            options = {"field": True, "operator": list(plan.operators), "rate": rate}
        else:
            preload = FAR_BEHIND if plan.is_bounded else 0
            rfc6962, static_ct, operators = (1, 1, 2) if plan.is_bounded else (3, 2, 3)
            logs, total = spread(rfc6962, static_ct, operators), round(plan.rate * seconds)
            counts = {"rfc6962": rfc6962, "static_ct": static_ct, "operators": operators}
            options = {"duplicates": 0.3, "rate": plan.rate, "preload": preload, **counts}
            total += preload
        self._logs = logs
        return {**options, "total": total, "fault": plan.malformed([log.name for log in logs])}

    def _clock_of(self, name: str) -> dict[str, str]:
        """The environment of a process whose clock a fault of the plan sets."""
        if name not in self._shifted:
            return {}
        file = self.directory / f"{name}.offset"
        file.write_text("+0\n")
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    async def _start_gateways(self, config: Path) -> None:
        for name in GATEWAYS:
            port = free_port()
            listen = ["--host=127.0.0.1", f"--port={port}"]
            command = [*CERTSTREAM_SERVER, "gateway", *listen, *self._common(config)]
            self._start(name, command, self._clock_of(name))
            self.gateways.append(f"127.0.0.1:{port}")
        for name, address in zip(GATEWAYS, self.gateways, strict=True):
            await self._answers(self.process(name), f"http://{address}/health")

    def _all_connected(self) -> bool:
        return all(transcript.is_connected() for transcript in transcripts(self.directory))

    def process(self, name: str) -> Process:
        """The process of that name."""
        return next(process for process in self.processes if process.name == name)

    # What is read -------------------------------------------------------------------------------

    async def sizes(self) -> tuple[dict[str, int], bool]:
        """The entries of each log, and whether there will be no more; simlog may be starting."""
        await until(self._shows_world, "simlog answers", START)
        world = msgspec.json.decode(await self.get(f"{self.logs_url}/world.json"))
        return {log["name"]: log["size"] for log in world["logs"]}, world["complete"]

    async def _shows_world(self) -> bool:
        try:
            await self.get(f"{self.logs_url}/world.json")
        except httpx.TransportError:
            return False
        return True

    async def newest_ids(self) -> dict[str, str]:
        """Id of the newest message that each stream holds; empty if it holds none."""
        keys, ids = Keys(), {}
        async with connect(self.redis_admin_url) as client, asyncio.timeout(5):
            for stream in STREAMS:
                batch = await newest(client, keys, stream)
                ids[stream] = f"{batch.id}-{len(batch.messages) - 1}" if batch else ""
        return ids

    async def connections(self) -> tuple[int, int]:
        """How many connections of clients Redis counts, and how many the gateways have."""
        async with connect(self.redis_admin_url) as client, asyncio.timeout(5):
            counted: Any = await client.hget(Keys().connections, "*")
        held = 0
        for name, address in zip(GATEWAYS, self.gateways, strict=True):
            port = int(address.rpartition(":")[2])
            found = psutil.Process(self.process(name).pid).net_connections("tcp")
            held += sum(
                each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found
            )
        return int(counted or 0), held

    def late_secs(self) -> float:
        """By how much requests to the logs may be later than they are due."""
        stopped = sum(
            fault.seconds
            for fault in self._plan.faults
            if isinstance(fault, FailOver) or (isinstance(fault, Stop) and fault.process == LOGS)
        )
        return BUSY_SECS + stopped

    def end_line(self) -> None:
        """Put what Redis wrote aside, for the verdict."""
        lines = self.directory / LINES
        lines.mkdir(exist_ok=True)
        self.redis.data.rename(lines / str(self.lines))
        self.lines += 1

    async def end(self) -> None:
        """End everything, and put the line of Redis that is still written with the others."""
        watched = await self.watched.lines() if self.watched is not None else ()
        for process in reversed(self.processes):
            process.kill()
        if self.watched is None:
            self.redis.kill()
            self.end_line()
        for number, line in enumerate(watched):
            shutil.copytree(line, self.directory / LINES / str(number))

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
            self._look_at_memory()
            await self._look_at_accounts()
            await asyncio.sleep(0.3)

    def _ended(self, process: Process) -> None:
        if not ends_rightly(process.name, process.printed):
            words = last_words(process.printed)
            self.troubles.append(f"{process.name} ended unexpectedly: {words}")
        self._restarts += 1
        assert process is not self.clients, str(process)
        assert self._restarts <= MAX_RESTARTS, f"{MAX_RESTARTS} processes ended by themselves"
        process.restart()

    def _look_at_memory(self) -> None:
        for name in SERVERS:
            with suppress(psutil.NoSuchProcess):
                taken = psutil.Process(self.process(name).pid).memory_info().rss / 2**20
                self.peaks[name] = max(self.peaks[name], taken)

    async def _look_at_accounts(self) -> None:
        if self.redis_lock.locked():
            return
        try:
            async with asyncio.timeout(1), connect(self.redis_admin_url) as client:
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


def has_started(name: str, printed: str) -> bool:
    """Whether a process has opened everything that it needs later, but for connections.

    Args:
        name: of the process.
        printed: by it since its start.
    """
    return ("logs selected" if name in INGESTORS else "gateway started") in printed


def ends_rightly(name: str, printed: str) -> bool:
    """Whether a process may end: it starts with an invalid configuration.

    One that runs refuses the configuration and continues.
    """
    return name in SERVERS and INVALID in last_words(printed) and not has_started(name, printed)


def last_words(printed: str) -> str:
    """The last exception in what a process printed, else its last line."""
    text = printed.strip()
    exceptions = _EXCEPTION.findall(text[-20_000:])
    return str(exceptions[-1]) if exceptions else text.rpartition("\n")[2][:300]
