"""Whether a gateway still answers, asked at an address of its own: the others share its port."""

import os
from pathlib import Path
from typing import Final

import httpx

_PATIENCE: Final = 5.0  # seconds for one answer
_LONGEST_PATH: Final = 100  # bytes; the kernel's limit is 108 on Linux, 104 elsewhere


class Address:
    """Where one gateway is asked.

    Args:
        path: of its unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @property
    def possible(self) -> bool:
        """Whether the kernel takes so long a path."""
        return len(os.fsencode(self._path)) <= _LONGEST_PATH

    @property
    def argument(self) -> str:
        """Of `certstream-server gateway`."""
        return f"--admin=unix:{self._path}"

    async def answers(self) -> bool:
        """Ask for its health."""
        transport = httpx.AsyncHTTPTransport(uds=self._path)
        async with httpx.AsyncClient(transport=transport, timeout=_PATIENCE) as client:
            try:
                return (await client.get("http://gateway/health")).is_success
            except httpx.HTTPError:
                return False
