"""Requests to the admin listener of a process."""

import asyncio
from typing import Final

import httpx
import msgspec

from certhttp.address import UNIX

_MAX_BODY_BYTES: Final = 4 * 1024 * 1024


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
    socket = address.removeprefix(UNIX) if address.startswith(UNIX) else None
    base = "http://process" if socket else f"http://{address}"
    try:
        # There is no TLS to verify: reading the certificates would cost 40 ms each time.
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(transport=transport, timeout=seconds, trust_env=False) as client,
            client.stream("GET", f"{base}{path}") as response,
        ):
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BODY_BYTES:
                    return None
            return ClientResponse(response.status_code, bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return None
