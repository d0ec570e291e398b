"""Bytes and gateway CPU of a delivered message with and without compression.

    python -m bench.wire [--seconds 60] [--clients 300]

Distinct certificates of 20 authorities from 20 logs, 300 a second in batches of 8 to 64. First
table: the bytes on the wire of one client of each kind over the same minute, frame headers and ids
included, and the gateway's CPU with many clients of this kind alone. `each alone` is what a client
gets that excludes context takeover. Then: for how long a client that joins receives uncompressed
frames. Second table: levels of zlib, in this process.
"""

import argparse
import asyncio
import itertools
import secrets
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from psutil import Process

from bench import distinct, page
from bench.clients import COMPRESSED, Client, frames, request
from bench.processes import Clients, cpu, free_port, gateway
from certbus.connection import connect
from certbus.keys import Keys
from certbus.logs.leases import Leases
from certbus.streams.batch import Batch, Published
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from gateway.delivery.compression import RESTART_MESSAGES, RESTART_SECS
from launcher.runtime.embedded_redis import EmbeddedRedis

RATE = 300
SETTLE_SECS = RESTART_SECS + 1
PATHS = {"lite": "/", "domains": "/domains-only", "full": "/full-stream"}
OFFERS = {
    "uncompressed": "",
    "each alone": "permessage-deflate; server_no_context_takeover",
    "shared context": "permessage-deflate",
}
_LEVELS = (("1", 1, 0), ("6", 6, 0), ("6, filtered", 6, 1), ("9, filtered", 9, 1))


class Source:
    """Publishes distinct certificates at `RATE`."""

    def __init__(self, url: str, prefix: str) -> None:
        self._redis = connect(url)
        keys = Keys(prefix)
        self._leases = Leases(self._redis, keys, "bench", ttl=3600)
        self._publisher = Publisher(
            self._redis, keys, PublisherSettings(), Trimmer(self._redis, keys).trim
        )
        self._batches = distinct.batches()

    async def run(self, seconds: float) -> int:
        """Publish for a time; return the number of messages."""
        await self._publisher.configure()
        lease = await self._leases.acquire(secrets.token_hex(32), 0)
        assert lease is not None
        index, began = 0, time.perf_counter()
        while index < seconds * RATE:
            messages = next(self._batches)
            await asyncio.sleep(max(began + index / RATE - time.perf_counter(), 0))
            batch = Batch(index, index + len(messages), messages, 0, [])
            outcome = await self._publisher.publish(lease, batch)
            assert isinstance(outcome, Published), outcome
            index += len(messages)
        return index


@asynccontextmanager
async def serving(redis: str) -> AsyncIterator[tuple[int, Source, Process]]:
    """Run a gateway with its own prefix of Redis keys: its port, what publishes to it, itself."""
    prefix, port = f"bench-{secrets.token_hex(4)}-", free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        option = f"--set=redis_prefix={prefix}"
        async with gateway(redis, port, Path(home), option) as process:
            yield port, Source(redis, prefix), process


async def bytes_a_message(redis: str, seconds: float) -> tuple[dict[tuple[str, str], float], float]:
    """One client of each kind, and one more that joins every second.

    Returns:
        Bytes by stream and kind; and the longest time in which a client that joined received
        uncompressed frames, in seconds.
    """
    async with AsyncExitStack() as stack:
        port, source, _ = await stack.enter_async_context(serving(redis))
        clients = {
            (stream, kind): await stack.enter_async_context(
                Clients(port, path, 1, f"--offer={offer}")
            )
            for stream, path in PATHS.items()
            for kind, offer in OFFERS.items()
        }
        for client in clients.values():
            await client.connected()
        await source.run(1)
        await asyncio.sleep(SETTLE_SECS)
        for client in clients.values():
            client.count_from_here()
        await asyncio.sleep(0.5)
        joining = asyncio.create_task(join(port, seconds))
        published = await source.run(seconds)
        await asyncio.sleep(1)
        found = {}
        for key, client in clients.items():
            normal = (await client.results())["normal"]
            assert normal["messages"] == published, (key, normal, published)
            found[key] = normal["bytes"] / published
        return found, max(await joining)


