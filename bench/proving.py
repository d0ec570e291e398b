"""The cost of verification: the same logs in an ingestor that verifies them and one that does not.

    python -m bench.proving [--rate 500] [--logs 4] [--backlog 40000] [--seconds 20]

Both run at the same time and share machine, simulated logs and Redis (by other prefixes), so what
disturbs one disturbs the other. First each catches up on a backlog: CPU an entry. Then certificates
appear evenly, and each polls every log ten times a second: from the entry's timestamp in the log to
the id under which it is published, in milliseconds. Third, verification alone: the leaf's hash, the
frontier twice (for the proof, and batch by batch), and whether a precertificate is that of its
leaf; on the real entries of the fixtures, in this process.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
from redis.asyncio import Redis

from bench.clients import percentiles
from bench.parse import bodies, varied_entries
from bench.pipeline import LEAD_SECS
from bench.processes import cpu, running, simulated_logs
from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.ids import parse_entry_id
from certbus.keys import Keys
from certbus.streams.codec import Codec
from certbus.streams.reader import read_piece
from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier
from ctparse.precert import is_committed
from ctparse.rfc6962 import chain_certificates, decode_entries
from ingestor.pipeline.publish import MAX_LIVE_MESSAGES
from ingestor.verification.entry_proofs import (
    extended_frontiers,
    leaf_hashes,
    split_at_unparsed,
)
from ingestor.window import Window
from launcher.runtime.embedded_redis import EmbeddedRedis

MODES = ("off", "enforce")
ALONE = 8192  # entries
WINDOW = 1024
POLL_MS = 100
BACKLOG_TIMEOUT_SECS = 60.0


class Data(msgspec.Struct):
    """The data of a message."""

    submission_timestamp: float


class Message(msgspec.Struct):
    """The part of a message that is read."""

    data: Data


decode = msgspec.json.Decoder(Message).decode


async def measure(rate: int, logs: int, backlog: int, seconds: float) -> dict[str, Any]:
    """Run both, once on a backlog and once live."""
    behind = await run(logs, f"--rate=0 --preload={backlog}", backlog, 0)
    total = int(rate * seconds)
    live = await run(logs, f"--rate={rate} --total={total}", total, LEAD_SECS)
    return {"rate": rate, "logs": logs, "alone_us": alone(), "backlog": behind, "live": live}


async def run(logs: int, flow: str, total: int, lead: float) -> dict[str, dict[str, float]]:
    """Run both on the same logs, until each has published `total` certificates.

    Args:
        logs: how many, half of them static-ct.
        flow: options of simlog.
        total: certificates.
        lead: seconds from now to the first one, in which both can start.

    Returns:
        By mode: CPU, µs an entry, and percentiles of the delay, ms.
    """
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = await stack.enter_async_context(EmbeddedRedis(home / "redis"))
        redis = connect(server.url)
        stack.push_async_callback(redis.aclose)
        begin = time.time() + lead
        kinds = [f"--rfc6962={(logs + 1) // 2}", f"--static-ct={logs // 2}", "--max-entries=1024"]
        options = [*kinds, *flow.split(), "--duplicates=0", f"--start={begin}"]
        await stack.enter_async_context(simulated_logs(home, *options))
        config = home / "config.yaml"
        ingestors = {
            mode: await stack.enter_async_context(
                running(ingestor(config, server.url, mode), home / f"{mode}.log")
            )
            for mode in MODES
        }
        await asyncio.sleep(max(0.0, begin - 1 - time.time()))
        spent = await asyncio.gather(*(used(redis, m, total, ingestors[m]) for m in MODES))
        return {
            mode: {"cpu_us": cost, **percentiles(sorted(await all_delays(redis, mode)))}
            for mode, cost in zip(MODES, spent, strict=True)
        }


def ingestor(config: Path, redis_url: str, mode: str) -> list[str]:
    """The arguments of one of them."""
    settings = {
        "ct_log.integrity": mode,
        "ct_log.poll_interval_ms": POLL_MS,
        "ct_log.default_operator_rate_limit_ms": 0,
        "redis_prefix": keys(mode).prefix,
    }
    where = [f"--config={config}", f"--redis-url={redis_url}", "--log-level=warn", "--from-start"]
    return [
        "-m",
        "launcher",
        "ingest",
        *where,
        *(f"--set={k}={json.dumps(v)}" for k, v in settings.items()),
    ]


def keys(mode: str) -> Keys:
    """The Redis keys of one of them."""
    return Keys(f"{mode}:")


async def count(redis: Redis, mode: str) -> int:
    """The number of certificates that one of them has published."""
    return sum(log.published for log in (await snapshot(redis, keys(mode))).logs)


async def published(redis: Redis, total: int, mode: str) -> None:
    """Wait until one of them has published `total` certificates."""
    async with asyncio.timeout(BACKLOG_TIMEOUT_SECS):
        while await count(redis, mode) < total:
            await asyncio.sleep(0.05)


async def used(redis: Redis, mode: str, total: int, process: psutil.Process) -> float:
    """CPU of an ingestor, µs an entry, from a tenth of `total` published entries to all."""
    await published(redis, total // 10, mode)
    before, done = cpu(process), await count(redis, mode)
    await published(redis, total, mode)
    return (cpu(process) - before) * 1e6 / (total - done)


def alone() -> float:
    """CPU of proving real entries and nothing else, µs an entry, in this process."""
    entries: list[Entry | Rejected] = []
    for first, body in bodies(list(varied_entries(ALONE))):
        entries += decode_entries(body, first)
    windows = [Window(at, entries[at : at + WINDOW]) for at in range(0, ALONE, WINDOW)]
    times = []
    for _ in range(5):
        begin = time.process_time()
        for part in split_at_unparsed(windows):
            prove(part)
        times.append(time.process_time() - begin)
    return min(times) * 1e6 / len(entries)


def prove(run: Sequence[Window]) -> None:
    """Do what the verifier and the pipeline do to a run of windows."""
    frontier = Frontier()
    hashes = [leaf_hashes(window.entries) for window in run]
    extended_frontiers(frontier, hashes)[-1].root()
    for window, each in zip(run, hashes, strict=True):
        for entry in window.entries:
            if isinstance(entry, Entry) and entry.is_precert:
                is_committed(entry, chain_certificates)
        for at in range(0, len(each), MAX_LIVE_MESSAGES):
            frontier.extend(each[at : at + MAX_LIVE_MESSAGES])
            frontier.to_bytes()


async def all_delays(redis: Redis, mode: str) -> list[float]:
    """Seconds from the log to the stream, of each certificate."""
    found = []
    after, codec = "0-0", Codec()
    while entries := (await read_piece(redis, keys(mode), "lite", f"({after}", 100)).entries:
        for entry_id, fields in entries:
            after = entry_id.decode()
            at = parse_entry_id(after).ms / 1000
            messages = codec.unpack(fields[b"codec"].decode(), fields[b"m"])
            found += [at - decode(message).data.submission_timestamp for message in messages]
    return found


def main() -> None:
    parser = argparse.ArgumentParser("bench.proving", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=int, default=500, help="certificates a second")
    parser.add_argument("--logs", type=int, default=4, help="half of them static-ct")
    parser.add_argument("--backlog", type=int, default=40_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    json.dump(asyncio.run(measure(**vars(options))), sys.stdout)
    print()


if __name__ == "__main__":
    main()
