"""Clients in a process of their own, which write down everything that happens to them.

Each is what a user would write: it reads, and when its connection ends, however it ends, it
connects to any gateway with the id of the newest message it has. Three habits:

    steady    stays connected to its gateway
    hopping   leaves at random, in an orderly way or without a word, and comes back
    slow      stops reading now and then, longer than the buffers between last

Some have a filter, some negotiate compression, and some are processes: `tail --cursor-file`, which
is killed where another client leaves (`tail.py`).

SIGUSR1 ends all habits: from then on every client only reads. SIGTERM ends the process.

Usage: python -m tests.adversity.clients PARENT_PID DIRECTORY SEED GATEWAY...
"""

import asyncio
import contextlib
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import httpx
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from launcher.runtime.supervisor import exit_with_parent
from simlog.oracle.check_message import MessageForm
from tests.adversity import tail
from tests.e2e.clients import PATHS, events
from tests.waiting import until

Protocol = Literal["websocket", "sse", "tail"]
Habit = Literal["steady", "hopping", "slow"]

TEXTS: Final = "texts"
SUFFIX: Final = ".client"

_SMALL_BUFFER: Final = 64 * 1024  # bytes the kernel keeps for a slow client
_OPEN_TIMEOUT: Final = 8.0  # seconds
_PAUSE: Final = 0.2  # seconds, at most twice, before connecting again


DOMAINS: Final = ("shop.example", "sites.test")
WORD: Final = "paper"
FILTER: Final = (*(f"domain:{domain}" for domain in DOMAINS), f"contains:{WORD}")
"""The lines of every filter: about two of five certificates of simulated logs pass."""


def passes(names: Iterable[str]) -> bool:
    """Whether a certificate with these names passes `FILTER`."""
    return any(
        WORD in name or any(name == each or name.endswith(f".{each}") for each in DOMAINS)
        for name in names
    )


class Profile(msgspec.Struct, frozen=True):
    """One client.

    Attributes:
        protocol: how it connects.
        form: of its messages.
        habit: see the module.
        is_filtered: whether it has the filter `FILTER`.
        is_compressed: whether it offers permessage-deflate.
    """

    protocol: Protocol
    form: MessageForm
    habit: Habit
    is_filtered: bool = False
    is_compressed: bool = False

    @property
    def name(self) -> str:
        ends = ("filtered",) * self.is_filtered + ("compressed",) * self.is_compressed
        return "-".join((self.habit, self.protocol, self.form, *ends))


def profiles() -> list[Profile]:
    """Every form by every protocol, steady and hopping; and slow where it is the hardest."""
    forms: tuple[MessageForm, ...] = ("full", "lite", "domains")
    protocols: tuple[Protocol, ...] = ("websocket", "sse")
    habits: tuple[Habit, ...] = ("steady", "hopping")
    everyone = [Profile(p, form, habit) for habit in habits for p in protocols for form in forms]
    return [
        *everyone,
        Profile("websocket", "full", "slow"),
        Profile("sse", "full", "slow"),
        Profile("websocket", "lite", "slow"),
        Profile("websocket", "full", "steady", is_compressed=True),
        Profile("websocket", "lite", "hopping", is_compressed=True),
        Profile("websocket", "full", "slow", is_compressed=True),
        Profile("websocket", "domains", "steady", is_compressed=True),
        Profile("websocket", "lite", "steady", is_filtered=True),
        Profile("websocket", "domains", "hopping", is_filtered=True),
        Profile("websocket", "full", "hopping", is_filtered=True, is_compressed=True),
        Profile("sse", "lite", "hopping", is_filtered=True),
        Profile("sse", "full", "slow", is_filtered=True),
        Profile("tail", "lite", "hopping"),
        Profile("tail", "full", "hopping", is_filtered=True),
    ]


