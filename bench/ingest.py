"""The cost of a certificate in an ingestor that catches up, and of each stage.

    python -m bench.ingest [--entries 100000] [--kind rfc6962|static-ct]

One simulated log with that many waiting entries, one ingestor process and an embedded Redis, all
on loopback. First table, measured from outside while it catches up: CPU of the ingestor process
and of Redis, and the data in Redis, a certificate; from the first published certificate to the
last, so that starting Python does not count. Second table: the same after the log was removed
from Redis, so that every certificate is read once more and is known. Third table: the stages in
sequence in this process, on the first entries of the same log; the rest of the total is asyncio,
and caches that are colder when everything runs together.
"""

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop
from psutil import Process
from redis.asyncio import Redis

from bench.processes import cpu, redis_cpu, running, simulated_logs
from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from certbus.logs.leases import Leases
from certbus.streams.batch import MAX_MESSAGES, Batch, Published
from certbus.streams.codec import Codec
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from ctparse.certificate import CertificateReader
from ctparse.entry import Entry
from ctparse.rfc6962 import decode_entries
from ctparse.wire_messages import Message, MessageWriter, Source
from ingestor.client.http import Fetcher, http_client
from ingestor.client.interface import LogClient
from ingestor.client.issuers import Issuers
from ingestor.client.rfc6962 import Rfc6962Log
from ingestor.client.static_ct import Identity, StaticCtLog
from ingestor.log import Kind
from launcher.runtime.embedded_redis import EmbeddedRedis

_T = TypeVar("_T")

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
        kind = Kind(options.kind)
        is_static = kind is Kind.STATIC_CT
        world = [f"--rfc6962={1 - is_static}", f"--static-ct={is_static:d}", "--duplicates=0"]
        flow = ["--rate=0", f"--preload={options.entries}", f"--max-entries={WINDOW}"]
        async with simulated_logs(Path(directory), *world, *flow) as url:
            base = f"{url}/{'static1' if is_static else 'rfc1'}"
            state = Path(directory) / "state"
            async with EmbeddedRedis(state) as server:
                run = partial(catch_up, server, state, options.entries, Path(directory))
                report("a certificate", *await run("published"))
                await forget_logs(server)
                report("a duplicate", *await run("duplicates"))
            print("\n| stage, alone | µs a certificate |\n| --- | --- |")
            async with EmbeddedRedis(state) as server:
                costs = await stages(server.url, base, kind, options.entries)
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
    """Delete the logs and their positions, but not the marks of the certificates."""
    redis = connect(server.url)
    for log in (await snapshot(redis, KEYS)).logs:
        await redis.delete(KEYS.log(log.log_id), KEYS.lease(log.log_id))
    await redis.delete(KEYS.logs)
    await redis.aclose()


async def catch_up(
    server: EmbeddedRedis, state: Path, entries: int, directory: Path, outcome: str
) -> tuple[Measured, Measured]:
    """Run an ingestor; the totals after its first entry and after its last.

    Args:
        server: its Redis.
        state: directory of its data.
        entries: number of entries of the log.
        directory: that of its configuration.
        outcome: the counter of the log that counts them.
    """
    command = ["-m", "launcher", "ingest", "--from-start", "--log-level=warn"]
    where = [f"--config={directory / 'config.yaml'}", f"--redis-url={server.url}"]
    async with connect(server.url) as redis:
        # A rewrite would shorten the file that is being measured.
        await redis.config_set("auto-aof-rewrite-percentage", 0)
        async with running([*command, *where], directory / "ingestor.log") as process:
            first = None
            while True:
                now = await measure(redis, process, state, outcome)
                if first is None and now.entries > 0:
                    first = now
                if first is not None and now.entries >= entries:
                    return first, now
                await asyncio.sleep(0.02)


