"""The backlog of the server on logs that answer as the public ones do.

    python -m bench.field [--seconds 150] [--seed 1] [--ingestors 2] [--json FILE] [--write]

`simlog --field` serves the world, Redis and the ingestors are the product's own processes with
default settings and a contact. Every second the bench compares what the tree heads cover that
simlog has shown for at least `GRACE_SECS` with the position of each log in Redis.

The run fails when simlog itself was the limit: it used more than `MAX_CPU` of a core, or the p99
of its answers came more than `MAX_LATE_MS` later than planned.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx
import msgspec
from redis.asyncio import Redis

from bench import page
from bench.page import table
from bench.processes import answer, cpu, free_port, redis_cpu, running
from certbus.cluster import LogStatus, snapshot
from certbus.connection import connect
from certbus.keys import Keys
from launcher.runtime.embedded_redis import EmbeddedRedis
from simlog.api.request_stats import LoadReport, RequestCounts
from simlog.field.heads import ShownHead
from simlog.field.operators import LOGS
from simlog.profile import Budget, Profile

KEYS = Keys()
GRACE_SECS = 15.0
"""Seconds for which a tree head has been shown before its entries count as owed."""

MEASURED_SECS = 60.0
"""Seconds at the end of a run over which the backlog is averaged."""

LEAD_SECS = 12.0
"""Seconds before the world's time zero, for the ingestors to begin."""

MAX_CPU = 0.85
MAX_LATE_MS = 100.0
OPERATORS = {name: operator for name, operator, *_ in LOGS}
PROFILES: dict[str, Profile] = {name: profile for name, _, _, _, profile in LOGS}
HEADS = msgspec.json.Decoder(dict[str, list[ShownHead]])


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


