"""Whether a process still answers, asked at an address of its own."""

import os
from pathlib import Path
from typing import Final

from certhttp.address import UNIX
from certhttp.client import fetch

_PATIENCE: Final = 5.0  # seconds for one answer
_LONGEST_PATH: Final = 100  # bytes; the kernel's limit is 108 on Linux, 104 elsewhere


class ProbeAddress:
    """Where one process is asked.

    Args:
        path: of its unix socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @property
    def fits(self) -> bool:
        """Whether the kernel takes so long a path."""
        return len(os.fsencode(self._path)) <= _LONGEST_PATH

    @property
    def as_argument(self) -> str:
        """Of `certstream-server gateway` and `ingest`."""
        return f"--admin={UNIX}{self._path}"

    async def responds(self) -> bool:
        """Ask for its health: whatever it answers, it is not hung.

        One that is unhealthy because Redis is away would not be better off in a new process.
        """
        return await fetch(f"{UNIX}{self._path}", "/health", _PATIENCE) is not None
