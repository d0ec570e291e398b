"""One deployment: simulated logs, a Redis, ingestors, gateways, each a process of its own."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml

from certbus.acl import acl_rule
from certbus.caches.log_lists import LogListCache
from certbus.cluster import LogStatus, snapshot
from certbus.connection import connect
from certbus.errors import UNAVAILABLE
from certbus.keys import STREAMS, Keys
from certbus.logs.registry import LogRegistry
from launcher.runtime.embedded_redis import find_executable
from simlog.api.log_list import Edition
from simlog.oracle import ground_truth
from simlog.oracle.check_message import MessageForm
from simlog.oracle.ground_truth import TruthEntry
from simlog.oracle.oracle import Delivery, Tally
from tests.e2e.processes import CERTSTREAM_SERVER, Process, free_port
from tests.retained import whole
from tests.waiting import until

START = 60.0
FORMS: tuple[MessageForm, ...] = ("full", "lite", "domains")
assert FORMS == STREAMS

# Simulated logs need no pause between requests, and are polled often.
HURRIED = {"poll_interval_ms": 100, "default_operator_rate_limit_ms": 0}


class Site:
    """Starts processes in `directory`, where their logs and configuration stay to be read."""

    def __init__(self, directory: Path) -> None:
        self.processes: list[Process] = []
        self.ingestors: list[Process] = []
        self.gateways: list[str] = []
        self.logs_url = ""
        self._directory = directory
        self.redis_url = ""
        self.redis_admin_url = ""  # of the same Redis, with all rights
        self.redis_executable = ""  # instead of the one that `up` would start
        self._redis_ports: list[int] = []
        self._http = httpx.AsyncClient(trust_env=False, timeout=60)

    async def close(self) -> None:
        """End every process that still runs."""
        await self._http.aclose()
        for process in reversed(self.processes):
            if process.running:
                process.kill()

    def report(self) -> str:
        """The end of every process's log."""
        return "\n".join(map(str, self.processes))

    async def start_redis(self) -> None:
        """Start a Redis that keeps nothing on disk, with a user of the rights of `redis-acl`."""
        rule = acl_rule("primary", "certstream", Keys().prefix, "of-streams")
        port = await self.start_redis_server("redis", rule)
        self.redis_url = f"redis://certstream:of-streams@127.0.0.1:{port}/0"
        self.redis_admin_url = f"redis://127.0.0.1:{port}/0"

    async def start_redis_server(self, name: str, *settings: str) -> int:
        """Start a Redis with these lines of its configuration; returns its port."""
        port = free_port()
        file = self._directory / f"{name}.conf"
        own = (f"port {port}", "bind 127.0.0.1", 'save ""', "maxmemory-policy noeviction")
        file.write_text("\n".join((*own, *settings)) + "\n")
        process = self._start(name, [self.redis_executable or find_executable(), str(file)])
        await self._ready(process, lambda: "Ready to accept connections" in process.log.read_text())
        self._redis_ports.append(port)
        return port

    async def denied_by_redis(self) -> list[dict[str, Any]]:
        """What Redis denied to its users, CONFIG GET apart."""
        denied: list[dict[str, Any]] = []
        for port in self._redis_ports:
            async with connect(f"redis://127.0.0.1:{port}") as client:
                with suppress(*UNAVAILABLE):  # the test has ended it
                    denied += await client.acl_log()
        return [
            each for each in denied if each["reason"] != "auth" and "config" not in each["object"]
        ]

    async def start_logs(self, **options: object) -> None:
        """Start simlog with these options (`rate=100` is `--rate=100`, True no value)."""
        port = free_port()
        arguments = [
            f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
            for name, given in options.items()
            for value in (given if isinstance(given, list) else [given])
        ]
        command = [*CERTSTREAM_SERVER, "simlog", f"--port={port}", *arguments]
        process = self._start("simlog", command)
        self.logs_url = f"http://127.0.0.1:{port}"
        await self._answers(process, f"{self.logs_url}/world.json")

    async def configure(
        self, pick: Callable[[Mapping[str, Any]], bool] = lambda _: True, **settings: object
    ) -> Path:
        """Write a config.yaml that names the simulated logs that `pick` wants; returns its path."""
        config = yaml.safe_load(await self.get(f"{self.logs_url}/config.yaml"))
        for kind in ("custom_logs", "static_logs"):
            config[kind] = [log for log in config[kind] if pick(log)]
        path = self._directory / "config.yaml"
        path.write_text(yaml.safe_dump({**config, "ct_log": HURRIED, **settings}))
        return path

    def save(self, name: str, settings: Mapping[str, object]) -> Path:
        """Write another configuration, without any logs."""
        path = self._directory / name
        nothing: dict[str, object] = {"log_lists": [], "custom_logs": [], "static_logs": []}
        path.write_text(yaml.safe_dump({**nothing, "ct_log": HURRIED, **settings}))
        return path

    async def log_list(self) -> dict[str, str]:
        """The setting of the simulated logs' signed list."""
        key = self._directory / "log_list_pubkey.pem"
        key.write_bytes(await self.get(f"{self.logs_url}/log_list_pubkey.pem"))
        url, signature_url = (f"{self.logs_url}/log_list.{kind}" for kind in ("json", "sig"))
        return {"url": url, "signature_url": signature_url, "key": str(key)}

    async def publish_list(self, edition: Edition) -> None:
        """Replace the edition of that list."""
        url = f"{self.logs_url}/control/lists/log_list"
        answer = await self._http.put(url, content=msgspec.json.encode(edition))
        assert answer.status_code == 200, answer.text

    async def refresh_lists(self) -> None:
        """Make the ingestors fetch their log lists now."""
        client = connect(self.redis_url)
        try:
            await LogListCache(client, Keys()).request_refresh()
        finally:
            await client.aclose()

    async def listed(self) -> int:
        """The number of logs that lists name, by Redis."""
        client = connect(self.redis_url)
        try:
            statuses = await LogListCache(client, Keys()).statuses()
            roll = LogRegistry(client, Keys())
            return sum([len(await roll.listed(status.list_id)) for status in statuses])
        finally:
            await client.aclose()

    async def logs(self) -> list[LogStatus]:
        """The logs as Redis knows them."""
        client = connect(self.redis_url)
        try:
            return (await snapshot(client, Keys())).logs
        finally:
            await client.aclose()

    def start_ingestor(
        self,
        config: Path | None = None,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start one more ingestor, which begins each unknown log at its first entry."""
        name = f"ingestor-{len(self.ingestors) + 1}"
        arguments = ["ingest", "--from-start", *self._common(config), *options]
        process = self._start(name, [*CERTSTREAM_SERVER, *arguments], environment)
        self.ingestors.append(process)
        return process

    async def start_gateway(
        self, *options: str, environment: Mapping[str, str] | None = None
    ) -> str:
        """Start one more gateway; returns its address, as in 127.0.0.1:8080."""
        address = f"127.0.0.1:{free_port()}"
        host, _, port = address.partition(":")
        listen = [f"--host={host}", f"--port={port}"]
        command = [*CERTSTREAM_SERVER, "gateway", *listen, *self._common(), *options]
        process = self._start(f"gateway-{len(self.gateways) + 1}", command, environment)
        await self._answers(process, f"http://{address}/health")
        self.gateways.append(address)
        return address

    def start_process(self, name: str, command: list[str]) -> Process:
        """Start any program."""
        return self._start(name, command)

    def start_up(self, environment: Mapping[str, str], *arguments: str) -> Process:
        """Start `certstream-server up`."""
        number = sum(process.name.startswith("up") for process in self.processes)
        command = [*CERTSTREAM_SERVER, "up", *arguments]
        return self._start(f"up-{number + 1}", command, environment)

    async def get(self, url: str) -> bytes:
        """Fetch a URL that must answer 200."""
        answer = await self._http.get(url)
        assert answer.status_code == 200, f"{url}: {answer.status_code} {answer.text[:500]}"
        return answer.content

    async def put(self, url: str, body: bytes) -> None:
        """Send a body that must be accepted."""
        answer = await self._http.put(url, content=body)
        assert answer.status_code == 200, f"{url}: {answer.status_code} {answer.text[:500]}"

    async def healthy(self, address: str) -> bool:
        """Whether a gateway answers /health with 200."""
        try:
            answer = await self._http.get(f"http://{address}/health")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def everything_ingested(self, but: Collection[str] = ()) -> bool:
        """Whether the logs are complete, and Redis has every entry of them, but for those."""
        world = (await self._http.get(f"{self.logs_url}/world.json")).json()
        sizes = {log["name"]: log["size"] for log in world["logs"] if log["name"] not in but}
        return world["complete"] and sizes == {
            tally.log: tally.next for tally in await self.tallies() if tally.log not in but
        }

    async def record(self) -> list[TruthEntry]:
        """What the logs hold."""
        return ground_truth.read_jsonl(await self.get(f"{self.logs_url}/record"))

    async def tallies(self) -> list[Tally]:
        """The ingestors' counters of each log."""
        return [
            Tally(
                log.name,
                log.start or 0,
                log.next or 0,
                log.published,
                log.duplicates,
                log.rejected,
                log.skipped,
            )
            for log in await self.logs()
        ]

    async def streams(self) -> list[Delivery]:
        """What Redis holds of each stream at one moment, with the ids of the messages."""
        async with connect(self.redis_url) as client:
            streams = await whole(client, Keys())
        return [
            Delivery(
                f"stream:{form}",
                form,
                [
                    message.replace(b"{", b'{"id":"%b-%d",' % (batch.id.encode(), position), 1)
                    for batch in streams[form]
                    for position, message in enumerate(batch.messages)
                ],
            )
            for form in FORMS
        ]

    def _common(self, config: Path | None = None) -> list[str]:
        config = config or self._directory / "config.yaml"
        return [f"--config={config}", f"--redis-url={self.redis_url}", "--log-format=console"]

    def _start(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> Process:
        process = Process(name, command, self._directory, environment)
        self.processes.append(process)
        return process

    async def _answers(self, process: Process, url: str) -> None:
        async def answers() -> bool:
            try:
                return (await self._http.get(url)).status_code == 200
            except httpx.TransportError:
                assert process.running, str(process)
                return False

        await until(answers, f"{process.name} answers", START)

    async def _ready(self, process: Process, ready: Callable[[], bool]) -> None:
        async def condition() -> bool:
            assert process.running, str(process)
            return ready()

        await until(condition, f"{process.name} is ready", START)
