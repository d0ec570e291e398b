"""The pages of the admin address of this process (`--admin`).

/health is for supervisors: the process responds. /ready is for load balancers: it can serve
clients.
"""

import asyncio
from collections.abc import Callable, Mapping

from certbus.streams.reader import StreamReader
from certhttp.server import Page, Response, text_response
from gateway.monitoring.collector import CONTENT_TYPE


def pages(
    metrics: Callable[[], bytes], reader: StreamReader, stop: asyncio.Event
) -> Mapping[str, Page]:
    """Return the pages by path.

    Args:
        metrics: returns the metrics of this process.
        reader: of the streams.
        stop: set when the gateway drains.
    """

    async def health() -> Response:
        return text_response("OK")

    async def ready() -> Response:
        why = _unready(reader, stop)
        return text_response(why or "OK", 503 if why else 200)

    async def own_metrics() -> Response:
        return Response(200, CONTENT_TYPE, metrics())

    return {"/health": health, "/ready": ready, "/metrics": own_metrics}


def _unready(reader: StreamReader, stop: asyncio.Event) -> str | None:
    """Return why the gateway cannot serve new clients; None if it can."""
    if stop.is_set():
        return "stopping: its clients are being sent elsewhere"
    if not reader.connected:
        return f"not following Redis: {reader.last_error or 'not reached yet'}"
    return None
