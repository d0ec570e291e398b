"""Memory and descriptors of every process over half an hour of load.

    python -m bench.soak [--minutes 30] [--rate 700] [--clients 10000] [--samples FILE]

Simulated logs, a Redis, two ingestors and two gateways. Of 10,000 clients 9,200 have a distinct
filter that passes little: one certificate in 54,000 for each second one, and names that nothing has
for the others. 400 read lite (half of them compressed), 300 domains, 50 full, and 50 lite over SSE;
other numbers keep these shares. Every ten seconds one client in a hundred of each kind reconnects.

Deduplication marks are removed by windows of half an hour, so the memory of Redis rises and falls
within an hour. All processes run a copy of the source in which these windows are of one minute.

After the warm-up, a line is fitted to the Pss and to the descriptors of each process by least
squares. Its slope must be at most 1 % an hour, or within its standard error of zero. In the last
seconds, every kind of client must receive what is published, and no connection may have
ended that its client did not end.
"""

import argparse
import asyncio
import itertools
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TextIO

import psutil

from bench import page
from bench.filter_clients import Counts, FilteredClient, connect, queries
from bench.processes import (
    ROOT,
    Clients,
    environment_of,
    free_port,
    gateway,
    pss,
    running,
    simulated_logs,
)
from launcher.runtime.embedded_redis import EmbeddedRedis
from simlog.pki.certificates import WORDS

SHARES = {"filtered": 0.92, "lite": 0.02, "compressed": 0.02, "domains": 0.03, "full": 0.005}
"""Of all clients; the others use SSE."""

KEPT = (
    "--set=dedup.ttl_secs=60",
    *(f"--set=retention.{stream}.max_age_secs=60" for stream in ("full", "lite", "domains")),
)
"""So little that Redis is as full after the warm-up as it gets."""

WINDOW = "30 * 60 * 1000"
SHORT_WINDOW = "60 * 1000"
WINDOWS_IN = (
    "libs/certbus/keys.py",
    "libs/certbus/lua/marks.lua",
    "libs/certbus/streams/lua/expire_marks.lua",
)

SAMPLE_SECS = 5.0
RECONNECT_SECS = 10.0
RECONNECT_EACH = 100
PAIRS = 15 * len(WORDS) ** 2
"""Simulated names begin with two words and a number in hexadecimal: words and first digit."""

CHECK_SECS = 20.0
MIN_SHARE = 0.9
"""Of the certificates of these seconds, for each client without a filter."""
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
        return self.percent <= max(MAX_PERCENT_AN_HOUR, self.error)


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
    """Samples of some processes.

    Args:
        processes: by name.
        file: has a line for each value: seconds, process, what, value. None for no file.
    """

    def __init__(self, processes: dict[str, psutil.Process], file: TextIO | None) -> None:
        self._processes = processes
        self._file = file
        self._began = time.monotonic()
        self._times: list[float] = []
        self._values: dict[tuple[str, str], list[float]] = {}

    async def sample(self, secs: float) -> None:
        """Read Pss (KiB) and the number of descriptors of each process, again and again."""
        end = time.monotonic() + secs
        while (now := time.monotonic()) < end:
            self._times.append(now - self._began)
            for name, process in self._processes.items():
                found = {"Pss": pss(process.pid) / 1024, "descriptors": float(process.num_fds())}
                for what, value in found.items():
                    self._values.setdefault((name, what), []).append(value)
                    if self._file is not None:
                        print(f"{self._times[-1]:.0f},{name},{what},{value:.0f}", file=self._file)
            await asyncio.sleep(SAMPLE_SECS)

    def slopes(self, since: float) -> dict[tuple[str, str], tuple[float, Slope]]:
        """Return the mean and the slope of each series.

        Args:
            since: seconds after the first sample, of the first one that counts.
        """
        skipped = sum(at < since for at in self._times)
        times = self._times[skipped:]
        return {
            key: (sum(values[skipped:]) / len(times), fit(times, values[skipped:]))
            for key, values in self._values.items()
        }


def with_short_windows(directory: Path) -> Path:
    """Copy the source into a directory, with windows of marks that soon expire."""
    for part in ("libs", "services"):
        shutil.copytree(ROOT / part, directory / part)
    for name in WINDOWS_IN:
        source = (directory / name).read_text()
        assert source.count(WINDOW) == 1, name
        (directory / name).write_text(source.replace(WINDOW, SHORT_WINDOW))
    return directory


@dataclass(slots=True)
class Filtered:
    """The clients of a gateway that have a filter each.

    Attributes:
        left: number of connections that their clients ended.
    """

    port: int
    requested: list[str]
    counts: Counts
    clients: list[FilteredClient]
    left: int = 0

    async def reconnect(self, turn: int) -> None:
        """Let one client in a hundred leave and come back."""
        loop = asyncio.get_running_loop()
        for number in range(turn % RECONNECT_EACH, len(self.clients), RECONNECT_EACH):
            self.clients[number].transport.abort()
            self.left += 1
            factory = partial(FilteredClient, self.requested[number], number, self.counts)
            _, self.clients[number] = await loop.create_connection(factory, "127.0.0.1", self.port)


async def _reconnect(groups: Sequence[Filtered]) -> None:
    """Let one client in a hundred reconnect every ten seconds, until cancelled."""
    for turn in itertools.count():
        await asyncio.sleep(RECONNECT_SECS)
        for group in groups:
            await group.reconnect(turn)