async def measure(
    seconds: float, seed: int, ingestors: int, settings: Sequence[str]
) -> dict[str, Any]:
    """Run the world once."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = await stack.enter_async_context(EmbeddedRedis(home / "redis"))
        redis = connect(server.url)
        stack.push_async_callback(redis.aclose)
        port, zero = free_port(), time.time() + LEAD_SECS
        world = f"http://127.0.0.1:{port}"
        simlog = [
            "-m",
            "launcher",
            "simlog",
            "--field",
            f"--port={port}",
            f"--seed={seed}",
            f"--start={zero}",
        ]
        await stack.enter_async_context(running([*simlog, "--preload=500"], home / "simlog.log"))
        key = home / "log_list.pem"
        key.write_bytes(await answer(f"{world}/log_list_pubkey.pem"))
        config = home / "config.json"
        config.write_text(json.dumps(configuration(world, key)))
        common = [f"--config={config}", f"--redis-url={server.url}", "--log-level=warn"]
        given = [f"--set={setting}" for setting in settings]
        workers = [
            await stack.enter_async_context(
                running(
                    ["-m", "launcher", "ingest", *common, *given], home / f"ingestor{number}.log"
                )
            )
            for number in range(ingestors)
        ]
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=world, trust_env=False, timeout=30)
        )
        await until_followed(redis, len(OPERATORS), zero - 1)
        load_before = await load(http)
        before = [cpu(worker) for worker in workers], await redis_cpu(redis)
        seen = await watch(http, redis, zero + seconds)
        after = [cpu(worker) for worker in workers], await redis_cpu(redis)
        load_after = await load(http)
        logs = {log.name: log for log in (await snapshot(redis, KEYS)).logs}
        heads = HEADS.decode((await http.get("/heads")).content)
        traffic = msgspec.json.decode((await http.get("/requests")).content, type=RequestCounts)
        delays = await publication_delays(redis, heads)
        worker_log = b"".join((home / f"ingestor{n}.log").read_bytes() for n in range(ingestors))
    wall = load_after.wall_seconds - load_before.wall_seconds
    share_of_core = (load_after.cpu_seconds - load_before.cpu_seconds) / wall
    return {
        "seconds": seconds,
        "seed": seed,
        "simlog": {"cpu": share_of_core, "late_p99_ms": load_after.late_p99_ms},
        "valid": share_of_core <= MAX_CPU and load_after.late_p99_ms <= MAX_LATE_MS,
        "ingestor_cpu": [
            (late - early) / seconds for early, late in zip(before[0], after[0], strict=True)
        ],
        "redis_cpu": (after[1] - before[1]) / seconds,
        "behind": shares(seen, logs, seconds),
        "operators": operators(logs, heads, traffic, delays),
        "logs": {
            name: {
                "read": (log.next or 0) - (log.start or 0),
                "missing": heads[name][-1].size - (log.next or 0),
                "requests": traffic.logs[name].total,
                "pages": traffic.logs[name].answers,
                "refused": traffic.logs[name].statuses.get(429, 0),
                "errors": log.errors,
                "last_error": log.last_error,
            }
            for name, log in logs.items()
            if name in heads
        },
        "warnings": len(worker_log.splitlines()),
    }


def configuration(world: str, key: Path) -> dict[str, Any]:
    """Default settings, but for where the logs are found; and a contact."""
    lists = {"url": f"{world}/log_list.json", "signature_url": f"{world}/log_list.sig"}
    return {"log_lists": [{**lists, "key": str(key)}], "contact": "https://example.com/monitor"}


async def until_followed(redis: Redis, count: int, deadline: float) -> None:
    """Wait until the ingestors have begun every log, or until the world begins to grow."""
    while time.time() < deadline:
        logs = (await snapshot(redis, KEYS)).logs
        if sum(log.owner is not None for log in logs) >= count:
            return
        await asyncio.sleep(0.2)


async def load(http: httpx.AsyncClient) -> LoadReport:
    return msgspec.json.decode((await http.get("/load")).content, type=LoadReport)


async def watch(http: httpx.AsyncClient, redis: Redis, end: float) -> list[Backlog]:
    """Read the state of all logs once a second until `end`."""
    seen = []
    while (now := time.time()) < end:
        heads = HEADS.decode((await http.get("/heads")).content)
        owed = {
            name: max(
                (head.size for head in shown if head.at <= 1000 * (now - GRACE_SECS)), default=0
            )
            for name, shown in heads.items()
        }
        logs = (await snapshot(redis, KEYS)).logs
        seen.append(Backlog(now, owed, {log.name: log.next or 0 for log in logs}))
        await asyncio.sleep(max(0.0, now + 1 - time.time()))
    return seen


def shares(
    seen: Sequence[Backlog], logs: Mapping[str, LogStatus], seconds: float
) -> dict[str, float]:
    """Entries that are owed and not read, as a share of all that are owed since the start."""
    last = [each for each in seen if each.at >= seen[-1].at - min(MEASURED_SECS, seconds)]
    groups: dict[str, list[str]] = defaultdict(list)
    for name, operator in OPERATORS.items():
        groups[operator].append(name)
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


async def publication_delays(
    redis: Redis, heads: Mapping[str, Sequence[ShownHead]]
) -> dict[str, list[float]]:
    """Seconds from the first head that covers a batch's last entry to its id, by operator."""
    sizes = {name: [head.size for head in shown] for name, shown in heads.items()}
    found: dict[str, list[float]] = defaultdict(list)
    names = {log.log_id: log.name for log in (await snapshot(redis, KEYS)).logs}
    after = "-"
    while entries := await _batches(redis, after):
        for entry_id, fields in entries:
            name = names.get(fields[b"log"].decode())
            if name is None:
                continue
            last = int(fields[b"last"])
            at = bisect_right(sizes[name], last)
            if at and at < len(sizes[name]):
                shown = heads[name][at].at
                found[OPERATORS[name]].append((int(entry_id.split(b"-")[0]) - shown) / 1000)
        after = f"({entries[-1][0].decode()}"
    return found


