"""What clients receive that resume at once: certificates a second, and CPU time of the gateway.

    python -m bench.resume [--clients 300] [--certificates 12000] [--revision HEAD~1]

Certificates are published in full (`bench.fanout`). Then clients in another process connect with
the id of the first one, so that Redis has what they lack: it is more than the ring of the gateway.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench.fanout import Source
from bench.processes import Clients, answer, checkout, cpu, environment_of, free_port, gateway
from launcher.runtime.embedded_redis import EmbeddedRedis

PREFIX = "resume-"
RATE = 4000
MAX_SECS = 300.0
_SENT = "certstream_gateway_messages_sent_total{"


async def resume(clients: int, certificates: int, revision: str | None) -> int:
    """Measure one gateway, and print what clients received.

    Args:
        clients: connected at once.
        certificates: that each lacks.
        revision: of the gateway's code; None: this one.

    Returns:
        1 if a client lacks a message, else 0.
    """
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resume-")))
        enter, port = stack.enter_async_context, free_port()
        environment = environment_of(checkout(revision, home)) if revision else None
        server = await enter(EmbeddedRedis(home / "redis"))
        source = await enter(Source(server.url, PREFIX))
        while len(source.published) < certificates:
            await source.run(min(RATE, certificates), 4, 1)
        settings = ("--set=connection_limit.enabled=false", f"--set=redis_prefix={PREFIX}")
        process = await enter(gateway(server.url, port, home, *settings, environment=environment))
        lacking = len(source.published) - 1
        used, began = cpu(process), time.perf_counter()
        crowd = await enter(Clients(port, f"/full-stream?cursor={source.published[0]}", clients))
        await crowd.connected()
        while await _sent(port) < lacking * clients:
            assert time.perf_counter() - began < MAX_SECS, "the clients do not receive everything"
            await asyncio.sleep(0.2)
        seconds, used = time.perf_counter() - began, cpu(process) - used
        await asyncio.sleep(1)  # what is in the buffers of the kernel
        received = (await crowd.results())["normal"]
    each, megabytes = lacking / seconds, received["bytes"] / seconds / 1e6
    print(
        f"{clients} clients received {received['messages']} of {lacking} messages each in "
        f"{seconds:.1f} s: {each:.0f} a second, {megabytes:.0f} MB/s in all, with {used:.1f} s "
        f"of CPU; {received['lost']} lost"
    )
    return int(received["lost"] > 0 or received["messages"] != lacking)


async def _sent(port: int) -> float:
    """Return how many messages a gateway has sent."""
    text = (await answer(f"http://127.0.0.1:{port}/metrics")).decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(_SENT))


def main() -> int:
    parser = argparse.ArgumentParser("bench.resume", description=__doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--certificates", type=int, default=12_000)
    parser.add_argument("--revision", help="of the code of the gateway (this one)")
    chosen = parser.parse_args()
    return asyncio.run(resume(chosen.clients, chosen.certificates, chosen.revision))


if __name__ == "__main__":
    sys.exit(main())
