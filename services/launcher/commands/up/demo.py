"""The simulated logs of `up --demo`: four logs and their signed list, without a network."""

import asyncio
import http
import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certhttp.client import fetch
from launcher.runtime.runtime_dir import DEMO_LISTS

_TIMEOUT_SECS = 5.0
_CHECK_INTERVAL_SECS = 0.05


class Demo:
    """The simlog of one `up`; its start time is fixed, so that a restart serves the same logs.

    Args:
        directory: gets the key of its log list, and the setting that names the list.
    """

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:  # find a free port for simlog
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._start = time.time()
        self._url = f"http://127.0.0.1:{self._port}"
        self._key = directory / "log_list_pubkey.pem"
        self._lists = directory / DEMO_LISTS

    @property
    def arguments(self) -> Sequence[str]:
        """Arguments of `certstream-server` that start it."""
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
        """Settings of a server that follows its logs and no others."""
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
        """Wait until it answers; store the key of its log list, and the setting for commands."""
        address = f"127.0.0.1:{self._port}"
        while True:
            key = await fetch(address, "/log_list_pubkey.pem", _TIMEOUT_SECS)
            if key is not None and key.status == http.HTTPStatus.OK:
                self._key.write_bytes(key.body)
                new = self._lists.with_suffix(".new")
                new.write_text(json.dumps(self.settings["log_lists"]))
                new.replace(self._lists)
                return
            await asyncio.sleep(_CHECK_INTERVAL_SECS)
