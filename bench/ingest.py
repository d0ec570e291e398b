"""What a certificate costs one ingestor that catches up, and where the time goes.

    python -m bench.ingest [--entries 100000] [--kind rfc6962|static-ct]

One simulated log with that many waiting entries, one ingestor process and an embedded Redis, all
on loopback. First table, measured from outside while it catches up: CPU of the ingestor process
and of Redis, and what Redis holds, a certificate; from the first published certificate to the
last, so that starting Python does not count. Second table: the same when Redis has forgotten the
log, so that it is read once more, and every certificate is known. Third table: the stages one after
the other in this process, on the first entries of the same log; what they leave unexplained is
asyncio, and caches that are colder when everything runs together.
"""

import argparse
import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop
from redis.asyncio import Redis

from certbus.caches.issuers import IssuerCache
from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from certbus.limits.operators import OperatorSlots
from certbus.logs.circuit_state import CircuitStore
from certbus.logs.leases import Leases
from certbus.logs.tree_state import TreeStateStore
from certbus.streams.batch import MAX_MESSAGES, Batch
from certbus.streams.codec import Codec
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from certconf.settings import Config, CTLog
from ctparse.certificate import CertificateReader
from ctparse.entry import Entry
from ctparse.rfc6962 import decode_entries
from ctparse.wire_messages import Message, MessageWriter, Source
from ingestor.assignment.factory import FollowerFactory
from ingestor.client.http import Fetcher, http_client
from ingestor.log import Kind, Log
from ingestor.metrics import Metrics
from ingestor.redis_retry import RedisRetry
from launcher.runtime.embedded_redis import EmbeddedRedis

WINDOW = 1024  # ct_log.batch_size, and what the simulated log returns at once
STAGED = 20 * WINDOW
KEYS = Keys()


class Measured(msgspec.Struct):
    """Totals at one moment."""

    entries: int
    ingestor: float
    redis: float
    memory: int
    appended: int


