"""All benchmarks, and their tables in docs/performance.md.

make bench         what changes most, in five minutes
make bench-full    everything, with plots
"""

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import fanout, filters, lookup, page, pipeline, wire
from bench.plots import plot
from launcher.runtime.embedded_redis import EmbeddedRedis

OUT = Path(__file__).with_name("out")
QUICK = ("500x1000", "500x100", "5000x20", "domains", "full", "sse")
PLAIN = ("500x1000", "5000x20")
PATHS = ((500, 1000, 4, "/"), (500, 100, 1, "/"))
SWEEP = (100, 250, 500, 1000, 2000, 5000)
SWEEP_RATE = 100  # certificates a second


def main() -> None:
    parser = argparse.ArgumentParser("bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="every scenario, longer, with plots")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    text = page.PAGE.read_text()
    for name, table in benchmarks(full=options.full):
        print(f"\n{name}\n\n{table}", flush=True)
        text = page.replace(text, name, table)
    page.PAGE.write_text(text)


def benchmarks(*, full: bool) -> Iterator[tuple[str, str]]:
    """Run one after the other, each with the machine to itself."""
    yield "machine", machine()
    yield (
        "path",
        path_table([asyncio.run(pipeline.measure(c, r, n, 10, p)) for c, r, n, p in PATHS]),
    )
    results = asyncio.run(fan_out(list(fanout.SCENARIOS) if full else QUICK, 10 if full else 6))
    store("fanout", results)
    yield "fanout", fanout_table(results)
    if full:
        swept = asyncio.run(sweep())
        store("sweep", swept)
        plot(swept, page.PAGE.parent)
    yield "ingest", ingest("rfc6962", 100_000 if full else 50_000)
    yield "proving", proving_table(json.loads(run(["bench.proving"]).splitlines()[-1]))
    yield "filters", filters.measure()
    yield "parse", code(["bench.parse"])
    yield "codec", code(["bench.redis_cost", "--only", "codec"])
    if full:
        yield "wire", asyncio.run(wire.measure(60, 300, 15))
        yield "redis", code(["bench.redis_cost", "--only", "redis"])
        yield "load", load()
        yield "lookup", asyncio.run(lookup.measure(120_000))


async def fan_out(names: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Gateway scenarios, some of them with the baseline behind."""
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        async with EmbeddedRedis(Path(directory)) as redis:
            for name in names:
                scenario = replace(fanout.SCENARIOS[name], seconds=seconds)
                result = await fanout.measure(scenario, redis.url, plain=False)
                if name in PLAIN:
                    result["plain"] = await fanout.measure(scenario, redis.url, plain=True)
                results.append(result)
    return results


async def sweep() -> list[dict[str, Any]]:
    """Cost and latency against clients, for the gateway and the baseline."""
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        async with EmbeddedRedis(Path(directory)) as redis:
            for clients in SWEEP:
                scenario = fanout.Scenario(f"{clients}", clients, SWEEP_RATE, seconds=6)
                for plain in (False, True):
                    result = await fanout.measure(scenario, redis.url, plain=plain)
                    results.append({**result, "baseline": plain})
    return results


def machine() -> str:
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores ({processor}), "
        f"Linux {platform.release()}, Python {platform.python_version()}; every process on it."
    )


def path_table(results: Sequence[dict[str, Any]]) -> str:
    head = ["clients × certificates/s, logs", "delivered", "lost", "gateway", "ingestor", "Redis"]
    head += ["p50 / p95 / p99 / max from `seen`", "p50 / p99 from the log"]
    rows = [
        [
            f"{r['clients']} × {r['rate']}, {r['logs']}",
            f"{r['delivered']:,}",
            str(r["lost"]),
            *(f"{r[part]:.2f} µs" for part in ("gateway_us", "ingestor_us", "redis_us")),
            spread(r["latency_ms"]),
            f"{r['appeared_ms']['p50']:.0f} / {r['appeared_ms']['p99']:.0f} ms",
        ]
        for r in results
    ]
    return page.table(head, rows)


def fanout_table(results: Sequence[dict[str, Any]]) -> str:
    head = ["scenario", "clients", "certificates/s", "lost", "CPU a message"]
    head += ["p50 / p95 / p99 / max", "a connection", "all connected in", "baseline's CPU"]
    rows = [
        [
            f"{r['name']}, `{r['path']}`",
            f"{r['clients']:,}",
            str(r["rate"]),
            str(r["lost"]),
            f"{r['cpu_us']:.2f} µs",
            spread(r["latency_ms"]) if r["latency_ms"] else "–",
            f"{r['bytes_a_connection'] / 1024:.1f} KB",
            f"{r['connect_s']:.2f} s",
            f"{r['plain']['cpu_us'] / r['cpu_us']:.1f} ×" if "plain" in r else "–",
        ]
        for r in results
    ]
    return page.table(head, rows)


def proving_table(result: dict[str, Any]) -> str:
    """An ingestor that proves beside one that does not."""
    head = ["", "CPU an entry of a backlog", "CPU an entry, live", "p50 / p95 / p99 / max, live"]
    rows = [
        [
            f"`integrity: {mode}`",
            f"{result['backlog'][mode]['cpu_us']:.1f} µs",
            f"{live['cpu_us']:.1f} µs",
            spread(live),
        ]
        for mode, live in result["live"].items()
    ]
    alone = f"Alone, in one process: {result['alone_us']:.1f} µs an entry."
    return f"{alone}\n\n{page.table(head, rows)}"


def spread(latency: dict[str, float]) -> str:
    return " / ".join(f"{latency[name]:.0f}" for name in ("p50", "p95", "p99", "max")) + " ms"


def ingest(kind: str, entries: int) -> str:
    """The tables that bench.ingest prints."""
    lines = run(["bench.ingest", f"--kind={kind}", f"--entries={entries}"]).splitlines()
    kept = [line for line in lines if line.startswith("|") or not line or "entries," in line]
    return "\n".join(kept).strip()


def load() -> str:
    """What bench.redis_load prints, without the log of its Redis."""
    lines = run(["bench.redis_load"]).splitlines()
    return "\n".join(line for line in lines if not re.match(r"\d{4}-", line)).strip()


def code(command: Sequence[str]) -> str:
    lines = [line for line in run(command).splitlines() if "[info" not in line]  # of structlog
    return "\n".join(["```", *lines, "```"])


def run(command: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def store(name: str, results: object) -> None:
    (OUT / f"{name}.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