async def join(port: int, seconds: float) -> list[float]:
    """Connect a client every second; return how long each received uncompressed messages."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        for _ in range(int(seconds) - 6):
            tasks.append(group.create_task(uncompressed_secs(port)))
            await asyncio.sleep(1)
    return [task.result() for task in tasks]


async def uncompressed_secs(port: int) -> float:
    """Seconds from the first message to the first compressed one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("/", "bench", sse=False, offer=OFFERS["shared context"]))
    await reader.readuntil(b"\r\n\r\n")
    client = Client(writer.get_extra_info("socket"), sampled=True, sse=False)
    began = None
    async with asyncio.timeout(30):
        while True:
            client.rest += await reader.read(1 << 16)
            for first, _, payload in frames(client):
                began = began or time.perf_counter()
                if first & COMPRESSED and payload:
                    writer.close()
                    return time.perf_counter() - began


async def cpu_a_message(redis: str, stream: str, kind: str, clients: int, seconds: float) -> float:
    """Gateway CPU of a delivered message, in µs, with clients of one kind."""
    async with serving(redis) as (port, source, process):
        offer = f"--offer={OFFERS[kind]}"
        async with Clients(port, PATHS[stream], clients, offer) as crowd:
            await crowd.connected()
            await source.run(2)
            await asyncio.sleep(SETTLE_SECS)  # the next slot is a restart: all are in step
            crowd.count_from_here()
            await asyncio.sleep(1)
            before = cpu(process)
            published = await source.run(seconds)
            await asyncio.sleep(1)
            spent = cpu(process) - before
            normal = (await crowd.results())["normal"]
    assert not normal["lost"], normal
    return spent / (published * clients) * 1e6


def levels(messages: int = 4000) -> Iterator[list[str]]:
    """Rows of bytes and µs of a message by level of zlib; with the frame header, without its id."""
    batches = list(itertools.islice(distinct.batches(2), messages // 36))
    count = sum(map(len, batches))
    for name, level, strategy in _LEVELS:
        row = [name]
        for stream in PATHS:
            size, since, deflate = 0, 0, None
            texts = [[getattr(message, stream) for message in batch] for batch in batches]
            began = time.process_time()
            for batch in texts:
                if deflate is None or since + len(batch) > RESTART_MESSAGES:
                    deflate = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
                    since = 0
                since += len(batch)
                for text in batch:
                    data = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
                    size += len(data) - 4 + (2 if len(data) < 130 else 4)
            spent = time.process_time() - began
            row.append(f"{size / count:.0f} B, {spent / count * 1e6:.0f} µs")
        yield row


async def measure(seconds: float, clients: int, cpu_seconds: float) -> str:
    """Return the tables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        async with EmbeddedRedis(Path(directory)) as redis:
            sizes, longest = await bytes_a_message(redis.url, seconds)
            rows = []
            for stream in PATHS:
                for kind in OFFERS:
                    row = [stream, kind, f"{sizes[stream, kind]:.1f}"]
                    if stream != "full":
                        spent = await cpu_a_message(redis.url, stream, kind, clients, cpu_seconds)
                        row.append(f"{spent:.2f} µs")
                    rows.append([*row, "–"][:4])
    head = ["stream", "messages", "bytes on the wire", f"gateway CPU, {clients} clients"]
    joins = f"A client that joined received uncompressed messages for at most {longest:.1f} s."
    compared = page.table(["zlib level", *PATHS], list(levels()))
    return f"{page.table(head, rows)}\n\n{joins}\n\n{compared}"


def main() -> None:
    parser = argparse.ArgumentParser("bench.wire", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cpu-seconds", type=float, default=15)
    parser.add_argument("--clients", type=int, default=300)
    options = parser.parse_args()
    print(asyncio.run(measure(options.seconds, options.clients, options.cpu_seconds)))


if __name__ == "__main__":
    main()
