"""The cost of a certificate in the processes that catch up with a log, and of each stage.

    python -m bench.ingest [--entries 100000] [--kind rfc6962|static-ct] [--runs 3] [--before REV]

One simulated log with that many waiting entries of distinct certificates, which returns 256 of them
in an answer; one ingestor process, an embedded Redis and a gateway without clients, all on
loopback. All streams, zstd, `integrity: enforce`.

First table, measured from outside: CPU of each process, and the data in Redis, a certificate. It is
measured from the first published certificate to the last, so starting Python does not count: that
has a row of its own. Then the same after the log was removed from Redis, so that every certificate
is read once more and is known. Each figure is the median of the runs. With `--before`, each run
also measures the ingestor and the gateway of another revision, with the same log and packages.

Second table: the stages in sequence in this process, on the first entries of the same log, after
each run; the median, too. The rest of the total is HTTP/1.1, the event loop, the loops over the
entries of a batch, and caches that are colder when everything runs together.
"""

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvloop
from psutil import Process
from redis.asyncio import Redis

from bench import page
from bench.processes import (
    checkout,
    cpu,
    environment_of,
    free_port,
    gateway,
    redis_cpu,
    running,
    simulated_logs,
)
from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from certbus.logs.leases import Leases
from certbus.streams.batch import MAX_MESSAGES, Batch, Published
from certbus.streams.codec import Codec
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from ctparse.certificate import CertificateReader
from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier
from ctparse.rfc6962 import decode_entries
from ctparse.wire_messages import Message, MessageWriter, Source
from ingestor.client.http import Fetcher, http_client
from ingestor.client.interface import LogClient
from ingestor.client.issuers import Issuers
from ingestor.client.rfc6962 import Rfc6962Log
from ingestor.client.static_ct import Identity, StaticCtLog
from ingestor.cpu import Cpu
from ingestor.log import Kind
from ingestor.verification.entry_proofs import leaf_hashes
from ingestor.verification.precerts import PrecertCheck
from launcher.runtime.embedded_redis import EmbeddedRedis

_T = TypeVar("_T")

PAGE = 256  # entries in an answer
STAGED = 80 * PAGE
KEYS = Keys()


class Revision(msgspec.Struct, frozen=True):
    """The code that is measured.

    Attributes:
        name: heading of its column.
        environment: variables of its processes.
    """

    name: str
    environment: dict[str, str] | None = None


class Totals(msgspec.Struct):
    """Totals at one moment: entries, seconds of CPU time, bytes."""

    entries: int
    ingestor: float
    redis: float
    gateway: float
    memory: int
    appended: int


