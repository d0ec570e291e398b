"""Memory and descriptors of every process over half an hour of load.

    python -m bench.soak [--minutes 30] [--rate 700] [--clients 10000]

Simulated logs, a Redis, two ingestors and two gateways. Of 10,000 clients 9,200 have a distinct
filter that passes little, 400 read lite (half of them compressed), 300 domains, 50 full, and 50
lite over SSE; other numbers keep these shares. Every ten seconds one client in a hundred
reconnects.

After the warm-up, a line is fitted to the Pss and to the descriptors of each process by least
squares. Its slope must be at most 1 % an hour, or within its standard error of zero, doubled.
"""

import argparse
import asyncio
import math
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from bench import page
from bench.filter_clients import Counts, FilteredClient, connect, queries
from bench.processes import Clients, free_port, gateway, pss, running, simulated_logs
from launcher.runtime.embedded_redis import EmbeddedRedis

SHARES = {"filtered": 0.92, "lite": 0.02, "compressed": 0.02, "domains": 0.03, "full": 0.005}
"""Of all clients; the others use SSE."""

KEPT = (
    "--set=dedup.ttl_secs=60",
    *(f"--set=retention.{stream}.max_age_secs=60" for stream in ("full", "lite", "domains")),
)
"""So little that Redis is as full after the warm-up as it gets."""

SAMPLE_SECS = 5.0
RECONNECT_SECS = 10.0
RECONNECT_EACH = 100
MAX_PERCENT_AN_HOUR = 1.0


class Slope(NamedTuple):
    """A fitted line.

    Attributes:
        percent: change an hour, in percent of the mean.
        error: standard error of it.
    """

    percent: float
    error: float

    @property
    def is_flat(self) -> bool:
        """Whether nothing grows, as far as the samples show."""
        return self.percent <= max(MAX_PERCENT_AN_HOUR, 2 * self.error)


def fit(times: Sequence[float], values: Sequence[float]) -> Slope:
    """Fit a line by least squares.

    Args:
        times: in seconds, at least three.
        values: one for each time.
    """
    count, mean_time, mean = len(times), sum(times) / len(times), sum(values) / len(values)
    spread = sum((at - mean_time) ** 2 for at in times)
    pairs = list(zip(times, values, strict=True))
    slope = sum((at - mean_time) * (value - mean) for at, value in pairs) / spread
    rest = sum((value - mean - slope * (at - mean_time)) ** 2 for at, value in pairs)
    error = math.sqrt(rest / (count - 2) / spread)
    return Slope(*(100 * 3600 * each / mean for each in (slope, error)))


class Watch:
    """Samples of some processes."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes
        self._times: list[float] = []
        self._values: dict[tuple[str, str], list[float]] = {}

    def sample(self) -> None:
        """Read Pss (KiB) and the number of descriptors of each process."""
        self._times.append(time.monotonic())
        for name, process in self._processes.items():
            found = {"Pss": pss(process.pid) / 1024, "descriptors": float(process.num_fds())}
            for what, value in found.items():
                self._values.setdefault((name, what), []).append(value)

    def slopes(self) -> dict[tuple[str, str], tuple[float, Slope]]:
        """Return the mean and the slope of each series."""
        return {
            key: (sum(values) / len(values), fit(self._times, values))
            for key, values in self._values.items()
        }


async def _reconnect(groups: list[tuple[int, list[FilteredClient], list[str], Counts]]) -> None:
    """Let one client in a hundred reconnect every ten seconds, until cancelled."""
    loop, turn = asyncio.get_running_loop(), 0
    while True:
        await asyncio.sleep(RECONNECT_SECS)
        for port, clients, requested, counts in groups:
            for number in range(turn % RECONNECT_EACH, len(clients), RECONNECT_EACH):
                clients[number].transport.abort()
                factory = partial(FilteredClient, requested[number], number, counts)
                _, clients[number] = await loop.create_connection(factory, "127.0.0.1", port)
        turn += 1


async def soak(minutes: float, warm_up: float, rate: float, clients: int) -> int:
    """Run the load; print a table.

    Returns:
        1 if something grows, else 0.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = await enter(EmbeddedRedis(home / "redis"))
        assert server.pid is not None
        watched = {"redis": psutil.Process(server.pid)}
        logs = ["--rfc6962=4", "--static-ct=4", "--duplicates=0.3", f"--rate={rate}"]
        await enter(simulated_logs(home, *logs, "--max-entries=1024"))
        where = [f"--config={home / 'config.yaml'}", f"--redis-url={server.url}", *KEPT]
        ingest = ["-m", "launcher", "ingest", *where, "--log-level=warn"]
        for number in (1, 2):
            log = home / f"ingestor-{number}.log"
            watched[f"ingestor-{number}"] = await enter(running(ingest, log))
        groups = []
        settings = ("--set=connection_limit.enabled=false", *KEPT)
        for number in (1, 2):
            port = free_port()
            watched[f"gateway-{number}"] = await enter(gateway(server.url, port, home, *settings))
            each = {name: round(clients * share / 2) for name, share in SHARES.items()}
            sse = max(clients // 2 - sum(each.values()), 1)
            for crowd in (
                Clients(port, "/", each["lite"]),
                Clients(port, "/", each["compressed"], "--offer=permessage-deflate"),
                Clients(port, "/domains-only", each["domains"]),
                Clients(port, "/full-stream", each["full"]),
                Clients(port, "/sse?stream=lite", sse),
            ):
                await (await enter(crowd)).connected()
            requested, _ = queries(each["filtered"])
            counts = Counts(len(requested))
            groups.append((port, await connect(port, requested, counts), requested, counts))
        reconnecting = asyncio.create_task(_reconnect(groups))
        stack.callback(reconnecting.cancel)
        await asyncio.sleep(60 * warm_up)
        watch, ends = Watch(watched), time.monotonic() + 60 * (minutes - warm_up)
        while time.monotonic() < ends:
            watch.sample()
            await asyncio.sleep(SAMPLE_SECS)
        assert not reconnecting.done(), reconnecting.exception()
        rows, grows = [], False
        for (name, what), (mean, slope) in watch.slopes().items():
            grows = grows or not slope.is_flat
            change = f"{slope.percent:+.1f} ± {slope.error:.1f} % an hour"
            unit = f"{mean / 1024:.1f} MiB" if what == "Pss" else f"{mean:.0f}"
            rows.append([name, what, unit, change, "flat" if slope.is_flat else "grows"])
        print(page.table(["process", "of", "mean", "slope", ""], rows))
        return int(grows)


def main() -> int:
    parser = argparse.ArgumentParser("bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes of them")
    parser.add_argument("--rate", type=float, default=700.0, help="certificates a second")
    parser.add_argument("--clients", type=int, default=10_000)
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(soak(chosen.minutes, chosen.warm_up, chosen.rate, chosen.clients))


if __name__ == "__main__":
    sys.exit(main())
