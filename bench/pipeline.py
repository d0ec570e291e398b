"""The whole path, a process each: simulated logs -> ingestor -> Redis -> gateway -> N clients.

    python -m bench.pipeline [--clients 500] [--rate 1000] [--logs 4] [--seconds 10]

Certificates appear evenly in the logs, the ingestor polls each once a second. Everything is
started and connected before the first one appears, and measured until the last one has arrived:
CPU a delivered message of each process, latency from `seen` (the ingestor has fetched the entry)
and from the entry's timestamp in the log (it appeared) to receipt.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis.asyncio import Redis

from bench.fanout import SETTLE, free_port
from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import Keys
from launcher.runtime.embedded_redis import EmbeddedRedis

KEYS = Keys()
LEAD = 10.0  # seconds from the start of the simulated logs to their first certificate
PATIENCE = 20.0  # seconds for what has appeared to be published


@asynccontextmanager
async def running(command: Sequence[str], output: Path) -> AsyncIterator[psutil.Process]:
    """Run a Python module in a process, and end it."""
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, stdout=log, stderr=log
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def answering(url: str) -> bytes:
    """Wait until a server answers; give what it says."""
    async with asyncio.timeout(LEAD), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                return (await http.get(url)).raise_for_status().content
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def all_published(redis: Redis, total: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while sum(log.published for log in (await snapshot(redis, KEYS)).logs) < total:
            await asyncio.sleep(0.1)


async def redis_cpu(redis: Redis) -> float:
    info: dict[str, Any] = await redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def measure(clients: int, rate: int, logs: int, seconds: float, path: str) -> dict[str, Any]:
    """Run it all once."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = await stack.enter_async_context(EmbeddedRedis(home / "redis"))
        redis = connect(server.url)
        stack.push_async_callback(redis.aclose)
        world, port = free_port(), free_port()
        total, begin = int(rate * seconds), time.time() + LEAD
        kinds = [f"--rfc6962={(logs + 1) // 2}", f"--static-ct={logs // 2}"]
        flow = [f"--rate={rate}", f"--total={total}", "--duplicates=0", f"--start={begin}"]
        simlog = ["simlog", f"--port={world}", *kinds, *flow, "--max-entries=1024"]
        await stack.enter_async_context(running(simlog, home / "simlog.ctlog.log"))
        config = home / "config.yaml"
        config.write_bytes(await answering(f"http://127.0.0.1:{world}/config.yaml"))
        common = [f"--config={config}", f"--redis-url={server.url}", "--log-level=warn"]
        gateway = await stack.enter_async_context(
            running(
                ["launcher", "gateway", *common, "--set=host=127.0.0.1", f"--set=port={port}"],
                home / "gateway.log",
            )
        )
        await answering(f"http://127.0.0.1:{port}/health")
        ingestor = await stack.enter_async_context(
            running(["launcher", "ingest", *common], home / "ingestor.log")
        )
        crowd = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("clients.py")),
            *(f"--port={port}", f"--path={path}", f"--clients={clients}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert crowd.stdin is not None
        assert crowd.stdout is not None
        json.loads(await crowd.stdout.readline())
        crowd.send_signal(signal.SIGUSR1)
        assert time.time() < begin, "connecting took longer than the logs waited"
        await asyncio.sleep(begin - 1 - time.time())
        before = cpu(gateway), cpu(ingestor), await redis_cpu(redis)
        await asyncio.sleep(1 + seconds)
        await all_published(redis, total)
        await asyncio.sleep(SETTLE)
        after = cpu(gateway), cpu(ingestor), await redis_cpu(redis)
        crowd.stdin.close()
        received = json.loads(await crowd.stdout.read())["normal"]
        await crowd.wait()
    delivered = received["messages"] * clients - received["lost"]
    spent = [(late - early) * 1e6 for early, late in zip(before, after, strict=True)]
    return {
        "clients": clients,
        "rate": rate,
        "logs": logs,
        "path": path,
        "seconds": seconds,
        "published": total,
        "delivered": delivered,
        "lost": total * clients - delivered,
        "disorder": received["disorder"],
        "gateway_us": spent[0] / max(delivered, 1),
        "ingestor_us": spent[1] / max(delivered, 1),
        "redis_us": spent[2] / max(delivered, 1),
        "ingestor_us_a_certificate": spent[1] / total,
        "redis_us_a_certificate": spent[2] / total,
        "latency_ms": received["latency"],
        "appeared_ms": received["appeared"],
    }


def main() -> None:
    parser = argparse.ArgumentParser("bench.pipeline", description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rate", type=int, default=1000, help="certificates a second")
    parser.add_argument("--logs", type=int, default=4, help="half of them static-ct")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--path", default="/")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(**vars(options)))))


if __name__ == "__main__":
    main()
