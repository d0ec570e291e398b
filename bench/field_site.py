"""The field world, Redis and ingestors, each a process of its own; and the state of all logs.

simlog is the outside world: no request to a real log waits for the CPU of this machine. So its
process has a higher priority than those of the server, where the system permits that.
"""

import asyncio
import contextlib
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx
import msgspec
import psutil
from redis.asyncio import Redis

from bench.processes import answer, cpu, free_port, redis_cpu, running
from certbus.cluster import LogStatus, snapshot
from certbus.connection import connect
from certbus.keys import Keys
from certbus.streams.codec import Codec
from launcher.runtime.embedded_redis import EmbeddedRedis
from simlog.api.request_stats import LoadReport, RequestCounts
from simlog.field.heads import ShownHead
from simlog.field.operators import LOGS
from simlog.profile import Profile

KEYS = Keys()
GRACE_SECS = 15.0
"""Seconds for which a tree head has been shown before its entries count as owed."""

MEASURED_SECS = 60.0
"""Seconds at the end of a run over which the backlog is averaged."""

PRIORITY = -10
MAX_CPU = 0.85
MAX_LATE_MS = 100.0
CONTACT = "https://example.com/monitor"
OPERATORS = {name: operator for name, operator, *_ in LOGS}
PROFILES: dict[str, Profile] = {name: profile for name, _, _, _, profile in LOGS}

Heads = Mapping[str, Sequence[ShownHead]]

_HEADS = msgspec.json.Decoder(dict[str, list[ShownHead]])


class _Source(msgspec.Struct):
    name: str


class _Data(msgspec.Struct):
    cert_index: int
    source: _Source


class _Lite(msgspec.Struct):
    data: _Data


_LITE = msgspec.json.Decoder(_Lite)


class Published(msgspec.Struct, frozen=True, gc=False):
    """A message in Redis.

    Attributes:
        at: of its entry id, seconds since the epoch.
        log: its name.
        index: of the entry in the log.
    """

    at: float
    log: str
    index: int


class Backlog(msgspec.Struct, frozen=True):
    """The state of all logs at one time.

    Attributes:
        at: seconds since the epoch.
        owed: entries that old enough heads cover, by log.
        next: entries that Redis accounts for, by log.
    """

    at: float
    owed: dict[str, int]
    next: dict[str, int]


class Usage(msgspec.Struct, frozen=True):
    """CPU time of the processes so far, in seconds.

    Attributes:
        at: seconds of the monotonic clock.
        ingestors: of each.
        redis: of Redis.
        simlog: of the world, with its lateness since it began.
    """

    at: float
    ingestors: list[float]
    redis: float
    simlog: LoadReport


