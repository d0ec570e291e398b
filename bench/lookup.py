"""The time of /api/cert: two gateways in turn, over certificates that Redis holds.

    python -m bench.lookup [--certificates 120000]

Redis holds marks of two and a half windows at the real logs' rate, and the certificates in its
streams: half of them in batches of 64, as live ones come, half in batches of 256, as those come
that an ingestor catches up on. One client requests one after the other, on a connection to each.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import psutil
import uvloop
from redis.asyncio import Redis

from bench import page
from bench.processes import cpu, free_port, gateway, redis_cpu
from bench.redis_cost import distinct_messages, fill_windows
from certbus.connection import connect
from certbus.keys import Keys
from certbus.logs.leases import Leases
from certbus.streams.batch import Batch, Published
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Retention, Trimmer
from ctparse.wire_messages import Message
from launcher.runtime.embedded_redis import EmbeddedRedis

LIVE, CATCHING_UP = 64, 256  # messages in a batch
REQUESTS = 500  # of each kind
PLENTY = Retention(4 << 30, 3600)
MODELS = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--certificates", type=int, default=120_000)
    print(uvloop.run(measure(parser.parse_args().certificates)))


async def measure(certificates: int) -> str:
    """Fill a Redis, request from two gateways, and write the table."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        async with EmbeddedRedis(Path(directory)) as redis, connect(redis.url) as client:
            await fill_windows(client, (0.5, 1, 1))
            held = {
                size: [m async for m in publish(client, size, certificates // 2)]
                for size in (LIVE, CATCHING_UP)
            }
            async with AsyncExitStack() as stack:
                gateways = []
                for _ in range(2):
                    port, api = free_port(), "--set=protocols.api=true"
                    process = gateway(redis.url, port, Path(directory), api)
                    gateways.append(Lookups(await stack.enter_async_context(process), port))
                rows = [
                    [f"{what}, batch of {size}", *await spent(client, gateways, digests, 200)]
                    for size, messages in held.items()
                    for what, digests in kinds(random.sample(messages, REQUESTS))
                ]
                absent = [random.randbytes(32) for _ in range(REQUESTS)]
                rows.append(["nothing found", *await spent(client, gateways, absent, 404)])
    head = [f"of {certificates:,}, by", "p50", "p99", "max", "gateway's CPU", "Redis's CPU"]
    return page.table(head, rows)


def kinds(messages: list[tuple[bytes, bytes]]) -> Iterator[tuple[str, list[bytes]]]:
    yield "SHA-256", [sha256 for sha256, _ in messages]
    yield "SHA-1", [sha1 for _, sha1 in messages]


async def publish(client: Redis, size: int, count: int) -> AsyncIterator[tuple[bytes, bytes]]:
    """Publish batches of new certificates, and yield their hashes."""
    keys, models = Keys(), distinct_messages(MODELS)
    retention = dict.fromkeys(("full", "lite", "domains"), PLENTY)
    trimmer = Trimmer(client, keys, retention)
    publisher = Publisher(client, keys, PublisherSettings(), trimmer.free_bytes)
    await publisher.configure()
    lease = await Leases(client, keys, "bench", 3600).acquire(f"{size:064x}", 0)
    assert lease is not None
    for first in range(0, count, size):
        batch = [another(models[(first + number) % MODELS]) for number in range(size)]
        outcome = await publisher.publish(lease, Batch(first, first + size, batch, 0, []))
        assert isinstance(outcome, Published), outcome
        for message in batch:
            yield message.sha256, message.sha1


def another(model: Message) -> Message:
    """Return the same certificate with other hashes."""
    sha256, sha1 = random.randbytes(32), random.randbytes(20)
    full, lite = (
        text.replace(
            model.sha256.hex(":").upper().encode(), sha256.hex(":").upper().encode()
        ).replace(model.sha1.hex(":").upper().encode(), sha1.hex(":").upper().encode())
        for text in (model.full, model.lite)
    )
    return msgspec.structs.replace(model, sha256=sha256, sha1=sha1, full=full, lite=lite)


class Lookups:
    """A gateway, and a connection to it.

    Attributes:
        process: that of the gateway.
    """

    def __init__(self, process: psutil.Process, port: int) -> None:
        self.process = process
        self._port = port

    async def get(self, digest: bytes) -> tuple[int, float]:
        """Request a certificate: status, and seconds."""
        if not hasattr(self, "_connection"):
            self._connection = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._connection
        began = time.perf_counter()
        writer.write(b"GET /api/cert/%b HTTP/1.1\r\nHost: bench\r\n\r\n" % digest.hex().encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r")[0]))
        return int(head.split()[1]), time.perf_counter() - began


async def spent(
    redis: Redis, gateways: list[Lookups], digests: list[bytes], expected: int
) -> list[str]:
    """Milliseconds of a look-up: p50, p99, maximum; CPU time of the gateway and of Redis."""
    before, busy = sum(cpu(each.process) for each in gateways), await redis_cpu(redis)
    seconds = []
    for number, digest in enumerate(digests):
        status, took = await gateways[number % len(gateways)].get(digest)
        assert status == expected, status
        seconds.append(took)
    used = sum(cpu(each.process) for each in gateways) - before
    costs = (used / len(seconds), (await redis_cpu(redis) - busy) / len(seconds))
    seconds.sort()
    times = (seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100], seconds[-1])
    return [f"{value * 1000:.1f} ms" for value in (*times, *costs)]


if __name__ == "__main__":
    main()
