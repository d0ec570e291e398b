"""A primary, two replicas and three sentinels, whose network a test may divide."""

import asyncio
import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Self, get_args
from urllib.parse import urlencode

from certbus.acl import acl_rule
from certbus.connection import connect
from certbus.errors import ConnectionFailed
from certbus.keys import Keys
from certbus.sentinel import Sentinels, SentinelURL
from gateway.delivery.history import SharedRead
from launcher.runtime.embedded_redis import find_executable
from tests.e2e.authority import Authority, has_tls
from tests.e2e.processes import Process, free_port
from tests.e2e.site import Site
from tests.waiting import until

How = Literal["killed", "stopped", "cut off"]
"""What happens to a primary."""

KINDS: tuple[How, ...] = get_args(How)
SERVICE = "streams"
ADMIN = ":of-sentinels"
REDIS = (
    "requirepass of-redis",
    "masterauth of-redis",
    'save ""',
    "appendonly no",
    "min-replicas-to-write 1",
    "min-replicas-max-lag 10",
    "repl-diskless-sync-delay 0",
    acl_rule("primary", "certstream", Keys().prefix, "of-redis"),
)
SENTINEL = (
    f"requirepass {ADMIN[1:]}",
    f"sentinel sentinel-pass {ADMIN[1:]}",
    acl_rule("sentinel", "certstream", "", "of-sentinels"),
)

_COLLECT_SECS: Final = 0.2