class FieldSite:
    """A running world, its Redis and its ingestors.

    Attributes:
        http: a client of the world.
        redis: a client of the server's Redis.
        ingestors: the processes that run, in the order of their start.
        zero: the world's time zero, seconds since the epoch.
        seed: of the world.
    """

    def __init__(
        self,
        stack: AsyncExitStack,
        home: Path,
        http: httpx.AsyncClient,
        redis: Redis,
        zero: float,
        seed: int,
        command: Sequence[str],
    ) -> None:
        self.http = http
        self.redis = redis
        self.ingestors: list[psutil.Process] = []
        self.zero = zero
        self.seed = seed
        self._started = 0
        self._stack = stack
        self._home = home
        self._command = command
        self._codec = Codec()
        self._after = "-"

    async def start_ingestor(self) -> psutil.Process:
        """Start one more ingestor."""
        output = self._home / f"ingestor{self._started}.log"
        ingestor = await self._stack.enter_async_context(running(self._command, output))
        self._started += 1
        self.ingestors.append(ingestor)
        return ingestor

    def kill(self, ingestor: psutil.Process) -> None:
        """End an ingestor with SIGKILL."""
        ingestor.kill()
        self.ingestors.remove(ingestor)

    async def stop_ingestors(self) -> None:
        """End all ingestors in order, and wait for their end."""
        ended, self.ingestors = self.ingestors, []
        for ingestor in ended:
            ingestor.terminate()
        while any(psutil.pid_exists(ingestor.pid) for ingestor in ended):
            await asyncio.sleep(0.1)

    async def forget(self) -> None:
        """Empty Redis, without an ingestor."""
        await self.redis.flushall()
        self._after = "-"

    def warnings(self) -> list[str]:
        """Return what the ingestors have logged."""
        logs = (self._home / f"ingestor{number}.log" for number in range(self._started))
        return [line for log in logs for line in log.read_text().splitlines()]

    async def logs(self) -> dict[str, LogStatus]:
        """Return the logs by name, as Redis knows them."""
        return {log.name: log for log in (await snapshot(self.redis, KEYS)).logs}

    async def until_followed(self, count: int, deadline: float) -> None:
        """Wait until `count` logs have an owner, or until a time (seconds since the epoch)."""
        while time.time() < deadline:
            if sum(log.owner is not None for log in (await self.logs()).values()) >= count:
                return
            await asyncio.sleep(0.2)

    async def heads(self) -> dict[str, list[ShownHead]]:
        """Return the tree heads that each log has shown."""
        return _HEADS.decode((await self.http.get("/heads")).content)

    async def traffic(self) -> RequestCounts:
        """Return the requests so far."""
        return msgspec.json.decode((await self.http.get("/requests")).content, type=RequestCounts)

    async def usage(self) -> Usage:
        """Return the CPU time of all processes."""
        used = [cpu(ingestor) for ingestor in self.ingestors]
        load = msgspec.json.decode((await self.http.get("/load")).content, type=LoadReport)
        return Usage(time.monotonic(), used, await redis_cpu(self.redis), load)

    async def backlog(self) -> Backlog:
        """Return the state of all logs now."""
        now = time.time()
        owed = {
            name: max(
                (head.size for head in shown if head.at <= 1000 * (now - GRACE_SECS)), default=0
            )
            for name, shown in (await self.heads()).items()
        }
        return Backlog(
            now, owed, {name: log.next or 0 for name, log in (await self.logs()).items()}
        )

    async def watch(self, end: float) -> list[Backlog]:
        """Read the state of all logs once a second until a time (seconds since the epoch)."""
        seen = []
        while (now := time.time()) < end:
            seen.append(await self.backlog())
            await asyncio.sleep(max(0.0, now + 1 - time.time()))
        return seen

    async def published(self) -> list[Published]:
        """Return the messages that were published since the last call."""
        found = []
        stream = KEYS.stream("lite")
        while entries := await self._batches(stream):
            for entry_id, fields in entries:
                at = int(entry_id.split(b"-")[0]) / 1000
                for message in self._codec.unpack(fields[b"codec"].decode(), fields[b"m"]):
                    data = _LITE.decode(message).data
                    found.append(Published(at, data.source.name, data.cert_index))
            self._after = f"({entries[-1][0].decode()}"
        return found

    async def _batches(self, stream: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        found: Any = await self.redis.xrange(stream, self._after, "+", count=200)
        return list(found)


@asynccontextmanager
async def field_site(
    seed: int,
    *,
    lead: float,
    operators: Collection[str] = (),
    preload: int = 500,
    contact: str | None = CONTACT,
    settings: Sequence[str] = (),
) -> AsyncIterator[FieldSite]:
    """Start a world and Redis, and no ingestor yet.

    Args:
        seed: of the world.
        lead: seconds from now to the world's time zero.
        operators: whose logs; empty: all.
        preload: certificates that the logs hold at time zero.
        contact: the setting.
        settings: others, each `name=value`.
    """
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = await stack.enter_async_context(EmbeddedRedis(home / "redis"))
        redis = connect(server.url)
        stack.push_async_callback(redis.aclose)
        zero = time.time() + lead
        world = f"http://127.0.0.1:{(port := free_port())}"
        simlog = ["-m", "launcher", "simlog", "--field", f"--port={port}", f"--seed={seed}"]
        simlog += [f"--start={zero}", f"--preload={preload}"]
        simlog += [f"--operator={name}" for name in operators]
        outside = await stack.enter_async_context(running(simlog, home / "simlog.log"))
        with contextlib.suppress(psutil.AccessDenied):
            outside.nice(PRIORITY)
        key = home / "log_list.pem"
        key.write_bytes(await answer(f"{world}/log_list_pubkey.pem"))
        lists = {"url": f"{world}/log_list.json", "signature_url": f"{world}/log_list.sig"}
        config = home / "config.json"
        contacts = {} if contact is None else {"contact": contact}
        config.write_text(json.dumps({"log_lists": [{**lists, "key": str(key)}], **contacts}))
        command = ["-m", "launcher", "ingest", f"--config={config}", f"--redis-url={server.url}"]
        command += ["--log-level=warn", *(f"--set={setting}" for setting in settings)]
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=world, trust_env=False, timeout=60)
        )
        yield FieldSite(stack, home, http, redis, zero, seed, command)