async def measure(redis: Redis, ingestor: Process, state: Path, outcome: str) -> Measured:
    entries = sum(getattr(log, outcome) for log in (await snapshot(redis, KEYS)).logs)
    memory: dict[str, Any] = await redis.info("memory")
    return Measured(
        entries, cpu(ingestor), await redis_cpu(redis), memory["used_memory"], appended_bytes(state)
    )


def appended_bytes(state: Path) -> int:
    return sum(file.stat().st_size for file in state.rglob("*.aof"))


async def stages(redis_url: str, base: str, kind: Kind, count: int) -> dict[str, float]:
    """CPU µs a certificate of each stage, of at most `count` entries, in this process."""
    count = min(STAGED, count // WINDOW * WINDOW)
    costs: dict[str, float] = {}

    async def timed(stage: str, work: Callable[[], Awaitable[_T]]) -> _T:
        gc.collect()
        begin = time.process_time()
        done = await work()
        costs[stage] = (time.process_time() - begin) / count * 1e6
        return done

    async with connect(redis_url) as redis, http_client() as http:
        await redis.flushall()
        publisher = Publisher(redis, KEYS, PublisherSettings(), Trimmer(redis, KEYS).free_bytes)
        fetcher = Fetcher(http, "bench", timeout=60)
        client = client_of(kind, base, fetcher)
        window = client.tile or WINDOW
        starts = range(0, count, window)
        await client.entries(0, window)  # connect
        if kind is Kind.RFC6962:
            bodies = await timed(
                "fetch", lambda: collect(lambda at: fetch(fetcher, base, at), starts)
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
            lambda: collect(lambda at: publisher.find_known(digests[at : at + window]), starts),
        )
        reader = CertificateReader()
        await timed("parse", lambda: now(lambda: [reader.read(e.certificate) for e in entries]))
        messages = await timed("encode", lambda: now(lambda: write(entries, digests, client)))
        costs["encode"] -= costs["parse"]  # it parses first
        codec = Codec()
        await timed("compress", lambda: now(lambda: pack(messages, codec)))
        lease = await Leases(redis, KEYS, "bench", 60).acquire("url-" + "0" * 64, 0)
        assert lease is not None

        async def publish() -> None:
            for at in range(0, len(messages), MAX_MESSAGES):
                part = messages[at : at + MAX_MESSAGES]
                outcome = await publisher.publish(lease, Batch(at, at + len(part), part, 0, []))
                assert isinstance(outcome, Published), outcome

        await timed("publish", publish)
        costs["publish"] -= costs["compress"]  # it compresses first
    return costs


def client_of(kind: Kind, base: str, fetcher: Fetcher) -> LogClient:
    """The client that an ingestor uses for this kind of log."""
    if kind is Kind.RFC6962:
        return Rfc6962Log(base, fetcher)
    return StaticCtLog(
        base, fetcher, Issuers(base, fetcher), Identity(origin="simlog.test/static1")
    )


async def now(work: Callable[[], _T]) -> _T:
    return work()


async def collect(get: Callable[[int], Awaitable[_T]], starts: range) -> list[_T]:
    return [await get(start) for start in starts]


async def fetch(fetcher: Fetcher, base: str, at: int) -> bytes:
    entries = f"{base}/ct/v1/get-entries?start={at}&end={at + WINDOW - 1}"
    return await fetcher.get_log(entries, 64 << 20)


def digest(entry: Entry) -> bytes:
    return sha256(entry.certificate).digest()


def write(entries: list[Entry], digests: list[bytes], client: LogClient) -> list[Message]:
    source = Source("bench", "http://127.0.0.1/", "Operator", "rfc6962")
    writer = MessageWriter(source, client.entry_url, client.issuer_chain)
    return [writer.write(e, d, 1.7e9) for e, d in zip(entries, digests, strict=True)]


def pack(messages: list[Message], codec: Codec) -> None:
    for at in range(0, len(messages), MAX_MESSAGES):
        for name in STREAMS:
            codec.pack([getattr(message, name) for message in messages[at : at + MAX_MESSAGES]])


if __name__ == "__main__":
    uvloop.run(main())