async def main() -> None:
    parser = argparse.ArgumentParser("bench.ingest", description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--kind", choices=[kind.value for kind in Kind], default="rfc6962")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--before", metavar="REV", help="measure this revision, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        revisions = [Revision("now")]
        if options.before:
            revisions.insert(0, checked_out(options.before, Path(directory) / "before"))
        kind = Kind(options.kind)
        is_static = kind is Kind.STATIC_CT
        world = [f"--rfc6962={1 - is_static}", f"--static-ct={is_static:d}", "--duplicates=0"]
        flow = ["--rate=0", f"--preload={options.entries}", f"--max-entries={PAGE}"]
        async with simulated_logs(Path(directory), *world, *flow) as url:
            found: dict[str, list[dict[str, float]]] = {}
            staged: list[dict[str, float]] = []
            base = f"{url}/{'static1' if is_static else 'rfc1'}"
            for number in range(options.runs):
                for revision in revisions:
                    state = Path(directory) / f"state-{number}-{revision.name}"
                    costs = await measure_once(revision, options.entries, Path(directory), state)
                    found.setdefault(revision.name, []).append(costs)
                async with EmbeddedRedis(Path(directory) / f"stages-{number}") as server:
                    staged.append(await stages(server.url, base, kind, options.entries))
            print(f"{options.entries:,} entries, median of {options.runs}\n")
            print(table(found))
            print("\n| stage, alone | µs a certificate |\n| --- | --- |")
            alone = {stage: statistics.median(x[stage] for x in staged) for stage in staged[0]}
            for stage, cost in {**alone, "sum": sum(alone.values())}.items():
                print(f"| {stage} | {cost:.1f} |")


def checked_out(name: str, directory: Path) -> Revision:
    """Put the code of another revision into a directory."""
    checkout(name, directory)
    # A release that required h2 negotiates HTTP/2 only with TLS, which the log does not have.
    (directory / "libs" / "h2.py").touch()
    return Revision(name, environment_of(directory))


async def measure_once(
    revision: Revision, entries: int, directory: Path, state: Path
) -> dict[str, float]:
    """Return the row of each figure, of a Redis of its own that catches up and catches up again."""
    async with EmbeddedRedis(state) as server:
        run = partial(catch_up, revision, server, state, entries, directory)
        first, last = await run("published")
        n = (last.entries - first.entries) / 1e6
        costs = {
            "ingestor, µs a certificate": (last.ingestor - first.ingestor) / n,
            "Redis, µs a certificate": (last.redis - first.redis) / n,
            "gateway without clients, µs a certificate": (last.gateway - first.gateway) / n,
            "Redis memory, bytes a certificate": (last.memory - first.memory) / n / 1e6,
            "append-only file, bytes a certificate": (last.appended - first.appended) / n / 1e6,
            "ingestor until the first certificate, s": first.ingestor,
        }
        await forget_logs(server)
        first, last = await run("duplicates")
        n = (last.entries - first.entries) / 1e6
        costs["ingestor, µs a duplicate"] = (last.ingestor - first.ingestor) / n
        costs["Redis, µs a duplicate"] = (last.redis - first.redis) / n
    return costs


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the median of each figure, a column for each revision."""
    medians = {
        name: {row: statistics.median(each[row] for each in runs) for row in runs[0]}
        for name, runs in found.items()
    }
    rows = []
    for row in next(iter(medians.values())):
        figures = [each[row] for each in medians.values()]
        texts = [f"{each:.1f}" if "µs" in row else f"{each:,.4g}" for each in figures]
        ratio = [f"{figures[-1] / figures[0]:.0%}"] * (len(figures) - 1)
        rows.append([row, *texts, *ratio])
    return page.table(["", *medians, *["ratio"] * (len(medians) - 1)], rows)


async def forget_logs(server: EmbeddedRedis) -> None:
    """Delete the logs and their positions, but not the marks of the certificates."""
    redis = connect(server.url)
    for log in (await snapshot(redis, KEYS)).logs:
        await redis.delete(KEYS.log(log.log_id), KEYS.lease(log.log_id))
    await redis.delete(KEYS.logs)
    await redis.aclose()


async def catch_up(
    revision: Revision,
    server: EmbeddedRedis,
    state: Path,
    entries: int,
    directory: Path,
    outcome: str,
) -> tuple[Totals, Totals]:
    """Run a gateway and an ingestor; the totals after its first entry and after its last.

    Args:
        revision: of both.
        server: their Redis.
        state: directory of its data.
        entries: number of entries of the log.
        directory: that of the configuration.
        outcome: the counter of the log that counts them.
    """
    command = ["-m", "launcher", "ingest", "--from-start", "--log-level=warn"]
    where = [f"--config={directory / 'config.yaml'}", f"--redis-url={server.url}"]
    environment = revision.environment
    async with connect(server.url) as redis, AsyncExitStack() as stack:
        # A rewrite would shorten the file that is being measured.
        await redis.config_set("auto-aof-rewrite-percentage", 0)
        serving = await stack.enter_async_context(
            gateway(server.url, free_port(), directory, environment=environment)
        )
        reading = await stack.enter_async_context(
            running([*command, *where], directory / "ingestor.log", environment)
        )
        while not (logs := (await snapshot(redis, KEYS)).logs):
            await asyncio.sleep(0.05)
        key, first = KEYS.log(logs[0].log_id), None
        while True:
            count = int(await redis.hget(key, outcome) or 0)
            if count and (first is None or count >= entries):
                last = await totals(redis, count, reading, serving, state)
                first = first or last
            if count >= entries and first is not None:
                return first, last
            await asyncio.sleep(0.02)


async def totals(
    redis: Redis, entries: int, ingestor: Process, serving: Process, state: Path
) -> Totals:
    memory: dict[str, Any] = await redis.info("memory")
    used = cpu(ingestor), await redis_cpu(redis), cpu(serving)
    return Totals(entries, *used, memory["used_memory"], appended_bytes(state))


def appended_bytes(state: Path) -> int:
    return sum(file.stat().st_size for file in state.rglob("*.aof"))


async def stages(redis_url: str, base: str, kind: Kind, count: int) -> dict[str, float]:
    """CPU µs a certificate of each stage, of at most `count` entries, in this process."""
    count = min(STAGED, count // PAGE * PAGE)
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
        window = client.tile or PAGE
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
        await timed("verify", lambda: verify(windows, client))
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
    entries = f"{base}/ct/v1/get-entries?start={at}&end={at + PAGE - 1}"
    return await fetcher.get_log(entries, 64 << 20)


async def verify(windows: list[list[Entry | Rejected]], client: LogClient) -> None:
    """Compute the tree of all entries, and compare precertificates with their leaves."""
    frontier, precerts = Frontier(), PrecertCheck(client, Cpu())
    for window in windows:
        frontier.extend(leaf_hashes(window))
        assert not await precerts.mismatches(window)


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
