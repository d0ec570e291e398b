"""A few pages for those who look after a process: one request a connection, spoken by h11.

No web framework: there are three pages without parameters, asked a few times a minute, and the
process has an event loop of its own that must go on whatever is asked here.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import h11
import msgspec
import structlog

_MAX_HEAD: Final = 16 * 1024  # bytes of a request's head
_READ: Final = 4096
_PATIENCE: Final = 10.0  # seconds for a request and its answer together

log = structlog.get_logger(__name__)


class Response(msgspec.Struct, frozen=True):
    """A whole response."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[], Awaitable[Response]]


def text_response(body: str, status: int = 200) -> Response:
    """Plain text."""
    return Response(status, "text/plain; charset=utf-8", body.encode())


def json_response(status: int, value: object) -> Response:
    """A value in JSON."""
    return Response(status, "application/json", msgspec.json.encode(value))


_CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    431: "head_too_large",
    500: "internal_error",
    501: "not_implemented",
}
"""Status -> the code of an error: those of the gateway's public address."""


def error_response(status: int, error: str) -> Response:
    """Return an error in JSON, as the gateway's public address does."""
    return json_response(status, {"error": error, "code": _CODES[status]})


@asynccontextmanager
async def serve(listening: socket.socket, pages: Mapping[str, Page]) -> AsyncIterator[None]:
    """Answer at an address for the length of the block.

    Args:
        listening: from `address.listen`; closed at the end.
        pages: by path.
    """
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_answer(reader, writer, pages))
        connections.add(task)
        task.add_done_callback(connections.discard)

    if listening.family == socket.AF_UNIX:
        server = await asyncio.start_unix_server(connected, sock=listening)
    else:
        server = await asyncio.start_server(connected, sock=listening)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: Mapping[str, Page]
) -> None:
    """Serve one connection. Whatever happens to it stays with it."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
    request = None
    try:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                try:
                    request = await _request(http, reader)
                except h11.RemoteProtocolError as error:
                    status = error.error_status_hint
                    answer = error_response(status, f"Malformed request: {error}")
                else:
                    if request is None:
                        return
                    answer = await _page(request, pages)
                writer.write(_response(http, request, answer))
                await writer.drain()
    finally:
        writer.close()


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Read a request's head; None if the peer has hung up before."""
    while True:
        event = http.next_event()
        if isinstance(event, h11.Request):
            return event
        if isinstance(event, h11.ConnectionClosed):
            return None
        http.receive_data(await reader.read(_READ))


async def _page(request: h11.Request, pages: Mapping[str, Page]) -> Response:
    path = request.target.decode("ascii", "replace").partition("?")[0]
    page = pages.get(path)
    if page is None:
        known = ", ".join(sorted(pages))
        return error_response(404, f"Not found: {path[:200]}. Available: {known}")
    if request.method not in (b"GET", b"HEAD"):
        return error_response(405, f"Method {request.method.decode()} not allowed")
    try:
        return await page()
    except Exception:
        log.exception("admin page failed", path=path)
        return error_response(500, "Internal server error")


def _response(http: h11.Connection, request: h11.Request | None, answer: Response) -> bytes:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Date", formatdate(usegmt=True)),
        ("Connection", "close"),
    ]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    head = h11.Response(
        status_code=answer.status, headers=headers, reason=HTTPStatus(answer.status).phrase
    )
    parts = [http.send(head)]
    if request is None or request.method != b"HEAD":
        parts.append(http.send(h11.Data(data=answer.body)))
    parts.append(http.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)
