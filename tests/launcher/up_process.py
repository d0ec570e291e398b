"""`certstream-server up` as a process of its own, for the tests that need one."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.e2e.processes import Process, free_port
from tests.waiting import until

SCRIPT = str(Path(sys.executable).with_name("certstream-server"))
START = 120.0
STOP = 30.0

# A log without a server, as for a machine without a network.
UNREACHABLE = {"name": "Nowhere", "url": "http://127.0.0.1:1/log"}


class Up:
    """One `up`, with a directory of its own to run and keep state in."""

    def __init__(
        self, directory: Path, temporary: str, *arguments: str, **environment: str
    ) -> None:
        self.port = free_port()
        self.state = directory / "state"
        self.temporary = temporary
        listening = ("--host=127.0.0.1", f"--port={self.port}", f"--state-dir={self.state}")
        command = [SCRIPT, "up", *listening, *arguments]
        self.process = Process(
            f"up-{self.port}", command, directory, {"TMPDIR": temporary, **environment}
        )
        self.descendants: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        return self.process._popen.pid

    def lines(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """Log lines of it and its children."""
        texts = self.process.log.read_text().splitlines()
        lines = [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]
        fields["event"] = event
        return [line for line in lines if fields.items() <= line.items()]

    async def status(self) -> bytes:
        """What `status --json` finds out by the address and the state directory alone."""
        return await self.command("status", "--json")

    async def command(self, *arguments: str) -> bytes:
        """Return the output of a command that knows only the address and the state directory."""
        process = await asyncio.create_subprocess_exec(
            *(SCRIPT, *arguments, "--set=host=127.0.0.1", f"--set=port={self.port}"),
            f"--state-dir={self.state}",
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": self.temporary},
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out
        return out

    async def ready(self) -> None:
        async def answers() -> bool:
            assert self.process.running, str(self.process)
            return await self.health() == "OK"

        await until(answers, f"/health answers\n{self.process}", START)

    async def health(self) -> str | None:
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                return (await client.get(f"http://127.0.0.1:{self.port}/health")).text
            except httpx.TransportError:
                return None

    def remember_descendants(self) -> None:
        self.descendants = psutil.Process(self.pid).children(recursive=True)

    async def all_gone(self) -> None:
        async def gone() -> bool:
            return not any(
                child.is_running() and child.status() != psutil.STATUS_ZOMBIE
                for child in self.descendants
            )

        await until(gone, f"no process is left of {self.descendants}", STOP)


Begin = Callable[..., Up]


def following(*logs: dict[str, str]) -> tuple[str, str]:
    return "--set=log_lists=[]", f"--set=custom_logs={json.dumps(logs)}"
