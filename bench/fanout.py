"""The costs and the latency of a gateway: Redis -> gateway -> N clients in another process.

Certificates are published as an ingestor does, by one or more logs that are polled once a second.
Prints, and stores on request, for each scenario: messages delivered and lost, CPU a delivered
message, latency from `seen` to receipt, memory a connection, time to connect while streaming.
`--plain` measures one send a message beside it.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import psutil

from bench.processes import Clients, cpu, free_port, gateway, running
from certbus.connection import connect
from certbus.keys import Keys
from certbus.logs.leases import Leases
from certbus.streams.batch import MAX_MESSAGES, Batch, Published
from certbus.streams.publisher import Publisher, PublisherSettings
from certbus.streams.retention import Trimmer
from ctparse.entry import Entry
from ctparse.rfc6962 import chain_certificates, decode_entries
from ctparse.wire_messages import Message, MessageWriter
from ctparse.wire_messages import Source as LogSource
from launcher.runtime.embedded_redis import EmbeddedRedis

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
SECONDS = 10.0
SETTLE_SECS = 1.0  # seconds between connecting and measuring


@dataclass(frozen=True)
class Scenario:
    """Clients, and the stream that they receive.

    Attributes:
        rate: certificates a second, of all logs.
        logs: each polled once a second, evenly spread over it.
        slow: clients that read a tenth of what comes.
        stuck: clients that read nothing.
    """

    name: str
    clients: int
    rate: int
    logs: int = 1
    path: str = "/"
    slow: int = 0
    stuck: int = 0
    seconds: float = SECONDS


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("500x1000", 500, 1000, logs=4),
        Scenario("500x100", 500, 100),
        Scenario("5000x20", 5000, 20),
        Scenario("domains", 500, 300, path="/domains-only"),
        Scenario("full", 200, 300, path="/full-stream"),
        Scenario("sse", 500, 1000, logs=4, path="/sse"),
        Scenario("10000x5", 10000, 5),
        Scenario("slow", 500, 1000, logs=4, slow=50, stuck=5),
    )
}


class Source:
    """Publishes real certificates' messages, made distinct, at a rate.

    Attributes:
        published: ids of all messages, in order.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self._redis = connect(url)
        keys = Keys(prefix)
        self._leases = Leases(self._redis, keys, "bench", ttl=3600)
        trimmer = Trimmer(self._redis, keys)
        self._publisher = Publisher(self._redis, keys, PublisherSettings(), trimmer.trim)
        self._numbers = itertools.count()
        self._texts = itertools.cycle(texts())
        self.published: list[str] = []

    async def __aenter__(self) -> Self:
        await self._publisher.configure()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    async def run(self, rate: int, logs: int, seconds: float) -> int:
        """Publish for a time, each log at its own moment of the second; return the number."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._log(log / logs, rate // logs, began, seconds))
                for log in range(logs)
            ]
        return sum(task.result() for task in tasks)

    async def _log(self, moment: float, rate: int, began: float, seconds: float) -> int:
        lease = await self._leases.acquire(secrets.token_hex(32), 0)
        assert lease is not None
        index = 0
        for second in itertools.count():
            due = began + second + moment
            if due >= began + seconds:
                return index
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            for start in range(0, rate, MAX_MESSAGES):
                count = min(MAX_MESSAGES, rate - start)
                batch = Batch(index, index + count, [self._make() for _ in range(count)], 0, [])
                outcome = await self._publisher.publish(lease, batch)
                assert isinstance(outcome, Published), outcome
                self.published += [f"{outcome.id}-{position}" for position in range(count)]
                index += count
        raise AssertionError

    def _make(self) -> Message:
        (full, lite, domains), number = next(self._texts), next(self._numbers)
        digest = hashlib.sha256(b"%d" % number).digest()
        seen = b"%.6f" % time.time()
        return Message(
            digest,
            digest[:20],
            full.replace(b"SEEN", seen),
            lite.replace(b"SEEN", seen),
            domains,
            (),
        )


def texts() -> list[tuple[bytes, bytes, bytes]]:
    """The three forms of real entries, as our writer makes them, SEEN being the time."""
    made = []
    for fixture in json.loads((FIXTURES / "ct_entries.json").read_text()):
        pair = {"leaf_input": fixture["leaf_input"], "extra_data": fixture["extra_data"]}
        body = json.dumps({"entries": [pair]}).encode()
        (entry,) = decode_entries(body, int(fixture["cert_index"]))
        assert isinstance(entry, Entry)
        source = LogSource(fixture["log_name"], fixture["log_url"], "operator", "rfc6962")
        writer = MessageWriter(source, lambda index: f"https://x/{index}", chain_certificates)
        message = writer.write(entry, hashlib.sha256(entry.certificate).digest(), 1.5)
        full, lite = (
            form.replace(b'"seen":1.5', b'"seen":SEEN') for form in (message.full, message.lite)
        )
        made.append((full, lite, message.domains))
    return made


async def measure(scenario: Scenario, redis: str, *, plain: bool) -> dict[str, Any]:
    """Run one scenario with its own gateway and its own prefix of Redis keys."""
    prefix, port = f"bench-{secrets.token_hex(4)}-", free_port()
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        serving = await stack.enter_async_context(
            baseline(redis, prefix, port, home)
            if plain
            else gateway(redis, port, home, f"--set=redis_prefix={prefix}")
        )
        source = await stack.enter_async_context(Source(redis, prefix))
        await source.run(10, 1, 1)  # warm
        empty = memory(serving)
        streaming = asyncio.create_task(source.run(scenario.rate, scenario.logs, 3600))
        await asyncio.sleep(SETTLE_SECS)
        slow = [f"--slow={scenario.slow}", f"--slow-rate={scenario.rate * 170}"]
        clients = await stack.enter_async_context(
            Clients(port, scenario.path, scenario.clients, *slow, f"--stuck={scenario.stuck}")
        )
        connected = await clients.connected()
        streaming.cancel()
        await asyncio.sleep(SETTLE_SECS)
        return await watch(scenario, source, serving, clients, connected, empty)


@asynccontextmanager
async def baseline(
    redis: str, prefix: str, port: int, directory: Path
) -> AsyncIterator[psutil.Process]:
    """Run the baseline until the context ends."""
    options = [f"--redis={redis}", f"--prefix={prefix}", f"--port={port}"]
    async with running(["-m", "bench.plain", *options], directory / "plain.log") as process:
        while True:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            await asyncio.sleep(0.05)
        yield process


async def watch(
    scenario: Scenario,
    source: Source,
    serving: psutil.Process,
    clients: Clients,
    connected: dict[str, Any],
    empty: int,
) -> dict[str, Any]:
    """Measure while all are connected, publishing a known number."""
    clients.count_from_here()
    await asyncio.sleep(SETTLE_SECS)
    before, crowd_before = cpu(serving), cpu(clients.usage)
    published = await source.run(scenario.rate, scenario.logs, scenario.seconds)
    await asyncio.sleep(SETTLE_SECS)
    spent = cpu(serving) - before
    crowd_spent = cpu(clients.usage) - crowd_before
    grown = memory(serving) - empty
    received = await clients.results()
    normal = received["normal"]
    expected = published * normal["clients"]
    delivered = normal["messages"] * normal["clients"] - normal["lost"]
    return {
        **asdict(scenario),
        "published": published,
        "delivered": delivered,
        "lost": expected - delivered,
        "disorder": normal["disorder"],
        "cpu_us": round(spent / max(delivered, 1) * 1e6, 3),
        "cpu_share": round(spent / scenario.seconds, 3),
        "clients_share": round(crowd_spent / scenario.seconds, 3),
        "latency_ms": normal["latency"],
        "connect_s": round(connected["seconds"], 2),
        "connect_ms": connected["each"],
        "bytes_a_connection": grown // scenario.clients,
        "received": received,
    }


def memory(process: psutil.Process) -> int:
    """Resident bytes."""
    return int(process.memory_info().rss)


async def run(options: argparse.Namespace) -> None:
    chosen = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
    if options.seconds:
        chosen = [replace(scenario, seconds=options.seconds) for scenario in chosen]
    results = []
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fanout"))
        redis = await stack.enter_async_context(EmbeddedRedis(Path(directory)))
        for scenario in chosen:
            result = await measure(scenario, redis.url, plain=False)
            if options.plain and scenario.path == "/":
                baseline = await measure(scenario, redis.url, plain=True)
                result["plain"] = baseline
                result["ratio"] = round(baseline["cpu_us"] / result["cpu_us"], 1)
            results.append(result)
            print(json.dumps(result), flush=True)
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO")
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--plain", action="store_true", help="measure one send a message beside it")
    parser.add_argument("--output", type=Path, help="where to store the results")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
