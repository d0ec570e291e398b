"""The probe of a child: a request to its admin listener."""

import os
from pathlib import Path
from typing import Final

from certhttp.address import UNIX
from certhttp.client import fetch

_TIMEOUT_SECS: Final = 5.0
_MAX_PATH_BYTES: Final = 100  # the kernel's limit is 108 on Linux, 104 elsewhere


class ProbeAddress:
    """The admin address of one process.

    Args:
        path: of its unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @property
    def fits(self) -> bool:
        """Whether the path is short enough for the kernel."""
        return len(os.fsencode(self._path)) <= _MAX_PATH_BYTES

    @property
    def as_argument(self) -> str:
        """The option of `certstream-server gateway` and `ingest`."""
        return f"--admin={UNIX}{self._path}"

    async def responds(self) -> bool:
        """Return whether the process answers a request for /health, with any status.

        A restart would not help one that is unhealthy because Redis is unavailable.
        """
        return await fetch(f"{UNIX}{self._path}", "/health", _TIMEOUT_SECS) is not None