class Network:
    """Forwards the connections to each server; holds those between the parts of a division.

    A server is known by the port at which this class listens for it.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._part: frozenset[str] = frozenset()
        self._owners: dict[int, str] = {}  # ports of clients; while the network is divided
        self._owners_known = SharedRead(self._add_owners)
        self._healed = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self, name: str, target: int) -> int:
        """Forward to the port `target` of the process `name`; returns the port for others."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            port = writer.get_extra_info("peername")[1]
            try:
                if self._part:
                    await self._owners_known()
                await self._forward((port, name), target, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass  # one side has reset the connection, or the test has ended
            finally:
                writer.close()
                self._owners.pop(port, None)
                self._tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def divide(self, part: Collection[str]) -> None:
        """Hold everything between the processes `part` and all others."""
        self._part = frozenset(part)
        self._owners = self._find_owners()
        self._healed.clear()

    def heal(self) -> None:
        """Forward everything, also what was held."""
        self._part = frozenset()
        self._healed.set()

    async def _add_owners(self) -> None:
        """Look up the owners of new connections.

        The pause lets many wait for one look-up, which reads what all processes of the machine have
        open: clients of a primary that is cut off connect again and again.
        """
        await asyncio.sleep(_COLLECT_SECS)
        self._owners |= self._find_owners()

    def _find_owners(self) -> dict[int, str]:
        """Return the ports of all TCP connections of the processes (proc(5), /proc/net/tcp)."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        ports = {f"socket:[{line[9]}]": int(line[1].partition(":")[2], 16) for line in lines}
        owners = {}
        for process in self._site.processes:
            for file in Path(f"/proc/{process.pid}/fd").glob("*"):
                with suppress(OSError):  # it has been closed
                    if port := ports.get(str(file.readlink())):
                        owners[port] = process.name
        return owners

    async def _together(self, pair: tuple[int, str]) -> None:
        port, server = pair
        while (self._owners.get(port) in self._part) != (server in self._part):
            await self._healed.wait()

    async def _forward(
        self,
        pair: tuple[int, str],
        target: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            data = b"."
            while data:
                data = await source.read(65536)
                await self._together(pair)
                if data:
                    target.write(data)
                    await target.drain()
            target.close()

        await self._together(pair)
        there = await asyncio.open_connection("127.0.0.1", target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, there[1]))
                group.create_task(copy(there[0], writer))
        except* OSError:
            pass
        finally:
            there[1].close()


class Watched:
    """Three Redis servers and three sentinels, with TLS where Redis has it.

    Args:
        site: starts the processes.
        directory: for what they write; each has a folder of its name there.
        network: between all processes.
        executable: redis-server with these `settings` more and no TLS; "" for the one that `up`
            would start.
        down_after_ms: how long a primary gives no answer before the sentinels choose another.

    Attributes:
        url: for clients; without passwords, which are in the two files.
        admin_url: of the same Redis, with all rights.
        servers: the processes of Redis by their port.
        password_file: has the password of Redis.
        sentinel_password_file: has the password of the sentinels.
    """

    def __init__(
        self,
        site: Site,
        directory: Path,
        network: Network,
        executable: str = "",
        settings: Collection[str] = (),
        down_after_ms: int = 1000,
    ) -> None:
        self._site = site
        self._directory = directory
        self._network = network
        self._executable = executable or find_executable()
        self._settings = (*REDIS, *settings)
        self._down_after_ms = down_after_ms
        self._authority = Authority(directory) if not executable and has_tls() else None
        self._sentinels: list[int] = []  # their own ports
        self._options = {"ssl_ca_certs": self._authority.file} if self._authority else {}
        self.url = self.admin_url = ""
        self.servers: dict[int, Process] = {}
        self.password_file = directory / "redis-password"
        self.password_file.write_text("of-redis\n")
        self.sentinel_password_file = directory / "sentinel-password"
        self.sentinel_password_file.write_text("of-sentinels\n")

    async def start(self) -> None:
        """Start everything and wait until the sentinels know it."""
        primary, process = await self._start("redis-1", "replica-announce", self._settings)
        self.servers[primary] = process
        for name in ("redis-2", "redis-3"):
            follow = (*self._settings, f"replicaof 127.0.0.1 {primary}")
            port, self.servers[port] = await self._start(name, "replica-announce", follow)
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2",
            f"sentinel auth-pass {SERVICE} of-redis",
            f"sentinel down-after-milliseconds {SERVICE} {self._down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 6000",
        )
        ports = [
            (await self._start(f"sentinel-{number}", "sentinel announce", (*SENTINEL, *watch)))[0]
            for number in range(1, 4)
        ]
        self.url = self._url("certstream@", ports, sentinel_username="certstream")
        own = self._sentinels
        self.admin_url = self._url(":of-redis@", own, sentinel_password=ADMIN[1:])
        await until(self._complete, "sentinels that know two replicas and each other", 120)

    def url_of(self, port: int) -> str:
        """Return the URL of one of the servers, with all rights."""
        scheme = "rediss" if self._authority else "redis"
        return f"{scheme}://:of-redis@127.0.0.1:{port}?{urlencode(self._options)}"

    async def primary(self) -> int:
        """Return the port of the present primary; 0 if no sentinel answers in time."""
        with suppress(ConnectionFailed):
            return (await Sentinels(SentinelURL(self.admin_url), connect).locate())[1]
        return 0

    async def fail_over(self, how: How, seconds: float, part: Collection[str]) -> None:
        """Take the primary away until `seconds` after another one was chosen.

        Args:
            how: what happens to it.
            seconds: how long it lasts.
            part: processes on its side of the network, where it is cut off.
        """
        before = 0
        while not before:
            before = await self.primary()
        server = self.servers[before]
        match how:
            case "killed":
                server.kill()
            case "stopped":
                server.send(signal.SIGSTOP)
            case "cut off":
                self._network.divide({server.name, *part})

        async def is_another() -> bool:
            return await self.primary() not in (0, before)

        try:
            await until(is_another, "another primary", 120)
            await asyncio.sleep(seconds)
        finally:
            match how:
                case "killed":
                    server.restart()
                case "stopped":
                    server.send(signal.SIGCONT)
                case "cut off":
                    self._network.heal()

    async def change_sentinel_password(self, password: str) -> None:
        """Replace the password of the user of the clients, in its file, too."""
        for port in self._sentinels:
            async with connect(self._sentinel(port)) as client:
                await client.execute_command(  # type: ignore[no-untyped-call]
                    "ACL", "SETUSER", "certstream", "resetpass", f">{password}"
                )
        self.sentinel_password_file.write_text(f"{password}\n")

    def _url(self, user: str, ports: Collection[int], **options: object) -> str:
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        scheme = "rediss" if self._authority else "redis"
        query = urlencode({**options, **self._options})
        return f"{scheme}+sentinel://{user}{addresses}/{SERVICE}/0?{query}"

    def _sentinel(self, port: int) -> str:
        scheme = "rediss" if self._authority else "redis"
        return f"{scheme}://{ADMIN}@127.0.0.1:{port}?{urlencode(self._options)}"

    async def _start(self, name: str, announce: str, lines: Collection[str]) -> tuple[int, Process]:
        own = free_port()
        port = await self._network.listen(name, own)
        data = self._directory / name
        data.mkdir()
        settings = [
            *lines,
            "bind 127.0.0.1",
            f"dir {data}",
            f"{announce}-ip 127.0.0.1",
            f"{announce}-port {port}",
        ]
        if self._authority is None:
            settings.append(f"port {own}")
        else:
            certificate, key = self._authority.issue(name)
            settings += [
                "port 0",
                f"tls-port {own}",
                f"tls-cert-file {certificate}",
                f"tls-key-file {key}",
                f"tls-ca-cert-file {self._authority.file}",
                "tls-auth-clients no",
                "tls-replication yes",
            ]
        file = self._directory / f"{name}.conf"
        file.write_text("\n".join(settings) + "\n")
        command = [self._executable, str(file)]
        if announce.startswith("sentinel"):
            command.append("--sentinel")
            self._sentinels.append(own)
        process = self._site.start_process(name, command)
        await until(lambda: "Running mode" in process.log.read_text(), name)
        return port, process

    async def _complete(self) -> bool:
        for port in self._sentinels:
            async with connect(self._sentinel(port)) as client:
                (state,) = await client.execute_command("SENTINEL", "MASTERS")  # type: ignore[no-untyped-call]
            fields = dict(zip(state[::2], state[1::2], strict=True))
            if (fields[b"num-slaves"], fields[b"num-other-sentinels"]) != (b"2", b"2"):
                return False
        return True
