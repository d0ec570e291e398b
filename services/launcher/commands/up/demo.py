"""The simulated world of `up --demo`: four logs, their signed list, and nothing of the network."""

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx


class Demo:
    """A world of its own for one `up`; begun now, so that a restarted simlog serves it again.

    Args:
        directory: for the key of its log list.
    """

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:  # simlog takes the port that is free now
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._start = time.time()
        self._url = f"http://127.0.0.1:{self._port}"
        self._key = directory / "log_list_pubkey.pem"

    @property
    def arguments(self) -> Sequence[str]:
        """Of `certstream-server`, to serve the world."""
        return (
            "simlog",
            f"--port={self._port}",
            f"--start={self._start!r}",
            "--rfc6962=2",
            "--static-ct=2",
            "--rate=40",
            "--preload=500",
            "--duplicates=0.3",
        )

    @property
    def settings(self) -> dict[str, Any]:
        """That make a server follow this world's logs and no others."""
        return {
            "log_lists": [
                {
                    "url": f"{self._url}/log_list.json",
                    "signature_url": f"{self._url}/log_list.sig",
                    "key": str(self._key),
                }
            ],
            "custom_logs": [],
            "static_logs": [],
        }

    async def wait(self) -> None:
        """Until the world is served; keeps the key of its log list."""
        async with httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    response = await client.get(f"{self._url}/log_list_pubkey.pem")
                    response.raise_for_status()
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)
                else:
                    self._key.write_bytes(response.content)
                    return
