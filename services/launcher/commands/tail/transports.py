"""One connection over WebSocket or SSE: its messages, until it ends or fails."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, WebSocketException

from launcher.terminal import escape_control_chars

Stream = Literal["full", "lite", "domains", "v2"]

#: Errors of a connection after which a client reconnects.
FAILURES: Final = (OSError, WebSocketException, httpx.HTTPError)

_PATHS: Final = {"lite": "/", "full": "/full-stream", "domains": "/domains-only", "v2": "/v2"}
_CONNECT_TIMEOUT_SECS: Final = 10
_READ_TIMEOUT_SECS: Final = 75  # servers send at least a heartbeat every 30 s
_CLOSE_TIMEOUT_SECS: Final = 1  # every message received is printed already
_MAX_ERROR_BYTES: Final = 16 << 10
_MAX_ERROR_CHARS: Final = 300
_LINE_ENDS: Final = re.compile(rb"\r\n|\n|\r")


class RefusedError(Exception):
    """The server rejects the request; retrying would not help."""


class _ErrorBody(msgspec.Struct):
    error: str


def messages(
    url: str,
    stream: Stream,
    cursor: str | None,
    token: str | None = None,
    match: Sequence[str] = (),
    accepted: Callable[[], object] = lambda: None,
) -> AsyncGenerator[bytes]:
    """Return the JSON messages of one connection to a server.

    Args:
        url: ws:// or wss:// for WebSocket, http:// or https:// for SSE. A path in it is kept (a
            server behind a path prefix, or another kind of server); else `stream` selects one.
        stream: its name.
        cursor: id of the last message received.
        token: bearer token.
        match: alternative lines of a filter.
        accepted: called when the server has accepted the connection.

    Raises:
        RefusedError: the server answered with a client error.
        FAILURES: the connection could not be made or broke.
    """
    headers = {} if token is None else {b"Authorization": f"Bearer {token}".encode()}
    added = [("match", line) for line in match]
    if cursor is not None:
        added.append(("cursor", cursor))
    if urlsplit(url).scheme in {"ws", "wss"}:
        return _websocket(_address(url, _PATHS[stream], {}, added), headers, accepted)
    return _sse(_address(url, "/sse", {"stream": stream}, added), headers, accepted)


def strip_query(url: str) -> str:
    """Return a URL without its query, which may hold a token, and without its password."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _address(
    url: str, path: str, query: Mapping[str, str], added: Sequence[tuple[str, str]]
) -> str:
    """Return the URL to request: with a path and its query unless it has a path, and `added`."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    if parts.path not in {"", "/"}:
        path, query = parts.path, {}
    names = {name for name, _ in given}
    pairs = [(name, value) for name, value in query.items() if name not in names]
    if any(name == "cursor" for name, _ in added):
        given = [(name, value) for name, value in given if name != "cursor"]
    text = urlencode([*pairs, *given, *added])
    return urlunsplit((parts.scheme, parts.netloc, path, text, ""))


async def _websocket(
    url: str, headers: Mapping[bytes, bytes], accepted: Callable[[], object]
) -> AsyncGenerator[bytes]:
    try:
        connection = await connect_websocket(
            url,
            # It encodes headers as Latin-1, which gives these bytes.
            additional_headers=[
                (k.decode("latin-1"), v.decode("latin-1")) for k, v in headers.items()
            ],
            open_timeout=_CONNECT_TIMEOUT_SECS,
            max_size=None,
            close_timeout=_CLOSE_TIMEOUT_SECS,
            ping_interval=30,
            ping_timeout=45,
        )
    except WebSocketException as error:
        response = getattr(error, "response", None)
        if response is not None:
            _check_status(response.status_code, url, response.body or b"")
        raise
    accepted()
    try:
        async for message in connection:
            yield message.encode() if isinstance(message, str) else message
    finally:
        await _close(connection)


async def _close(connection: ClientConnection) -> None:
    """Close a connection, and read the messages before the server's close frame.

    While messages are unread, the library does not read from the connection: it would not receive
    the close frame, and wait for its time-out.
    """
    closing = asyncio.ensure_future(connection.close())
    with suppress(ConnectionClosed):
        while True:
            await connection.recv()
    await closing


async def _sse(
    url: str, headers: Mapping[bytes, bytes], accepted: Callable[[], object]
) -> AsyncGenerator[bytes]:
    """Yield the data lines of each server-sent event (WHATWG HTML section 9.2.6).

    An event with an id and no data moves the position of a client: it becomes a heartbeat.
    """
    timeout = httpx.Timeout(_CONNECT_TIMEOUT_SECS, read=_READ_TIMEOUT_SECS)
    async with (
        httpx.AsyncClient(timeout=timeout) as client,
        client.stream("GET", url, headers={b"Accept": b"text/event-stream", **headers}) as response,
    ):
        if response.is_client_error:
            _check_status(response.status_code, url, await _beginning(response))
        if not response.is_success:  # the text of httpx's own error has the whole URL
            raise httpx.HTTPError(f"answers {response.status_code} {response.reason_phrase}")
        accepted()
        data: list[bytes] = []
        event_id = b""
        async for line in _lines(response.aiter_bytes()):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"id:"):
                event_id = line[3:].removeprefix(b" ")
            elif not line:
                if data:
                    yield b"\n".join(data)
                elif event_id:
                    yield heartbeat(event_id.decode("utf-8", "replace"))
                data.clear()
                event_id = b""


def heartbeat(message_id: str) -> bytes:
    """Return a heartbeat with an id, as WebSocket clients get it."""
    return msgspec.json.encode({"message_type": "heartbeat", "id": message_id})


async def _lines(parts: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Yield the lines of an event stream, which end with CR, LF or CRLF only.

    httpx uses `str.splitlines`, which also splits at U+0085, U+2028 and others. A name in a
    certificate may have those.
    """
    rest = b""
    after_cr = False  # the last part ended with CR; an LF at the start of the next belongs to it
    async for part in parts:
        rest += part[1:] if after_cr and part.startswith(b"\n") else part
        after_cr = part.endswith(b"\r") if part else after_cr
        *lines, rest = _LINE_ENDS.split(rest)
        for line in lines:
            yield line


async def _beginning(response: httpx.Response) -> bytes:
    """Return the first bytes of a body, as far as the server sends them in time."""
    body = b""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(_CONNECT_TIMEOUT_SECS):
            async for part in response.aiter_bytes():
                body += part
                if len(body) >= _MAX_ERROR_BYTES:
                    break
    return body


def _check_status(status: int, url: str, body: bytes) -> None:
    """Raise `RefusedError` for a client error, except 408 and 429, after which to retry.

    Args:
        status: of the response.
        url: of the request.
        body: the beginning of the response; `error` in it replaces the name of the status.
    """
    if 400 <= status < 500 and status not in {408, 429}:
        try:
            reason = msgspec.json.decode(body, type=_ErrorBody).error[:_MAX_ERROR_CHARS]
        except (msgspec.DecodeError, UnicodeDecodeError):
            reason = httpx.codes.get_reason_phrase(status)
        hint = " (--token-file FILE sends the token in it)" if status == 401 else ""
        raise RefusedError(
            f"{strip_query(url)} answers {status}: {escape_control_chars(reason)}{hint}"
        )
