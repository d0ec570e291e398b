"""Requests to the admin listener of a process.

With h11, which the server needs anyway: a gateway without httpx takes 10 MB less.
"""

import asyncio
from typing import Final

import h11
import msgspec

from certhttp.address import UNIX

_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024


class ClientResponse(msgspec.Struct, frozen=True):
    """The response of a process."""

    status: int
    body: bytes


async def fetch(address: str, path: str, seconds: float) -> ClientResponse | None:
    """Get a page of a process.

    Args:
        address: as `address.address_of` gives it.
        path: of the page.
        seconds: for all of it.

    Returns:
        None if there is no answer in time, or one that is too long.
    """
    try:
        async with asyncio.timeout(seconds):
            if address.startswith(UNIX):
                streams = await asyncio.open_unix_connection(address.removeprefix(UNIX))
            else:
                host, _, port = address.rpartition(":")
                streams = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                return await _exchange(*streams, path)
            finally:
                streams[1].transport.abort()
    except (OSError, ValueError, OverflowError, h11.ProtocolError):  # also an address that is none
        return None


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> ClientResponse | None:
    """Send a request on a new connection and return the response; None if it is too long.

    Raises:
        h11.ProtocolError: the path is none, or the response is not HTTP.
        OSError: the connection broke.
    """
    http = h11.Connection(h11.CLIENT)
    headers = [("host", "process"), ("connection", "close")]
    writer.write(http.send(h11.Request(method="GET", target=path, headers=headers)) or b"")
    http.send(h11.EndOfMessage())
    status, body = 0, bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MAX_BODY_BYTES:
                return None
    return ClientResponse(status, bytes(body))
