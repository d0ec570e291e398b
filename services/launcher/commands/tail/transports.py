"""One connection each: the messages of a stream as they come, until it ends or fails."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import suppress
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, WebSocketException

Stream = Literal["full", "lite", "domains"]

#: What ends a connection that is worth trying again.
FAILURES: Final = (OSError, WebSocketException, httpx.HTTPError)

_PATHS: Final = {"lite": "/", "full": "/full-stream", "domains": "/domains-only"}
_CONNECT_SECONDS: Final = 10
#: Servers say something at least every 30 s; silence beyond this means that nobody is there.
_SILENCE_SECONDS: Final = 75
#: For a server to answer the closing handshake. It is not needed: what came is printed already.
_CLOSE_SECONDS: Final = 1
_ENDS: Final = re.compile(rb"\r\n|\n|\r")


class RefusedError(Exception):
    """The server was reached and does not offer what was asked; trying again would not help."""


def messages(
    url: str, stream: Stream, cursor: str | None, token: str | None = None
) -> AsyncGenerator[bytes]:
    """The JSON messages of one connection to a server.

    Args:
        url: ws:// or wss:// for WebSocket, http:// or https:// for SSE. A path of its own is kept
            (a server behind a path prefix, or another kind of server); else `stream` chooses.
        stream: which of the three.
        cursor: the id of the last message already had.
        token: to be let in with.

    Raises:
        RefusedError: the server answered with a client error.
        FAILURES: the connection could not be made or broke.
    """
    headers = {} if token is None else {b"Authorization": f"Bearer {token}".encode()}
    if urlsplit(url).scheme in {"ws", "wss"}:
        return _websocket(_address(url, _PATHS[stream], {}, cursor), headers)
    return _sse(_address(url, "/sse", {"stream": stream}, cursor), headers)


def _address(url: str, path: str, query: dict[str, str], cursor: str | None) -> str:
    parts = urlsplit(url)
    if parts.path not in {"", "/"}:
        path, query = parts.path, {}
    query = {**query, **dict(parse_qsl(parts.query))}
    if cursor is not None:
        query["cursor"] = cursor
    return urlunsplit((parts.scheme, parts.netloc, path, urlencode(query), ""))


async def _websocket(url: str, headers: Mapping[bytes, bytes]) -> AsyncGenerator[bytes]:
    try:
        connection = await connect_websocket(
            url,
            # It writes headers as Latin-1: these bytes as they are.
            additional_headers=[
                (k.decode("latin-1"), v.decode("latin-1")) for k, v in headers.items()
            ],
            open_timeout=_CONNECT_SECONDS,
            max_size=None,
            close_timeout=_CLOSE_SECONDS,
            ping_interval=30,
            ping_timeout=45,
        )
    except WebSocketException as error:
        response = getattr(error, "response", None)
        if response is not None:
            _check_status(response.status_code, url)
        raise
    try:
        async for message in connection:
            yield message.encode() if isinstance(message, str) else message
    finally:
        await _leave(connection)


async def _leave(connection: ClientConnection) -> None:
    """Close a connection, and read what stands before the server's answer to that.

    While messages wait to be read, the library reads no more of the connection: it would not see
    the answer, and wait for it until its time-out.
    """
    closing = asyncio.ensure_future(connection.close())
    with suppress(ConnectionClosed):
        while True:
            await connection.recv()
    await closing


async def _sse(url: str, headers: Mapping[bytes, bytes]) -> AsyncGenerator[bytes]:
    """Server-sent events: of each event its data lines (WHATWG HTML section 9.2.6)."""
    timeout = httpx.Timeout(_CONNECT_SECONDS, read=_SILENCE_SECONDS)
    async with (
        httpx.AsyncClient(timeout=timeout) as client,
        client.stream("GET", url, headers={b"Accept": b"text/event-stream", **headers}) as response,
    ):
        _check_status(response.status_code, url)
        response.raise_for_status()
        data: list[bytes] = []
        async for line in _lines(response.aiter_bytes()):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data.clear()


async def _lines(parts: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Lines of an event stream: they end with CR, LF or CRLF, and with nothing else.

    `str.splitlines`, by which httpx goes, also ends one at U+0085, U+2028 and others, which may be
    part of a name in a certificate.
    """
    rest = b""
    after_cr = False  # the last part ended with CR: LF at the start of the next belongs to it
    async for part in parts:
        rest += part[1:] if after_cr and part.startswith(b"\n") else part
        after_cr = part.endswith(b"\r") if part else after_cr
        *lines, rest = _ENDS.split(rest)
        for line in lines:
            yield line


def _check_status(status: int, url: str) -> None:
    """Most client errors stay what they are; 408 and 429 ask to come back."""
    if 400 <= status < 500 and status not in {408, 429}:
        where = url.partition("?")[0]  # the query may hold a token
        raise RefusedError(f"{where} answers {status}: {httpx.codes.get_reason_phrase(status)}")