async def main() -> None:
    parser = argparse.ArgumentParser("bench.ingest", description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--kind", choices=[kind.value for kind in Kind], default="rfc6962")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        async with simlog(options.kind, options.entries, Path(directory)) as url:
            state = Path(directory) / "state"
            async with EmbeddedRedis(state) as server:
                run = partial(catch_up, server, state, options.entries, Path(directory))
                report("a certificate", *await run("published"))
                await forget_logs(server)
                report("a duplicate", *await run("duplicates"))
            print("\n| stage, alone | µs a certificate |\n| --- | --- |")
            async with EmbeddedRedis(state) as server:
                costs = await stages(server.url, url, options.kind)
            for stage, cost in {**costs, "sum": sum(costs.values())}.items():
                print(f"| {stage} | {cost:.1f} |")


def report(what: str, first: Measured, last: Measured) -> None:
    n = last.entries - first.entries
    print(f"\n{n:,} entries\n\n| {what} | |\n| --- | --- |")
    print(f"| ingestor CPU | {(last.ingestor - first.ingestor) / n * 1e6:.1f} µs |")
    print(f"| Redis CPU | {(last.redis - first.redis) / n * 1e6:.1f} µs |")
    print(f"| Redis memory | {(last.memory - first.memory) / n:,.0f} bytes |")
    print(f"| append-only file | {(last.appended - first.appended) / n:,.0f} bytes |")


async def forget_logs(server: EmbeddedRedis) -> None:
    """Leave the marks of the certificates, but not how far their log was read."""
    redis = connect(server.url)
    for log in (await snapshot(redis, KEYS)).logs:
        await redis.delete(KEYS.log(log.log_id), KEYS.lease(log.log_id))
    await redis.delete(KEYS.logs)
    await redis.aclose()


@asynccontextmanager
async def simlog(kind: str, entries: int, directory: Path) -> AsyncIterator[str]:
    """One simulated log; its URL."""
    logs = (
        ["--rfc6962=1", "--static-ct=0"] if kind == "rfc6962" else ["--rfc6962=0", "--static-ct=1"]
    )
    world = ["--port=8391", "--rate=0", f"--preload={entries}", "--duplicates=0"]
    command = [sys.executable, "-m", "simlog", *world, *logs, f"--max-entries={WINDOW}"]
    with (directory / "simlog.ctlog.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                try:
                    (found,) = (await http.get("http://127.0.0.1:8391/world.json")).json()["logs"]
                    break
                except httpx.TransportError:
                    if process.returncode is not None:
                        sys.exit((directory / "simlog.ctlog.log").read_text())
                    await asyncio.sleep(0.1)
            (directory / "config.yaml").write_bytes(
                (await http.get("http://127.0.0.1:8391/config.yaml")).content
            )
        yield str(found["url"]).rstrip("/")
    finally:
        process.terminate()
        await process.wait()


async def catch_up(
    server: EmbeddedRedis, state: Path, entries: int, directory: Path, outcome: str
) -> tuple[Measured, Measured]:
    """Run an ingestor; what was used when it had begun, and when it was done.

    Args:
        server: its Redis.
        state: where that keeps its data.
        entries: when it is done.
        directory: where its configuration is.
        outcome: the counter of the log that counts them.
    """
    command = [sys.executable, "-m", "launcher", "ingest", "--from-start", "--log-level=warn"]
    where = [f"--config={directory / 'config.yaml'}", f"--redis-url={server.url}"]
    redis = connect(server.url)
    # A rewrite would shorten the file that is being measured.
    await redis.config_set("auto-aof-rewrite-percentage", 0)
    process = await asyncio.create_subprocess_exec(*command, *where, cwd=directory)
    try:
        first = None
        while True:
            now = await measure(redis, process.pid, state, outcome)
            if first is None and now.entries > 0:
                first = now
            if first is not None and now.entries >= entries:
                return first, now
            if process.returncode is not None:
                sys.exit("the ingestor ended")
            await asyncio.sleep(0.02)
    finally:
        await redis.aclose()
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def measure(redis: Redis, pid: int, state: Path, outcome: str) -> Measured:
    entries = sum(getattr(log, outcome) for log in (await snapshot(redis, KEYS)).logs)
    info: dict[str, Any] = await redis.info()
    return Measured(
        entries,
        cpu_seconds(pid),
        info["used_cpu_user"] + info["used_cpu_sys"],
        info["used_memory"],
        appended_bytes(state),
    )


def cpu_seconds(pid: int) -> float:
    # After the name in parentheses: state is field 3, user and system ticks are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def appended_bytes(state: Path) -> int:
    return sum(file.stat().st_size for file in state.rglob("*.aof"))


async def stages(redis_url: str, url: str, kind: str) -> dict[str, float]:
    """CPU microseconds a certificate of each stage, in this process."""
    redis = connect(redis_url)
    await redis.flushall()
    costs: dict[str, float] = {}
    async with http_client() as http:
        leases = Leases(redis, KEYS, "bench", 60)
        publisher = Publisher(redis, KEYS, PublisherSettings(), Trimmer(redis, KEYS).free_bytes)
        ledger, reader = TreeStateStore(redis, KEYS), CertificateReader()
        circuits, operators, patience = (
            CircuitStore(redis, KEYS),
            OperatorSlots(redis, KEYS),
            RedisRetry(),
        )
        config = Config(ct_log=CTLog(default_operator_rate_limit_ms=0))
        issuers, meter = IssuerCache(redis, KEYS), Metrics()
        assembly = FollowerFactory(
            config,
            http,
            publisher,
            leases,
            ledger,
            circuits,
            operators,
            issuers,
            reader,
            patience,
            meter,
        )
        log = Log(id="url-" + "0" * 64, name="bench", url=url, kind=Kind(kind))
        if kind == "static-ct":
            log = msgspec.structs.replace(log, origin="simlog.test/static1")
        client, breaker = assembly.client(log)
        window = client.tile or WINDOW
        starts = range(0, STAGED, window)

        async def timed(stage: str, work: Callable[[], Awaitable[Any]]) -> Any:
            gc.collect()
            begin = time.process_time()
            done = await work()
            costs[stage] = (time.process_time() - begin) / STAGED * 1e6
            return done

        await client.entries(0, window)  # connect
        if kind == "rfc6962":
            fetcher = assembly.fetcher(log, breaker.circuit)
            bodies = await timed(
                "fetch", lambda: collect(lambda at: fetch(fetcher, log, at), starts)
            )
            windows = await timed(
                "decode", lambda: now(lambda: list(map(decode_entries, bodies, starts)))
            )
        else:
            windows = await timed(
                "fetch and decode",
                lambda: collect(lambda at: client.entries(at, at + window), starts),
            )
        entries = [entry for window in windows for entry in window if isinstance(entry, Entry)]
        digests = await timed("hash", lambda: now(lambda: [digest(entry) for entry in entries]))
        await timed(
            "known",
            lambda: collect(lambda at: publisher.find_known(digests[at : at + WINDOW]), starts),
        )
        reader = CertificateReader()
        await timed("parse", lambda: now(lambda: [reader.read(e.certificate) for e in entries]))
        messages = await timed("encode", lambda: now(lambda: write(entries, digests, client)))
        costs["encode"] -= costs["parse"]  # it parses first
        codec = Codec()
        await timed("compress", lambda: now(lambda: pack(messages, codec)))
        lease = await leases.acquire(log.id, 0)
        assert lease is not None

        async def publish() -> None:
            for at in range(0, STAGED, MAX_MESSAGES):
                batch = Batch(at, at + MAX_MESSAGES, messages[at : at + MAX_MESSAGES], 0, [])
                await publisher.publish(lease, batch)

        await timed("publish", publish)
        costs["publish"] -= costs["compress"]  # it compresses first
    await redis.aclose()
    return costs


async def now(work: Callable[[], Any]) -> Any:
    return work()


async def collect(ask: Callable[[int], Awaitable[Any]], starts: range) -> list[Any]:
    return [await ask(start) for start in starts]


async def fetch(fetcher: Fetcher, log: Log, at: int) -> bytes:
    entries = f"{log.base}/ct/v1/get-entries?start={at}&end={at + WINDOW - 1}"
    return await fetcher.get_log(entries, 64 << 20)


def digest(entry: Entry) -> bytes:
    return sha256(entry.certificate).digest()


def write(entries: list[Entry], digests: list[bytes], client: Any) -> list[Message]:
    source = Source("bench", "http://127.0.0.1/", "Operator", "rfc6962")
    writer = MessageWriter(source, client.link, client.chain)
    return [writer.write(e, d, 1.7e9) for e, d in zip(entries, digests, strict=True)]


def pack(messages: list[Message], codec: Codec) -> None:
    for at in range(0, len(messages), MAX_MESSAGES):
        for name in STREAMS:
            codec.pack([getattr(message, name) for message in messages[at : at + MAX_MESSAGES]])


if __name__ == "__main__":
    uvloop.run(main())
