"""Filtered clients of one gateway: CPU, delay and memory with thousands of distinct filters.

    python -m bench.filter_clients [--clients 10000] [--seconds 60] [--write]

Certificates are real ones made distinct, 700 a second. The first part connects clients with one
filter each, of the kinds of `bench.filters`; one certificate in four is made to pass one of them,
in turn. The second part compares clients without a filter, alone and beside 1,000 clients whose
distinct filters pass half of everything. All clients run on the same machine as the gateway, those
of the second part in two other processes.
"""

import argparse
import asyncio
import itertools
import re
import resource
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import psutil

from bench import page
from bench.fanout import Source
from bench.filters import words_of
from bench.processes import Clients, cpu, free_port, gateway
from ctparse.wire_messages import Message
from launcher.runtime.embedded_redis import EmbeddedRedis

RATE = 700
LOGS = 4
AIMED_EACH = 4
"""One certificate in this many is made to pass a filter."""

MANY_MATCHES = 1000
UNFILTERED = 50
CONNECTING = 100
SETTLE_SECS = 2.0
_SEEN = re.compile(rb'"seen":([0-9.]+)')


class Counts:
    """What clients received.

    Attributes:
        delays: seconds from `seen` to receipt of each message.
        messages: number of messages of each client.
        closed: number of connections that the gateway closed.
    """

    def __init__(self, clients: int) -> None:
        self.delays: list[float] = []
        self.messages = [0] * clients
        self.closed = 0

    def percentile(self, share: float) -> float:
        """Return a percentile of the delays, in milliseconds."""
        ordered = sorted(self.delays)
        return 1000 * ordered[min(int(len(ordered) * share), len(ordered) - 1)]


class FilteredClient(asyncio.Protocol):
    """A WebSocket client that counts certificates and answers pings."""

    def __init__(self, query: str, number: int, counts: Counts) -> None:
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._query, self._number, self._counts = query, number, counts
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            f"GET /?{self._query} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        now, data = time.time(), self._rest + data
        if not self.accepted.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self.accepted.set_result(None)
        while len(data) >= 2:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(data[2:10], "big"), 10
            if len(data) < start + size:
                break
            if data[0] == 0x89:
                self.transport.write(b"\x8a\x80\0\0\0\0")
            elif (seen := _SEEN.search(data, start, start + size)) is not None:
                self._counts.messages[self._number] += 1
                self._counts.delays.append(now - float(seen[1]))
            data = data[start + size :]
        self._rest = data

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._counts.closed += 1


class AimedSource(Source):
    """Publishes certificates, some of which have the next of the given names."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(url, prefix)
        self.names: Iterator[str] = iter(())
        self._made = itertools.count()

    def _make(self) -> Message:
        made = super()._make()
        if next(self._made) % AIMED_EACH or (name := next(self.names, None)) is None:
            return made
        leaf = msgspec.json.decode(made.lite)["data"]["leaf_cert"]
        lite = made.lite
        for old, new in ((leaf["all_domains"][0], name), (leaf["issuer"]["O"], "Let's Encrypt")):
            lite = lite.replace(b'"%b"' % old.encode(), b'"%b"' % new.encode())
        return msgspec.structs.replace(made, lite=lite)


def queries(count: int) -> tuple[list[str], list[str]]:
    """Return queries with distinct filters, and a name that passes each."""
    found, names = [], []
    for number, (word, other, domain) in zip(range(count), words_of(3), strict=False):
        match number % 10:
            case 0 | 1 | 2 | 3:
                query, name = f"domain={domain}", f"www.{domain}"
            case 4 | 5:
                query, name = f"match=contains:{word}", f"x{word}-shop.example.com"
            case 6:
                query, name = f"match=name:www.{domain}", f"www.{domain}"
            case 7:
                query, name = f"match=like:{word}", f"{word}.com"
            case 8:
                pattern = quote(rf"regex:^{word}\d+-(login|secure)")
                query, name = f"match={pattern}", f"{word}12-login.example.net"
            case _:
                issuers = quote(f"Let's Encrypt,{other}")
                query, name = f"domain={domain}&issuer={issuers}", f"a.{domain}"
        found.append(query)
        names.append(name)
    return found, names


async def connect(port: int, requested: Sequence[str], counts: Counts) -> list[FilteredClient]:
    """Connect a client for each query, some at a time."""
    loop = asyncio.get_running_loop()
    made: list[FilteredClient] = []
    for number, query in enumerate(requested):
        factory = partial(FilteredClient, query, number, counts)
        _, client = await loop.create_connection(factory, "127.0.0.1", port)
        made.append(client)
        if len(made) % CONNECTING == 0:
            await asyncio.gather(*(client.accepted for client in made[-CONNECTING:]))
    await asyncio.gather(*(client.accepted for client in made))
    return made


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[int, psutil.Process, AimedSource]]:
    """Run a gateway with a Redis of its own; yield its port, its process and a source."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        home, prefix, port = Path(directory), f"bench-{secrets.token_hex(4)}-", free_port()
        async with EmbeddedRedis(home / "redis") as redis:
            limits = ("--set=connection_limit.enabled=false", f"--set=redis_prefix={prefix}")
            async with (
                gateway(redis.url, port, home, *limits) as process,
                AimedSource(redis.url, prefix) as source,
            ):
                await source.run(10, 1, 1)
                yield port, process, source


