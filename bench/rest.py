"""What `up` needs at rest, and how soon it serves: memory, and the time to the first message.

    python -m bench.rest [--before REV ...] [--write]

Memory is the Pss of `up` and its children 15 s after they answer, without logs and clients. The
time is from the start of `up --demo` to the first certificate at a client that tries to connect
every 50 ms; the median of five starts. Each `--before` is a revision measured in the same run.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from bench import page
from bench.processes import ROOT, answer, checkout, environment_of, free_port, pss, running

STARTS = 5
SETTLE_SECS = 15.0
RETRY_SECS = 0.05
DEADLINE_SECS = 60.0
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def main() -> None:
    """Measure each revision, and print or write the table."""
    parser = argparse.ArgumentParser("bench.rest", description=__doc__.partition("\n")[0])
    parser.add_argument("--before", action="append", default=[], metavar="REV")
    parser.add_argument("--write", action="store_true", help="the table to docs/performance.md")
    options = parser.parse_args()
    lines = [
        "| `up` | processes | at rest | first message, median (range) |",
        "| --- | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as directory:
        trees = {f"before ({rev})": checkout(rev, Path(directory) / rev) for rev in options.before}
        for name, tree in {**trees, "now": ROOT}.items():
            lines.append(asyncio.run(row(name, tree)))
            print(lines[-1], flush=True)
    table = "\n".join(lines)
    print(table)
    if options.write:
        page.PAGE.write_text(page.replace(page.PAGE.read_text(), "rest", table))


async def row(name: str, tree: Path) -> str:
    """Measure one tree."""
    memory, count = await at_rest(tree)
    await first_message(tree)  # compiles its modules
    times = [await first_message(tree) for _ in range(STARTS)]
    spread = f"{statistics.median(times):.2f} s ({min(times):.2f} – {max(times):.2f})"
    return f"| {name} | {count} | {memory / 1e6:.0f} MB | {spread} |"


async def at_rest(tree: Path) -> tuple[int, int]:
    """Return the Pss of all processes of `up` in bytes, and their number."""
    port = free_port()
    async with up(tree, port, "--set=log_lists=[]") as process:
        await answer(f"http://127.0.0.1:{port}/health")
        await asyncio.sleep(SETTLE_SECS)
        processes = [process, *process.children(recursive=True)]
        for each in processes:
            print(f"  {each.name()} {pss(each.pid) / 1e6:.1f} MB", file=sys.stderr)
        return sum(pss(each.pid) for each in processes), len(processes)


async def first_message(tree: Path) -> float:
    """Return the seconds from the start of a demo to the first certificate at a client."""
    port, began = free_port(), time.monotonic()
    async with up(tree, port, "--demo"), asyncio.timeout(DEADLINE_SECS):
        while not await received(port):
            await asyncio.sleep(RETRY_SECS)
        return time.monotonic() - began


async def received(port: int) -> bool:
    """Return whether a client could connect and has received a certificate."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(REQUEST)
        data = b""
        while b"certificate_update" not in data:
            chunk = await reader.read(1 << 16)
            if not chunk:
                return False
            data = data[-100:] + chunk
    except OSError:
        return False
    finally:
        writer.close()
    return True


@asynccontextmanager
async def up(tree: Path, port: int, *options: str) -> AsyncIterator[psutil.Process]:
    """Run `up` of a tree until the context ends."""
    with tempfile.TemporaryDirectory() as state:
        command = ["-P", "-m", "launcher", "up", f"--port={port}", "--host=127.0.0.1"]
        command += [f"--state-dir={state}/state", *options]
        directory = Path(state)
        output = directory / "log"
        async with running(command, output, environment_of(tree), directory) as process:
            yield process


if __name__ == "__main__":
    main()
