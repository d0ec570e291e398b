"""The whole path, a process each: simulated logs -> ingestor -> Redis -> gateway -> N clients.

    python -m bench.pipeline [--clients 500] [--rate 1000] [--logs 4] [--seconds 10]

Certificates appear evenly in the logs, the ingestor polls each once a second. The clients connect,
then the logs and the ingestor start. It is measured from before the first certificate appears until
the last one has arrived:
CPU a delivered message of each process, latency from `seen` (the ingestor has fetched the entry)
and from the entry's timestamp in the log (it appeared) to receipt.
"""

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from bench.fanout import SETTLE_SECS
from bench.processes import (
    Clients,
    cpu,
    free_port,
    gateway,
    redis_cpu,
    running,
    simulated_logs,
)
from certbus.cluster import snapshot
from certbus.connection import connect
from certbus.keys import Keys
from launcher.runtime.embedded_redis import EmbeddedRedis

KEYS = Keys()
LEAD_SECS = 10.0  # in which the simulated logs and the ingestor start
PUBLISH_TIMEOUT_SECS = 20.0


async def all_published(redis: Redis, total: int) -> None:
    async with asyncio.timeout(PUBLISH_TIMEOUT_SECS):
        while sum(log.published for log in (await snapshot(redis, KEYS)).logs) < total:
            await asyncio.sleep(0.1)


async def measure(
    clients: int, rate: int, logs: int, seconds: float, path: str, lead: float = LEAD_SECS
) -> dict[str, Any]:
    """Run the path once."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = await stack.enter_async_context(EmbeddedRedis(home / "redis"))
        redis = connect(server.url)
        stack.push_async_callback(redis.aclose)
        total, port = int(rate * seconds), free_port()
        serving = await stack.enter_async_context(gateway(server.url, port, home))
        crowd = await stack.enter_async_context(Clients(port, path, clients))
        await crowd.connected()
        begin = time.time() + lead
        kinds = [f"--rfc6962={(logs + 1) // 2}", f"--static-ct={logs // 2}"]
        flow = [f"--rate={rate}", f"--total={total}", "--duplicates=0", f"--start={begin}"]
        await stack.enter_async_context(simulated_logs(home, *kinds, *flow, "--max-entries=1024"))
        where = [f"--config={home / 'config.yaml'}", f"--redis-url={server.url}"]
        ingestor = await stack.enter_async_context(
            running(["-m", "launcher", "ingest", *where, "--log-level=warn"], home / "ingestor.log")
        )
        crowd.count_from_here()
        assert time.time() + 1 < begin, f"starting took longer than {lead} s; set --lead"
        await asyncio.sleep(begin - 1 - time.time())
        before = cpu(serving), cpu(ingestor), await redis_cpu(redis)
        await asyncio.sleep(1 + seconds)
        await all_published(redis, total)
        await asyncio.sleep(SETTLE_SECS)
        after = cpu(serving), cpu(ingestor), await redis_cpu(redis)
        received = (await crowd.results())["normal"]
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
    parser.add_argument(
        "--lead",
        type=float,
        default=LEAD_SECS,
        help="seconds for logs and ingestor to start",
    )
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(**vars(options)))))


if __name__ == "__main__":
    main()
