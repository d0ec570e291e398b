"""The processes of a bench: simulated logs, ingestors, gateways; and what they use of the CPU."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from redis.asyncio import Redis

ROOT = Path(__file__).parent.parent

START_TIMEOUT_SECS = 120.0
"""Simulated logs of many certificates take long to start."""


def pss(pid: int) -> int:
    """Return the proportional set size of a process in bytes (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def checkout(revision: str, directory: Path) -> Path:
    """Write the libraries and services of a revision to a directory."""
    command = ("git", "archive", revision, "libs", "services")
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory


def environment_of(tree: Path) -> dict[str, str]:
    """Return the environment of processes that run the code of a tree."""
    paths = os.pathsep.join(str(tree / part) for part in ("libs", "services"))
    return {**os.environ, "PYTHONPATH": paths}


@asynccontextmanager
async def running(
    command: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> AsyncIterator[psutil.Process]:
    """Run Python with these arguments in a process until the context ends; log to `output`.

    Its working directory is `directory`, or ours.
    """
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=log, stderr=log, env=environment, cwd=directory
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def simulated_logs(directory: Path, *options: str) -> AsyncIterator[str]:
    """Run simlog until the context ends; its URL. Write its config.yaml to `directory`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = ["-m", "launcher", "simlog", f"--port={port}", *options]
    async with running(command, directory / "simlog.log"):
        (directory / "config.yaml").write_bytes(await answer(f"{url}/config.yaml"))
        yield url


@asynccontextmanager
async def gateway(
    redis_url: str,
    port: int,
    directory: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[psutil.Process]:
    """Run a gateway on a port of the loopback interface until the context ends."""
    where = [f"--redis-url={redis_url}", "--set=host=127.0.0.1", f"--set=port={port}"]
    command = ["-m", "launcher", "gateway", *where, "--log-level=warn", *options]
    output = directory / f"gateway-{port}.log"
    async with running(command, output, environment) as process:
        await answer(f"http://127.0.0.1:{port}/health")
        yield process


class Clients:
    """The clients of one gateway, in a process of their own (`bench.clients`)."""

    def __init__(self, port: int, path: str, count: int, *options: str) -> None:
        self.path = path
        where = [f"--port={port}", f"--path={path}", f"--clients={count}"]
        self._command = ["-m", "bench.clients", *where, *options]

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._command, stdin=pipe, stdout=pipe
        )
        self.usage = psutil.Process(self._process.pid)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()

    async def connected(self) -> dict[str, Any]:
        """Wait until all are connected; how long that took."""
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return line

    def count_from_here(self) -> None:
        """Discard what has been counted."""
        self._process.send_signal(signal.SIGUSR1)

    async def results(self) -> dict[str, Any]:
        """Disconnect all; what they counted, by kind of client."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        results: dict[str, Any] = json.loads(await self._process.stdout.read())
        return results


async def answer(url: str) -> bytes:
    """Wait until a server answers; return the body.

    Raises:
        TimeoutError: it does not within `START_TIMEOUT_SECS`.
    """
    async with asyncio.timeout(START_TIMEOUT_SECS), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                return (await http.get(url)).raise_for_status().content
            except httpx.TransportError:
                await asyncio.sleep(0.05)


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU time of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def redis_cpu(redis: Redis) -> float:
    """Seconds of CPU time of a Redis so far."""
    info: dict[str, Any] = await redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
