"""The process: a world on one HTTP port, advanced by the clock."""

import asyncio
import socket
import time
from collections.abc import Callable

import structlog

from certhttp.address import open_port
from simlog.api.routes import Routes
from simlog.http_server import listening
from simlog.spec import Spec
from simlog.world import World

log = structlog.get_logger(__name__)

SUBMISSIONS_PER_STEP = 64
"""Entries made before the event loop serves requests again: about 5 ms."""


async def serve(
    spec: Spec,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    public_url: str | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a world until `stop` is set.

    Args:
        spec: the world.
        host: address to listen on.
        port: 0 takes a free one.
        stop: ends the serving.
        public_url: what clients call this server, where it differs from the address.
        ready: called with that URL once the preloaded entries are there.

    Raises:
        OSError: the address is not available.
    """
    with open_port(host, port) as listener:
        url = (public_url or _url(listener)).rstrip("/")
        world = World(spec)
        await _advance(world)
        routes = Routes(world, url)
        async with (
            listening(routes.respond, listener, routes.load.record_lateness),
            asyncio.TaskGroup() as group,
        ):
            clock = group.create_task(_tick(world))
            log.info("simulated logs started", url=url, logs=list(world.logs), seed=spec.seed)
            if ready is not None:
                ready(url)
            await stop.wait()
            clock.cancel()


async def _tick(world: World) -> None:
    """Publish tree heads at the world's interval."""
    while True:
        await asyncio.sleep(world.spec.interval)
        await _advance(world)


async def _advance(world: World) -> None:
    behind = True
    while behind:
        behind = world.advance(time.time(), SUBMISSIONS_PER_STEP)
        await asyncio.sleep(0)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