async def rare(clients: int, seconds: float) -> dict[str, Any]:
    """Measure clients with distinct filters that pass little."""
    requested, names = queries(clients)
    counts = Counts(clients)
    async with serving() as (port, process, source):
        before = process.memory_info().rss
        await connect(port, requested, counts)
        memory = (process.memory_info().rss - before) / clients
        source.names = iter(names)
        used, began = cpu(process), time.perf_counter()
        await source.run(RATE, LOGS, seconds)
        used, wall = cpu(process) - used, time.perf_counter() - began
        await asyncio.sleep(SETTLE_SECS)
        return {
            "clients": clients,
            "cpu": used / wall,
            "delivered": len(counts.delays) / wall,
            "without": sum(count == 0 for count in counts.messages),
            "closed": counts.closed,
            "memory": memory,
            "p50": counts.percentile(0.5),
            "p99": counts.percentile(0.99),
        }


async def beside(seconds: float) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Measure clients without a filter, and the same beside filters that pass half of everything.

    Returns:
        What the former received in both cases, as `bench.clients` reports it, and the messages a
        second that the latter received.
    """
    half = "/?match=" + quote("type:precert -domain:{number}.example", safe="{}")
    found, delivered = [], 0.0
    for crowd in (0, MANY_MATCHES):
        async with AsyncExitStack() as stack:
            port, _, source = await stack.enter_async_context(serving())
            many = None
            if crowd:
                many = await stack.enter_async_context(Clients(port, half, crowd))
                await many.connected()
            plain = await stack.enter_async_context(Clients(port, "/", UNFILTERED))
            await plain.connected()
            await source.run(RATE, LOGS, seconds)
            await asyncio.sleep(SETTLE_SECS)
            found.append((await plain.results())["normal"])
            if many is not None:
                bytes_each = found[0]["bytes"] / found[0]["messages"] / UNFILTERED
                delivered = (await many.results())["normal"]["bytes"] / bytes_each / seconds
    return found[0], found[1], delivered


def delay(received: dict[str, Any]) -> str:
    return f"{received['latency']['p50']:.0f} and {received['latency']['p99']:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser("bench.filter_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true", help="update docs/performance.md")
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    few = asyncio.run(rare(chosen.clients, chosen.seconds))
    alone, crowded, delivered = asyncio.run(beside(chosen.seconds / 3))
    head = ["", "measured"]
    rows = [
        ["clients, each with a filter of its own", f"{few['clients']:,}"],
        ["CPU of the gateway", f"{100 * few['cpu']:.1f} % of a core"],
        ["messages delivered", f"{few['delivered']:.0f}/s"],
        ["clients that received none", f"{few['without']:,}"],
        ["clients closed", f"{few['closed']:,}"],
        ["memory of the gateway a client", f"{few['memory'] / 1000:.1f} KB"],
        ["delay from `seen`, p50 and p99", f"{few['p50']:.0f} and {few['p99']:.0f} ms"],
        [f"{UNFILTERED} clients without a filter, alone: p50 and p99", delay(alone)],
        [f"the same beside {MANY_MATCHES:,} filters that pass half", delay(crowded)],
        ["messages delivered to the latter", f"about {delivered:,.0f}/s"],
    ]
    table = page.table(head, rows)
    print(table)
    if chosen.write:
        page.PAGE.write_text(page.replace(page.PAGE.read_text(), "filter-clients", table))


if __name__ == "__main__":
    main()