async def _batches(redis: Redis, after: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = await redis.xrange(KEYS.stream("domains"), after, "+", count=500)
    return list(found)


def operators(
    logs: Mapping[str, LogStatus],
    heads: Mapping[str, Sequence[ShownHead]],
    traffic: RequestCounts,
    delays: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, Any]]:
    """The figures of each operator's logs."""
    found = {}
    for operator, counted in traffic.operators.items():
        names = [name for name, its in OPERATORS.items() if its == operator]
        own = [logs[name] for name in names if name in logs]
        found[operator] = {
            "logs": len(names),
            "appeared": sum(heads[name][-1].size - heads[name][0].size for name in names),
            "read": sum((log.next or 0) - (log.start or 0) for log in own),
            "requests": counted.total,
            "refused": counted.statuses.get(429, 0),
            "page": counted.entries / counted.answers if counted.answers else 0.0,
            "delay": median(delays[operator]) if delays.get(operator) else None,
            "allowed": None if _counts_requests(names) else 1.5 + _answers(names),
            "unavoidable": unavoidable(names, heads),
        }
    return found


def _counts_requests(names: Sequence[str]) -> bool:
    return any(isinstance(limit, Budget) for name in names for limit in PROFILES[name].limits)


def _answers(names: Sequence[str]) -> float:
    """The longest median answer of a head and one of entries, of these logs, in seconds."""
    return max(PROFILES[name].head.median + PROFILES[name].entries.median for name in names)


def unavoidable(names: Sequence[str], heads: Mapping[str, Sequence[ShownHead]]) -> float:
    """The share of an operator's entries that its budget does not let anyone read in time.

    The best client sends one request for each page and for each log's newest head, and needs no
    pause while these are within the budget.
    """
    budgets = [
        (limit, name)
        for name in names
        for limit in PROFILES[name].limits
        if isinstance(limit, Budget)
    ]
    if not budgets:
        return 0.0
    limit = budgets[0][0]
    appeared = {name: heads[name][-1].size - heads[name][0].size for _, name in budgets}
    needed = sum(1 + -(-appeared[name] // PROFILES[name].page) for name in appeared)
    return max(0.0, 1 - limit.requests / needed) if needed else 0.0


def field_table(result: Mapping[str, Any]) -> str:
    """Write the result as a table for docs/performance.md."""
    head = [
        "operator",
        "logs",
        "appeared",
        "read",
        "requests",
        "429",
        "mean page",
        "behind",
        "unavoidable",
        "delay p50",
        "allowed",
    ]
    rows = [
        [
            name,
            f"{row['logs']}",
            f"{row['appeared']:,}",
            f"{row['read']:,}",
            f"{row['requests']:,}",
            f"{row['refused'] / max(1, row['requests']):.1%}",
            f"{row['page']:.0f}",
            f"{result['behind'][name]:.1%}",
            f"{row['unavoidable']:.1%}" if row["unavoidable"] else "",
            "" if row["delay"] is None else f"{row['delay']:.2f} s",
            "" if row["allowed"] is None else f"{row['allowed']:.2f} s",
        ]
        for name, row in result["operators"].items()
    ]
    every = result["operators"].values()
    total = {
        column: sum(row[column] for row in every)
        for column in ("logs", "appeared", "read", "requests", "refused")
    }
    rows.append(
        [
            "all",
            f"{total['logs']}",
            f"{total['appeared']:,}",
            f"{total['read']:,}",
            f"{total['requests']:,}",
            f"{total['refused'] / max(1, total['requests']):.1%}",
            "",
            f"{result['behind']['all']:.1%}",
            *("", "", ""),
        ]
    )
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser("bench.field", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ingestors", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SETTING")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    options = parser.parse_args()
    result = asyncio.run(
        measure(options.seconds, options.seed, options.ingestors, options.settings)
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    print(field_table(result))
    if options.write and result["valid"]:
        page.PAGE.write_text(page.replace(page.PAGE.read_text(), "field", field_table(result)))
    print(
        json.dumps(
            {name: result[name] for name in ("simlog", "valid", "ingestor_cpu", "redis_cpu")}
        )
    )
    if not result["valid"]:
        sys.exit("simlog was the limit: this run does not measure the server")


if __name__ == "__main__":
    main()
