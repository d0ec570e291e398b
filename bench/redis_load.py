"""The costs of Redis with the data that it retains at the rate of the public logs.

    python -m bench.redis_load [--certificates 800000]

It is filled as it is after some hours: marks of two and a half windows, streams at their limits.
Then certificates come at 700 a second, in batches of 16, as forty logs that are polled once a
second bring them. First table: the append-only file, and what a rewrite of it costs, with Redis'
default and as `deploy/k8s/redis/redis.conf` has it. Second table: what it costs to be read.

Times of Redis are CPU times; those of publishing are as a publisher sees them.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from redis.asyncio import Redis

from bench import page
from bench.redis_cost import DISTINCT, RATE, distinct_messages, fill_windows
from certbus.connection import connect
from certbus.keys import STREAMS, Keys
from certbus.logs.leases import Lease, Leases
from certbus.streams.batch import Batch, Published
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.reader import COUNT
from certbus.streams.retention import Trimmer
from ctparse.wire_messages import Message
from launcher.runtime.embedded_redis import EmbeddedRedis

LOOKUP_RATE = 2000  # entries a second: most of them are known already
BATCH = 16
SECONDS = 15.0
READERS = (0, 10, 30)
MAX_MEMORY = 3 << 30
MIB = 1 << 20
KEYS = Keys()


class Feed:
    """Publishes new certificates.

    Attributes:
        published: number of certificates so far.
    """

    def __init__(self, publisher: Publisher, lease: Lease, messages: list[Message]) -> None:
        self.published = 0
        self._publisher = publisher
        self._lease = lease
        self._messages = messages

    async def batch(self) -> float:
        """Publish one batch; return the seconds for look-up and publishing."""
        first, self.published = self.published, self.published + BATCH
        batch = [
            msgspec.structs.replace(
                self._messages[number % len(self._messages)],
                sha256=random.randbytes(32),
                sha1=random.randbytes(20),
            )
            for number in range(first, self.published)
        ]
        others = [random.randbytes(32) for _ in range(round(BATCH * (LOOKUP_RATE / RATE - 1)))]
        begin = time.perf_counter()
        await self._publisher.find_known([*(message.sha256 for message in batch), *others])
        done = await self._publisher.publish(
            self._lease, Batch(first, self.published, batch, 0, [])
        )
        assert isinstance(done, Published)
        return time.perf_counter() - begin

    async def steadily(self, ended: Callable[[], Awaitable[bool]]) -> list[float]:
        """Publish at the real rate; seconds that each batch took."""
        loop = asyncio.get_running_loop()
        due, spent = loop.time(), []
        while not await ended():
            spent.append(await self.batch())
            due += BATCH / RATE
            await asyncio.sleep(max(due - loop.time(), 0))
        return spent


async def main() -> None:
    parser = argparse.ArgumentParser("bench.redis_load", description=__doc__)
    parser.add_argument("--certificates", type=int, default=800_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as state:
        async with (
            EmbeddedRedis(Path(state), MAX_MEMORY) as server,
            connect(server.url) as redis,
            asyncio.TaskGroup() as tasks,
        ):
            await disable_automatic_rewrite(redis)
            await fill_windows(redis, (0.5, 1, 1))
            trimmer = Trimmer(redis, KEYS)
            trimming = tasks.create_task(trimmer.run(asyncio.Event()))
            publisher = Publisher(redis, KEYS, PublisherSettings(), trimmer.free_bytes)
            await publisher.configure()
            lease = await Leases(redis, KEYS, "bench", 3600).acquire("bench", 0)
            assert lease is not None
            feed = Feed(publisher, lease, distinct_messages(DISTINCT))
            while feed.published < options.certificates:
                await feed.batch()
            print(await holds(redis), flush=True)
            steady = await growth(redis, feed)
            print(await restart(redis, server, "as it came"), flush=True)
            print(await rewrites(redis, feed, steady), flush=True)
            print(await restart(redis, server, "rewritten"), flush=True)
            print(await readings(redis, feed, server.url), flush=True)
            trimming.cancel()


async def disable_automatic_rewrite(redis: Redis) -> None:
    await redis.config_set("auto-aof-rewrite-percentage", 0)


async def holds(redis: Redis) -> str:
    head = await redis.hgetall(KEYS.head)
    kept = [f"{name} {int(head[f'{name}.messages'.encode()]):,} messages" for name in STREAMS]
    used = (await redis.info("memory"))["used_memory"]
    return f"\n{used / MIB:,.0f} MiB: {', '.join(kept)}, and marks\n"


async def restart(redis: Redis, server: EmbeddedRedis, file: str) -> str:
    """Restart Redis; the time that it reads its file."""
    size = (await redis.info("persistence"))["aof_current_size"] / MIB
    await redis.shutdown()
    await server.wait()
    begin = time.perf_counter()
    await server.start()
    took = time.perf_counter() - begin
    await disable_automatic_rewrite(redis)
    while not await rewritten(redis):  # Redis starts one, because the file began empty
        await asyncio.sleep(0.1)
    return f"Started again from {size:,.0f} MiB, {file}, in {took:.1f} s.\n"


async def growth(redis: Redis, feed: Feed) -> list[str]:
    """Measure without a rewrite: print the growth of the file, return the row of the table."""
    before, begin = await redis.info(), time.monotonic()
    spent = await feed.steadily(after(SECONDS))
    now, took = await redis.info(), time.monotonic() - begin
    grown = (now["aof_current_size"] - before["aof_current_size"]) / took
    print(f"The append-only file grows by {grown / 1e6:.2f} MB a second.\n")
    used = f"{(cpu(now) - cpu(before)) / took:.1%}"
    return ["no rewrite", *["–"] * 5, used, milliseconds(spent)]


async def rewrites(redis: Redis, feed: Feed, steady: list[str]) -> str:
    """The file rewritten with each setting."""
    head = ["", "rewrite", "CPU of it", "file", "stopped by fork", "copied", "CPU of Redis"]
    head += ["a batch p50 / p99 / max"]
    rows = [steady]
    for compression in ("yes", "no"):
        await redis.config_set("rdbcompression", compression)
        before, begin = await redis.info(), time.monotonic()
        await redis.bgrewriteaof()
        spent = await feed.steadily(lambda: rewritten(redis))
        now = await redis.info()
        took = time.monotonic() - begin
        children = cpu(now, "_children") - cpu(before, "_children")
        file = f"{now['aof_base_size'] / MIB:,.0f} MiB"
        fork, copied = now["latest_fork_usec"] / 1000, now["aof_last_cow_size"] / MIB
        row = [f"{took:.1f} s", f"{children:.1f} s", file, f"{fork:.0f} ms", f"{copied:.0f} MiB"]
        used = f"{(cpu(now) - cpu(before)) / took:.1%}"
        rows.append([f"rdbcompression {compression}", *row, used, milliseconds(spent)])
    return f"{page.table(head, rows)}\n"


async def readings(redis: Redis, feed: Feed, url: str) -> str:
    """The cost of each number of gateways that read."""
    rows = []
    for count in READERS:
        async with reading(url, count):
            before, begin = await redis.info(), time.monotonic()
            spent = await feed.steadily(after(SECONDS))
            now, took = await redis.info(), time.monotonic() - begin
        used = (cpu(now) - cpu(before)) / took
        sent = (now["total_net_output_bytes"] - before["total_net_output_bytes"]) / took
        rows.append([f"{count}", f"{used:.2%}", f"{sent / 1e6:.2f} MB/s", milliseconds(spent)])
    return "\n" + page.table(["gateways", "CPU of Redis", "sent", "a batch p50 / p99 / max"], rows)


@asynccontextmanager
async def reading(url: str, count: int) -> AsyncIterator[None]:
    """Read all streams as `count` gateways do, and discard the entries."""
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read(url)) for _ in range(count)]
        yield
        for reader in readers:
            reader.cancel()


async def read(url: str) -> None:
    async with connect(url) as redis:
        last = await redis.hget(KEYS.head, "last")
        at: dict[Any, Any] = {KEYS.stream(name).encode(): last for name in STREAMS}
        while True:
            reply: Any = await redis.xread(at, count=COUNT, block=1000)
            for stream, entries in reply:
                at[stream] = entries[-1][0]


def after(seconds: float) -> Callable[[], Awaitable[bool]]:
    end = time.monotonic() + seconds

    async def ended() -> bool:
        return time.monotonic() > end

    return ended


async def rewritten(redis: Redis) -> bool:
    info = await redis.info("persistence")
    return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])


def cpu(info: dict[str, Any], whose: str = "") -> float:
    return float(info[f"used_cpu_user{whose}"] + info[f"used_cpu_sys{whose}"])


def milliseconds(spent: list[float]) -> str:
    ordered = sorted(spent)
    found = (ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1])
    return " / ".join(f"{each * 1000:.1f}" for each in found) + " ms"


if __name__ == "__main__":
    uvloop.run(main())