class Line(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened to a client.

    Attributes:
        at: seconds since the epoch.
        kind: "open" (`what`: gateway and cursor), "connected", "text" (`what`: message),
            "close" (`what`: why).
        what: see `kind`.
    """

    at: float
    kind: str
    what: bytes


class Transcript:
    """What one client has written down, read as it grows.

    Args:
        path: of the client's file.
        texts: by number, shared by all clients.

    Attributes:
        name: of the client.
        lines: everything that happened to it by the last `update`.
        messages: how many messages about certificates are among them.
    """

    def __init__(self, path: Path, texts: "Texts") -> None:
        self.name = path.stem
        self.lines: list[Line] = []
        self.messages = 0
        self._path = path
        self._texts = texts
        self._read = 0

    def update(self) -> None:
        """Read what is new."""
        new = list(_new_lines(self._path, self._read))
        self._texts.update()  # a text is written before its number
        for line in new:
            self._read += len(line) + 1
            at, kind, what = line.split(b" ", 2)
            if kind == b"text":
                what = self._texts.all[int(what)]
                self.messages += is_message(what)
            self.lines.append(Line(float(at), kind.decode(), what))

    def is_connected(self) -> bool:
        """Whether this client has been connected by now."""
        self.update()
        return any(line.kind == "connected" for line in self.lines)

    @property
    def last_id(self) -> str | None:
        """Id of the newest message about a certificate, None if there is none."""
        texts = (line.what for line in reversed(self.lines) if line.kind == "text")
        return next((_id(text) for text in texts if is_message(text)), None)

    def last_that_passes(self) -> str | None:
        """Return the id of the newest message that passes `FILTER`, None if there is none."""
        for line in reversed(self.lines):
            if line.kind == "text" and is_message(line.what):
                names = msgspec.json.decode(line.what, type=_Lite).data.leaf_cert.all_domains
                if passes(names):
                    return _id(line.what)
        return None

    def moved_after(self, at: float) -> float | None:
        """Return when the first certificate came after a time; None if none did."""
        texts = (line for line in self.lines if line.at > at and line.kind == "text")
        return next((line.at for line in texts if is_message(line.what)), None)


def is_message(text: bytes) -> bool:
    """Whether a text is about a certificate: others have no id before their type."""
    return text.startswith(b'{"id"')


class Texts:
    """The texts that the clients of a directory received, each once."""

    def __init__(self, directory: Path) -> None:
        self.all: list[bytes] = []
        self._path = directory / TEXTS
        self._read = 0

    def update(self) -> None:
        """Read what is new."""
        for line in _new_lines(self._path, self._read):
            self._read += len(line) + 1
            self.all.append(line)


def transcripts(directory: Path) -> list[Transcript]:
    """Those of all clients."""
    texts = Texts(directory)
    return [Transcript(directory / f"{p.name}{SUFFIX}", texts) for p in profiles()]


def _new_lines(path: Path, offset: int) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # its rest may follow at any time, and is not a line
            yield line[:-1]


class _Identified(msgspec.Struct):
    id: str = ""


_decode_id = msgspec.json.Decoder(_Identified).decode


def _id(text: bytes) -> str:
    """Return the id of a message; empty if it has none, or cannot be read."""
    try:
        return _decode_id(text).id
    except msgspec.DecodeError:
        return ""


class _LeafCert(msgspec.Struct):
    all_domains: list[str]


class _Data(msgspec.Struct):
    leaf_cert: _LeafCert


class _Lite(msgspec.Struct):
    """What decides whether a message passes."""

    data: _Data


class _Shared:
    """What all clients of the process have in common."""

    def __init__(self, directory: Path, gateways: Sequence[str]) -> None:
        self.directory = directory
        self.gateways = gateways
        self.settled = asyncio.Event()
        # One for all: each would load the certificates of all authorities.
        self.http = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(_OPEN_TIMEOUT, read=None),
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._numbers: dict[bytes, int] = {}
        self._texts = (directory / TEXTS).open("wb", buffering=0)

    def number(self, text: bytes) -> int:
        """The number of a text, which is written down first if it is new."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._numbers)
            # A text with a line feed is damaged; the judge reports it with a space instead.
            self._texts.write(text.replace(b"\n", b" ") + b"\n")
        return number


class _Client:
    def __init__(self, profile: Profile, shared: _Shared, seed: int) -> None:
        self._profile = profile
        self._shared = shared
        self._chance = random.Random(f"{seed} {profile.name}")
        self._file = (shared.directory / f"{profile.name}{SUFFIX}").open("wb", buffering=0)
        self._cursor = ""
        self._cursor_file = shared.directory / f"{profile.name}.cursor"
        self._limit: asyncio.Timeout | None = None
        self._killing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Read, for ever."""
        read = {
            "websocket": self._read_websocket,
            "sse": self._read_sse,
            "tail": self._read_tail,
        }[self._profile.protocol]
        while True:
            address = self._chance.choice(self._shared.gateways)
            if self._profile.protocol == "tail":
                self._cursor = tail.stored(self._cursor_file)
            self._note("open", f"{address} {self._cursor}".encode())
            try:
                why = await read(address)
            except (OSError, WebSocketException, httpx.HTTPError) as error:
                why = f"{type(error).__name__} {error}"
            self._note("close", " ".join(why.split()).encode())
            await asyncio.sleep(self._chance.uniform(_PAUSE, 2 * _PAUSE))

    def settle(self) -> None:
        """Stay from now on."""
        if self._limit is not None:
            self._limit.reschedule(None)
        if self._killing is not None:
            self._killing.cancel()

    async def _read_websocket(self, address: str) -> str:
        slow = self._profile.habit == "slow"
        query = self._query(f"cursor={self._cursor}" if self._cursor else "")
        async with connect(
            f"ws://{address}{PATHS[self._profile.form]}?{query}",
            sock=await _connected(address, small=slow),
            proxy=None,
            compression="deflate" if self._profile.is_compressed else None,
            max_size=None,
            max_queue=16 if slow else 64,
            open_timeout=_OPEN_TIMEOUT,
            close_timeout=1,
            ping_interval=None,
        ) as connection:
            if await self._leaves(_text_of(connection)):
                if self._chance.random() < 0.5:
                    connection.transport.abort()
                return "it leaves"
            return f"closed with {connection.close_code} {connection.close_reason}"

    async def _read_sse(self, address: str) -> str:
        url = f"http://{address}/sse?{self._query(f'stream={self._profile.form}')}"
        headers = {"Last-Event-ID": self._cursor} if self._cursor else {}
        request = self._shared.http.build_request("GET", url, headers=headers)
        response = await self._shared.http.send(request, stream=True)
        try:
            response.raise_for_status()
            leaves = await self._leaves(events(response.aiter_lines()))
        finally:
            await response.aclose()
        return "it leaves" if leaves else "the gateway ended it"

    async def _read_tail(self, address: str) -> str:
        lines = FILTER if self._profile.is_filtered else ()
        file, output = self._cursor_file, tail.Output()
        self._note("connected", b"")
        async with tail.running(address, self._profile.form, file, lines) as process:
            self._killing = asyncio.create_task(self._kill(process, file))
            assert process.stdout is not None
            try:
                # Also what the pipe has after the kill.
                async for text in output.texts(process.stdout):
                    self._note("text", b"%d" % self._shared.number(text.encode()))
            finally:
                self._killing.cancel()
        other = f": {output.other.decode(errors='replace')}" if output.other else ""
        return f"it ended with {process.returncode}{other}"

    async def _kill(self, process: asyncio.subprocess.Process, file: Path) -> None:
        # Without the file, the next process would begin anew.
        await until(file.exists, f"the first id in {file}", 600)
        if not self._shared.settled.is_set():
            await asyncio.sleep(self._chance.uniform(0.2, 8))
            process.kill()

    def _query(self, *parameters: str) -> str:
        lines = FILTER if self._profile.is_filtered else ()
        return "&".join([*filter(None, parameters), *(f"match={quote(line)}" for line in lines)])

    async def _leaves(self, messages: AsyncIterator[str]) -> bool:
        """Write down what comes.

        Returns:
            Whether it is this client that ends the connection.
        """
        self._note("connected", b"")
        stays = self._profile.habit != "hopping" or self._shared.settled.is_set()
        try:
            async with asyncio.timeout(None if stays else self._chance.uniform(0.2, 8)) as limit:
                self._limit = limit
                if self._profile.habit == "slow":
                    messages = self._slowly(messages)
                async for text in messages:
                    encoded = text.encode()
                    self._note("text", b"%d" % self._shared.number(encoded))
                    self._cursor = _id(encoded) or self._cursor
        except TimeoutError:
            if not limit.expired():
                raise
            return True
        finally:
            self._limit = None
        return False

    async def _slowly(self, messages: AsyncIterator[str]) -> AsyncIterator[str]:
        pause_at = time.monotonic() + 1
        async for text in messages:
            yield text
            if time.monotonic() > pause_at:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._shared.settled.wait(), self._chance.uniform(1, 12))
                pause_at = time.monotonic() + self._chance.uniform(0.2, 3)

    def _note(self, kind: str, what: bytes) -> None:
        self._file.write(f"{time.time():.3f} {kind} ".encode() + what + b"\n")


async def _text_of(connection: ClientConnection) -> AsyncIterator[str]:
    async for text in connection:
        assert isinstance(text, str), "messages are text frames"
        yield text


async def _connected(address: str, *, small: bool) -> socket.socket:
    """Connect; `small` is for clients that must not have much waiting in the kernel."""
    host, _, port = address.partition(":")
    connection = socket.socket()
    connection.setblocking(False)
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
    try:
        async with asyncio.timeout(_OPEN_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    except BaseException:
        connection.close()
        raise
    return connection


async def _run(directory: Path, seed: int, gateways: Sequence[str]) -> None:
    shared = _Shared(directory, gateways)
    clients = [_Client(profile, shared, seed) for profile in profiles()]
    loop, end = asyncio.get_running_loop(), asyncio.Event()

    def settle() -> None:
        shared.settled.set()
        for client in clients:
            client.settle()

    loop.add_signal_handler(signal.SIGUSR1, settle)
    loop.add_signal_handler(signal.SIGTERM, end.set)
    tasks = [asyncio.create_task(client.run()) for client in clients]
    await asyncio.wait(
        [*tasks, asyncio.create_task(end.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    for task in tasks:
        if task.done():
            task.result()  # a client ends only when cancelled
        task.cancel()
    await asyncio.wait(tasks)


if __name__ == "__main__":
    parent, where, number, *addresses = sys.argv[1:]
    exit_with_parent(int(parent))
    asyncio.run(_run(Path(where), int(number), addresses))
