"""What a gateway does at three times the rate that it can deliver.

    python -m bench.overload [--clients 300] [--seconds 120] [--retention-secs 15] [--wait-secs 60]

Certificates are published as an ingestor does (`bench.fanout`), in full, to one gateway with
clients in another process. Two more clients, in processes of their own, write down what they
receive, and connect again with the id of their last message; one more requests `/health`.

The rate doubles until the 99th percentile of the latency, from publication to receipt, exceeds 1 s
twice in a row.
Then three times that rate is published, and a tenth of it until the percentile of both clients is
below 1 s again. `/health` must answer within 1 s, no message may be missing without a `gap` of its
range, or repeated, and the percentile must be below 1 s again within 60 s.

What arrives while a gateway is overloaded by a factor of three takes longer to deliver than the
overload lasted. So clients can be back in time only if Redis does not retain all of it: with
`--retention-secs`, it is trimmed like with this `retention.<stream>.max_age_secs`.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from bench import page
from bench.fanout import Source
from bench.processes import Clients, free_port, gateway, running
from certbus.connection import connect as connect_redis
from certbus.keys import STREAMS, Keys
from certbus.streams.retention import DEFAULT_RETENTION, Retention, Trimmer
from launcher.runtime.embedded_redis import EmbeddedRedis

MAX_SECS = 1.0
"""Of the 99th percentile, and of an answer of /health."""

RECOVERY_SECS = 60.0
SLICE_SECS = 5.0
"""Of the time after the overload, after which the clients are checked."""

LAST_SECS = 5.0
"""In which the last messages must arrive."""

STEP_SECS = 8.0
FIRST_RATE = 100
FACTOR = 3
MIN_PUBLISHED = 0.9
"""Of the rate; the source shares the cores with the gateway and its clients."""

PREFIX = "overload-"
PROBES = ("/full-stream", "/")


class Received(NamedTuple):
    """A message or gap that a probe received.

    Attributes:
        at: seconds since the epoch.
        id: of the message; empty for a gap.
        seen: when the message was published.
        requested: of a gap, the id after which messages are missing.
        oldest: of a gap, the id of the first batch after it; empty if unknown.
    """

    at: float
    id: str
    seen: float
    requested: str = ""
    oldest: str = ""


class _Data(msgspec.Struct):
    seen: float = 0.0
    requested: str = ""
    oldest: str | None = None


class _Text(msgspec.Struct):
    message_type: str
    id: str = ""
    data: _Data | msgspec.UnsetType = msgspec.UNSET


class Reached(NamedTuple):
    """What was published at a rate, and how late it arrived.

    Attributes:
        rate: certificates a second that were to be published.
        published: certificates a second that were.
        p99: seconds, of the messages that had arrived.
    """

    rate: int
    published: float
    p99: float


async def probe(url: str, output: Path) -> None:
    """Write down what one client receives, until cancelled."""
    cursor = ""
    with output.open("w") as file:
        while True:
            with suppress(OSError, WebSocketException, TimeoutError):
                query = f"?cursor={cursor}" if cursor else ""
                async with connect(f"{url}{query}", max_size=None, proxy=None) as connection:
                    async for raw in connection:
                        text = msgspec.json.decode(raw, type=_Text)
                        if text.message_type == "heartbeat":
                            continue
                        cursor = text.id or cursor
                        data = text.data if isinstance(text.data, _Data) else _Data()
                        ids = f"{text.id or '-'} {data.seen:.3f} {data.requested or '-'}"
                        file.write(f"{time.time():.3f} {ids} {data.oldest or '-'}\n")
                        file.flush()
            await asyncio.sleep(0.1)


def read(path: Path) -> list[Received]:
    """Read what a probe has written so far."""
    rows = [
        ["" if cell == "-" else cell for cell in line.split()]
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [Received(float(at), message, float(seen), *gap) for at, message, seen, *gap in rows]


def p99(received: Sequence[Received], since: float, until: float = float("inf")) -> float:
    """Return the 99th percentile of the latency of the messages that arrived in a time."""
    late = sorted(each.at - each.seen for each in received if each.id and since < each.at <= until)
    return late[int(0.99 * (len(late) - 1))] if late else float("inf")


def missing(received: Sequence[Received], published: Sequence[str]) -> int:
    """Return how many messages a client lacks, or has out of order or more than once.

    It should have each one from its first one on to the newest that was published, except those in
    the range of a gap that it has received.
    """
    ids = [_order(each.id) for each in received if each.id]
    ordered = sorted(map(_order, published))
    expected = set(ordered[bisect_left(ordered, ids[0]) :] if ids else ordered)
    for gap in received:
        if not gap.id and gap.oldest:
            begin, end = _order(gap.requested, float("inf")), _order(gap.oldest)
            expected.difference_update(
                ordered[bisect_right(ordered, begin) : bisect_left(ordered, end)]
            )
    before = zip(ids[1:], accumulate(ids, max), strict=False)
    late = sum(message <= highest for message, highest in before)
    return len(expected.difference(ids)) + late


def _order(message: str, position: float = -1) -> tuple[float, ...]:
    """Return the sort key of an id; `position` is that of an id of a batch."""
    parts = [float(part) for part in message.split("-")]
    return (*parts, position)[:3]


async def watch_health(url: str, output: Path) -> None:
    """Request /health twice a second, over new connections, and write down when it took how long.

    An answer that does not come within 30 s ends the process.
    """
    async with httpx.AsyncClient(trust_env=False, headers={"Connection": "close"}) as http:
        with output.open("w") as file:
            while True:
                began = time.monotonic()
                (await http.get(url, timeout=30)).raise_for_status()
                file.write(f"{time.time():.3f} {time.monotonic() - began:.3f}\n")
                file.flush()
                await asyncio.sleep(0.5)


async def overload(
    clients: int, seconds: float, retention_secs: float = 0, wait_secs: float = RECOVERY_SECS
) -> int:
    """Find the rate, exceed it, and print what happened.

    Args:
        clients: beside the two that write down what they receive.
        seconds: of the overload.
        retention_secs: age at which Redis trims the streams; 0: it does not.
        wait_secs: after the overload, for which the clients may take.

    Returns:
        1 if a bound was exceeded, a message is missing or repeated, or fewer were published than
        the overload demands, else 0.
    """
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overload-")))
        enter, port = stack.enter_async_context, free_port()
        server = await enter(EmbeddedRedis(home / "redis"))
        settings = ("--set=connection_limit.enabled=false", f"--set=redis_prefix={PREFIX}")
        await enter(gateway(server.url, port, home, *settings))
        source = await enter(Source(server.url, PREFIX))
        trimming = asyncio.create_task(_trim(server.url, retention_secs))
        stack.callback(trimming.cancel)
        await source.run(10, 1, 1)
        await (await enter(Clients(port, "/full-stream", clients))).connected()
        files = []
        for number, path in enumerate(PROBES):
            files.append(home / f"probe-{number}")
            command = ["-m", "bench.overload", f"--probe=ws://127.0.0.1:{port}{path}"]
            await enter(running([*command, f"--output={files[-1]}"], home / f"{number}.log"))
        health = home / "health"
        command = ["-m", "bench.overload", f"--health=http://127.0.0.1:{port}/health"]
        await enter(running([*command, f"--output={health}"], home / "health.log"))
        while not all(file.exists() and read(file) for file in files):
            await source.run(10, 1, 1)
            await asyncio.sleep(0.5)  # a run of one second publishes at once
        reached = [await _step(source, FIRST_RATE, STEP_SECS, files[0])]
        late = 0  # of two steps in a row
        while late < 2:
            if reached[-1].published < reached[-1].rate / 2:
                raise SystemExit(f"too few clients: {reached[-1]}")
            rate = reached[-1].rate * (1 if late else 2)
            reached.append(await _step(source, rate, STEP_SECS, files[0]))
            late = late + 1 if reached[-1].p99 > MAX_SECS else 0
        began = time.time()
        reached.append(await _step(source, FACTOR * reached[-1].rate, seconds, files[0]))
        ended = time.time()
        recovered = float("inf")
        while recovered == float("inf") and time.time() - ended < wait_secs:
            await source.run(max(reached[-1].rate // 10, 10), 4, SLICE_SECS)
            now = time.time()
            recovered = max(_recovered(read(file), ended, now) for file in files)
        behind = [_undelivered(read(file), source.published) for file in files]
        if recovered < float("inf"):
            await asyncio.sleep(LAST_SECS)
            behind = [0 for _ in files]
        rows = [line.split() for line in health.read_text().splitlines()]
        answers = [float(spent) for at, spent in rows if float(at) > began]
        assert time.time() - float(rows[-1][0]) < 5, "/health is not answered"
        lost = [
            missing(read(file), source.published[: len(source.published) - later])
            for file, later in zip(files, behind, strict=True)
        ]
        gaps = [sum(not each.id for each in read(file)) for file in files]
        steps = [[f"{each.rate}", f"{each.published:.0f}", f"{each.p99:.2f}"] for each in reached]
        print(page.table(["rate", "published a second", "p99 (s)"], steps))
        print(f"/health: {len(answers)} answers, the slowest after {max(answers):.2f} s")
        print(f"p99 below {MAX_SECS:g} s again after {recovered:.0f} s")
        print(f"missing without a gap, or repeated: {lost}; gaps: {gaps}; not there yet: {behind}")
        print(f"published: {len(source.published)}")
        too_few = reached[-1].published < MIN_PUBLISHED * reached[-1].rate
        if too_few:
            print("the source published less than the rate", file=sys.stderr)
        failed = max(answers) > MAX_SECS or recovered > RECOVERY_SECS or any(lost)
        return int(failed or too_few)


async def _step(source: Source, rate: int, seconds: float, file: Path) -> Reached:
    """Publish at a rate; the percentile is that of the second half of the time."""
    began, before = time.time(), len(source.published)
    await source.run(rate, 4, seconds)
    spent = time.time() - began
    found = p99(read(file), began + spent / 2)
    return Reached(rate, (len(source.published) - before) / spent, found)


async def _trim(url: str, max_age_secs: float) -> None:
    """Trim all streams by age, as ingestors do, until cancelled; 0: not at all."""
    retained = Retention(DEFAULT_RETENTION["full"].max_bytes, max_age_secs)
    async with connect_redis(url) as redis:
        if max_age_secs:
            trimmer = Trimmer(redis, Keys(PREFIX), dict.fromkeys(STREAMS, retained))
            await trimmer.run(asyncio.Event())


def _undelivered(received: Sequence[Received], published: Sequence[str]) -> int:
    """Return how many messages were published after the newest one that a client has."""
    newest = max((_order(each.id) for each in received if each.id), default=())
    return sum(_order(message) > newest for message in published)


def _recovered(received: Sequence[Received], ended: float, now: float) -> float:
    """Return the seconds after a time from which on each second's percentile is below 1 s.

    Infinity if it has not been for the last `SLICE_SECS`.
    """
    seconds = int(now - ended)
    for second in range(seconds, 0, -1):
        if p99(received, ended + second - 1, ended + second) > MAX_SECS:
            return float(second) if second <= seconds - SLICE_SECS else float("inf")
    return 0.0


def main() -> int:
    parser = argparse.ArgumentParser("bench.overload", description=__doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the overload")
    parser.add_argument(
        "--retention-secs", type=float, default=0, help="age at which Redis trims (never)"
    )
    parser.add_argument(
        "--wait-secs", type=float, default=RECOVERY_SECS, help="for the clients to be live again"
    )
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    parser.add_argument("--health", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.probe is not None:
        asyncio.run(probe(chosen.probe, chosen.output))
    if chosen.health is not None:
        asyncio.run(watch_health(chosen.health, chosen.output))
    return asyncio.run(
        overload(chosen.clients, chosen.seconds, chosen.retention_secs, chosen.wait_secs)
    )


if __name__ == "__main__":
    sys.exit(main())
