"""Simulated logs in a process, a Redis, and ingestors that bring one to the other."""

import asyncio
import json
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml
from redis.asyncio import Redis

from certbus.caches.log_lists import LogListCache
from certbus.cluster import LogStatus, snapshot
from certbus.keys import Keys
from certconf import Config, ConfigHolder, load
from gateway import app as gateway
from ingestor.app import serve
from launcher.runtime.embedded_redis import EmbeddedRedis
from tests.e2e.processes import Process, free_port
from tests.gateway.client_helpers import websocket
from tests.retained import history, newest
from tests.waiting import until

HURRIED: Mapping[str, object] = {
    "ct_log.poll_interval_ms": 50,
    "ct_log.retry_initial_delay_ms": 20,
    "ct_log.retry_max_delay_ms": 200,
    "ct_log.health_check_interval_secs": 0.5,
    "ct_log.integrity": "enforce",
    "ct_log.partial_tile_wait_secs": 0,
}
ONCE: Mapping[str, object] = {
    "ct_log.start_index": 0,
    "ct_log.retry_max_attempts": 1,
    "ct_log.default_operator_rate_limit_ms": 0,
}


class Simlog:
    """Simulated logs in a process of their own."""

    def __init__(self, directory: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._directory = directory
        self._process: Process | None = None

    async def start(self, **options: object) -> None:
        port = self.url.rpartition(":")[2]
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "simlog", f"--port={port}", *arguments]
        self._process = Process("simlog", command, self._directory)
        await until(self._answers, what="simlog")

    def stop(self) -> None:
        if self._process is not None and self._process.running:
            self._process.kill()

    async def restart(self) -> None:
        assert self._process is not None
        self._process.restart()
        await until(self._answers, what="simlog")

    async def sizes(self) -> dict[str, int]:
        async with httpx.AsyncClient(trust_env=False) as http:
            world = (await http.get(f"{self.url}/world.json")).json()
        return {log["name"]: log["size"] for log in world["logs"]}

    async def config(self) -> Path:
        """A config.yaml that names exactly these logs."""
        return await self.save("config.yaml")

    @staticmethod
    def settings(config: Path) -> dict[str, list[object]]:
        """The logs that a config.yaml names."""
        read = yaml.safe_load(config.read_text())
        return {kind: read.get(kind) or [] for kind in ("custom_logs", "static_logs")}

    async def save(self, name: str) -> Path:
        """Keep what is served under that name as a file."""
        async with httpx.AsyncClient(trust_env=False) as http:
            content = (await http.get(f"{self.url}/{name}")).content
        path = self._directory / name
        path.write_bytes(content)
        return path

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.running, str(self._process)
        try:
            await self.sizes()
        except httpx.TransportError:
            return False
        return True


class Ingestor:
    """One `serve`, in this process."""

    def __init__(self, config: Config, name: str) -> None:
        self.present = ConfigHolder(config)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(
            serve(config, self._stop, worker_id=name, present=self.present)
        )

    @property
    def has_ended(self) -> bool:
        return self._task.done()

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._stop.set()
        async with asyncio.timeout(5):
            await self._task

    async def close(self) -> None:
        self._stop.set()
        await asyncio.gather(self._task, return_exceptions=True)


class Site:
    """A Redis, simulated logs, and any number of ingestors that follow them."""

    def __init__(self, server: EmbeddedRedis, redis: Redis, simlog: Simlog) -> None:
        self.server = server
        self.redis = redis
        self.simlog = simlog
        self.keys = Keys()
        self.shelf = LogListCache(redis, self.keys)
        self.stack = AsyncExitStack()

    async def withhold(self, *indexes: int) -> None:
        """Let each log answer requests for these entries, and only those, with an error."""
        faults = [{"kind": "status", "index": index, "only": "entries"} for index in indexes]
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"{self.simlog.url}/control/*/faults"
            (await http.put(url, json=faults)).raise_for_status()

    async def ingestor(self, name: str, **overrides: object) -> Ingestor:
        settings = {**HURRIED, "redis_url": self.server.url, **overrides}
        return self._run(load(await self.simlog.config(), {}, settings), name)

    async def odd_ingestor(self, logs: Mapping[str, object], **overrides: object) -> Ingestor:
        """One that follows these logs from their start, and no simulated ones."""
        settings = {**HURRIED, **ONCE, "redis_url": self.server.url, "log_lists": [], **logs}
        return self._run(load(None, {}, {**settings, **overrides}), "odd")

    def _run(self, config: Config, name: str) -> Ingestor:
        ingestor = Ingestor(config, name)
        self.stack.push_async_callback(ingestor.close)
        return ingestor

    async def logs(self) -> dict[str, LogStatus]:
        return {log.name: log for log in (await snapshot(self.redis, self.keys)).logs}

    async def complete(self) -> bool:
        """Whether Redis has everything the logs had a moment ago."""
        sizes = await self.simlog.sizes()
        logs = await self.logs()
        return all(name in logs and (logs[name].next or 0) >= size for name, size in sizes.items())

    async def holders(self) -> dict[str, int]:
        """The number of logs that each live worker reports, by its name in the test."""
        workers = (await snapshot(self.redis, self.keys)).workers
        return {w.id.rpartition("-")[0]: int(w.fields["logs"]) for w in workers}

    async def published(self) -> list[tuple[str, int, str]]:
        """Log URL, index and SHA-256 of every message of the lite stream, in order."""
        found = []
        after = "0-0"
        while batches := await history(self.redis, self.keys, "lite", after, 100):
            after = batches[-1].id
            for batch in batches:
                for text in batch.messages:
                    data = msgspec.json.decode(text)["data"]
                    log = data["source"]["name"]
                    found.append((log, data["cert_index"], data["leaf_cert"]["sha256"]))
        return found

    async def streamed_v2(self) -> list[dict[str, Any]]:
        """Every retained message, as a client of a gateway receives it from `/v2`."""
        last = await newest(self.redis, self.keys, "lite")
        assert last is not None
        settings = {"redis_url": self.server.url, "streams.v2": True, "host": "127.0.0.1"}
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        listener = socket.create_server(("127.0.0.1", 0), reuse_port=True)
        serving = asyncio.create_task(
            gateway.serve(load(None, {}, settings), stop, listener=listener, ready=ready.set_result)
        )
        try:
            await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
            url = ready.result().replace("http", "ws")
            found: list[dict[str, Any]] = []
            async with asyncio.timeout(60), websocket(f"{url}/v2?cursor=0") as client:
                while not found or found[-1]["id"] != f"{last.id}-{len(last.messages) - 1}":
                    message = json.loads(await client.recv())
                    if message["message_type"] != "heartbeat":
                        found.append(message)
            return found
        finally:
            stop.set()
            await serving