def filters(count: int, first: int) -> list[str]:
    """Return queries with distinct filters.

    Args:
        count: how many.
        first: number of the first one; others follow with other numbers.
    """
    unseen, _ = queries(first + count)
    pairs = [
        f"{one}-{other}-{digit:x}"
        for digit, one, other in itertools.product(range(1, 16), WORDS, WORDS)
    ]
    step = 7919  # prime: neighbours have other words
    return [
        f"match=contains:{pairs[number * step % PAIRS]}" if number % 2 else unseen[number]
        for number in range(first, first + count)
    ]


async def _check(
    crowds: Sequence[Clients], groups: Sequence[Filtered], rate: float, published: float
) -> list[str]:
    """Return which clients do not receive what they should, and which were sent away.

    Args:
        crowds: without filters.
        groups: with filters.
        rate: certificates a second.
        published: certificates since the first filter.
    """
    for crowd in crowds:
        crowd.count_from_here()
    await asyncio.sleep(CHECK_SECS)
    wrong = []
    for crowd in crowds:
        found = (await crowd.results()).get("normal")
        if found is None:  # it has no client
            continue
        if found["messages"] < MIN_SHARE * rate * CHECK_SECS or found["closed"]:
            wrong.append(f"{crowd.path}: {found['messages']} messages, {found['closed']} closed")
    for group in groups:
        counts = group.counts
        passed = sum(number > 0 for number in counts.messages[1::2])
        expected = len(counts.messages) / 2 * (1 - math.exp(-published / PAIRS))
        if counts.closed != group.left or passed < expected / 4:
            wrong.append(
                f"filtered: {passed} received something; "
                f"{counts.closed} connections ended, {group.left} by their clients"
            )
    return wrong


async def soak(
    minutes: float, warm_up: float, rate: float, clients: int, samples: TextIO | None
) -> int:
    """Run the load; print a table.

    Args:
        minutes: of load.
        warm_up: minutes of them that do not count.
        rate: certificates a second.
        clients: of all kinds together.
        samples: gets every sample; None: nothing does.

    Returns:
        1 if something grows or a kind of client does not receive what it should, else 0.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        server = await enter(EmbeddedRedis(home / "redis"))
        assert server.pid is not None
        watched = {"redis": psutil.Process(server.pid)}
        environment = environment_of(with_short_windows(home / "source"))
        logs = ["--rfc6962=4", "--static-ct=4", "--duplicates=0.3", f"--rate={rate}"]
        await enter(simulated_logs(home, *logs, "--max-entries=1024"))
        where = [f"--config={home / 'config.yaml'}", f"--redis-url={server.url}", *KEPT]
        ingest = ["-m", "launcher", "ingest", *where, "--log-level=warn"]
        for number in (1, 2):
            log = home / f"ingestor-{number}.log"
            watched[f"ingestor-{number}"] = await enter(running(ingest, log, environment))
        groups: list[Filtered] = []
        crowds: list[Clients] = []
        settings = ("--set=connection_limit.enabled=false", *KEPT)
        for number in (1, 2):
            port = free_port()
            serving = gateway(server.url, port, home, *settings, environment=environment)
            watched[f"gateway-{number}"] = await enter(serving)
            each = {name: round(clients * share / 2) for name, share in SHARES.items()}
            sse = max(clients // 2 - sum(each.values()), 1)
            again = f"--reconnect-secs={RECONNECT_SECS}"
            deflate = "--offer=permessage-deflate"
            for crowd in (
                Clients(port, "/", each["lite"], again),
                Clients(port, "/", each["compressed"], again, deflate),
                Clients(port, "/domains-only", each["domains"], again),
                Clients(port, "/full-stream", each["full"], again),
                Clients(port, "/sse?stream=lite", sse, again),
            ):
                await (await enter(crowd)).connected()
                crowds.append(crowd)
            requested = filters(each["filtered"], each["filtered"] * (number - 1))
            counts = Counts(len(requested))
            connected = await connect(port, requested, counts)
            groups.append(Filtered(port, requested, counts, connected))
        reconnecting = asyncio.create_task(_reconnect(groups))
        stack.callback(reconnecting.cancel)
        watch = Watch(watched, samples)
        await watch.sample(60 * minutes)
        assert not reconnecting.done(), reconnecting.exception()
        rows, grows = [], False
        for (name, what), (mean, slope) in watch.slopes(60 * warm_up).items():
            grows = grows or not slope.is_flat
            change = f"{slope.percent:+.1f} ± {slope.error:.1f} % an hour"
            unit = f"{mean / 1024:.1f} MiB" if what == "Pss" else f"{mean:.0f}"
            rows.append([name, what, unit, change, "flat" if slope.is_flat else "grows"])
        print(page.table(["process", "of", "mean", "slope", ""], rows))
        reconnecting.cancel()
        wrong = await _check(crowds, groups, rate, rate * 60 * minutes)
        print(*wrong, sep="\n")
        return int(grows or bool(wrong))


def main() -> int:
    parser = argparse.ArgumentParser("bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes of them")
    parser.add_argument("--rate", type=float, default=700.0, help="certificates a second")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument(
        "--samples", type=argparse.FileType("w", 1), help="CSV file of every sample"
    )
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return asyncio.run(
        soak(chosen.minutes, chosen.warm_up, chosen.rate, chosen.clients, chosen.samples)
    )


if __name__ == "__main__":
    sys.exit(main())
