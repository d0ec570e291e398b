"""What is answered at the address of this process alone (`--admin`).

Whoever supervises it asks whether it still answers (/health); whoever sends it clients, whether it
can serve them (/ready).
"""

import asyncio
from collections.abc import Callable, Mapping

from certbus.streams.reader import StreamReader
from certhttp.server import Page, Response, text_response
from gateway.monitoring.collector import CONTENT_TYPE


def pages(
    metrics: Callable[[], bytes], follower: StreamReader, stop: asyncio.Event
) -> Mapping[str, Page]:
    """The pages, by path.

    Args:
        metrics: writes those of this process.
        follower: of the streams.
        stop: set when clients are being sent elsewhere.
    """

    async def health() -> Response:
        return text_response("OK")

    async def ready() -> Response:
        why = _unready(follower, stop)
        return text_response(why or "OK", 503 if why else 200)

    async def measured() -> Response:
        return Response(200, CONTENT_TYPE, metrics())

    return {"/health": health, "/ready": ready, "/metrics": measured}


def _unready(follower: StreamReader, stop: asyncio.Event) -> str | None:
    """Why new clients should go elsewhere; None if they need not."""
    if stop.is_set():
        return "stopping: its clients are being sent elsewhere"
    if not follower.connected:
        return f"not following Redis: {follower.last_error or 'not reached yet'}"
    return None