def is_valid(load: LoadReport, earlier: LoadReport) -> bool:
    """Whether the world, and not the server, had enough CPU since an earlier report."""
    return share_of_core(load, earlier) <= MAX_CPU and load.late_p99_ms <= MAX_LATE_MS


def share_of_core(load: LoadReport, earlier: LoadReport) -> float:
    """The CPU time that the world used, as a share of one core."""
    used = load.cpu_seconds - earlier.cpu_seconds
    return used / (load.wall_seconds - earlier.wall_seconds)


def shares(seen: Sequence[Backlog], logs: Mapping[str, LogStatus]) -> dict[str, float]:
    """Entries that are owed and not read, as a share of all that are owed since the start.

    Args:
        seen: the state of all logs, once a second; its last `MEASURED_SECS` count.
        logs: their start.

    Returns:
        By operator, and over `all`.
    """
    last = [each for each in seen if each.at >= seen[-1].at - MEASURED_SECS]
    groups: dict[str, list[str]] = defaultdict(list)
    for name in last[0].owed:
        groups[OPERATORS[name]].append(name)
        groups["all"].append(name)
    found = {}
    for group, names in groups.items():
        ratios = []
        for each in last:
            owed = behind = 0
            for name in names:
                start = logs[name].start or 0 if name in logs else 0
                owed += max(0, each.owed[name] - start)
                behind += max(0, each.owed[name] - max(start, each.next.get(name, 0)))
            ratios.append(behind / owed if owed else 0.0)
        found[group] = fmean(ratios)
    return found


def delays(published: Sequence[Published], heads: Heads) -> dict[str, list[float]]:
    """Seconds from the first head that covers an entry to its entry id, for each entry, by log.

    Entries that the first head of the world covers are left out.
    """
    found: dict[str, list[float]] = defaultdict(list)
    sizes = {name: [head.size for head in shown] for name, shown in heads.items()}
    covering = dict.fromkeys(sizes, 0)
    for each in published:  # of one log in the order of their indexes, mostly
        shown = sizes[each.log]
        at = covering[each.log]
        if at and shown[at - 1] > each.index:
            at = 0
        while at < len(shown) and shown[at] <= each.index:
            at += 1
        covering[each.log] = at
        if 0 < at < len(shown):
            found[each.log].append(each.at - heads[each.log][at].at / 1000)
    return found


def median_delay(of_logs: Mapping[str, Sequence[float]], names: Collection[str]) -> float | None:
    """The median over all entries of some logs, in seconds; None without entries."""
    found = [delay for name in names for delay in of_logs.get(name, ())]
    return median(found) if found else None
