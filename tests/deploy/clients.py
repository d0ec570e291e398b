"""Clients that come back, with the last id they have, whenever they are sent away."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import httpx
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from launcher.commands.tail.transports import FAILURES, messages
from simlog.oracle.check_message import MessageForm
from simlog.oracle.oracle import Delivery

_LONGEST_PAUSE = 0.5  # seconds


class _Message(msgspec.Struct):
    message_type: str = ""
    id: str = ""


class Client:
    """One client of `address`, from the oldest certificate that there is.

    Attributes:
        certificates: how many messages about certificates it has.
        ended: how its connections ended: close codes of WebSocket, else names of errors.
    """

    def __init__(
        self, scheme: str, address: str, form: MessageForm, texts: dict[bytes, bytes]
    ) -> None:
        self.certificates = 0
        self.ended: Counter[str] = Counter()
        self._url = f"{scheme}://{address}"
        self._form: MessageForm = form
        self._texts = texts
        self._messages: list[bytes] = []
        self._last = "0"

    @property
    def delivery(self) -> Delivery:
        return Delivery(f"{self._url} {self._form}", self._form, self._messages)

    async def run(self) -> None:
        """Receive until cancelled."""
        while True:
            try:
                await self._receive()
                self.ended["end"] += 1
            except ConnectionClosed as error:
                self.ended[str(error.rcvd.code if error.rcvd else "broken")] += 1
            except FAILURES as error:
                self.ended[type(error).__name__] += 1
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))

    async def _receive(self) -> None:
        async with aclosing(messages(self._url, self._form, self._last)) as received:
            async for text in received:
                self._messages.append(self._texts.setdefault(text, text))
                message = msgspec.json.decode(text, type=_Message)
                if message.id:  # heartbeats have one too
                    self._last = message.id
                    self.certificates += message.message_type != "heartbeat"


class Visitor:
    """A client that stays connected, and comes back at once whenever it is sent away.

    Attributes:
        connections: how many it had.
        failures: why it did not get one, each time.
        away: seconds, the longest time without one.
    """

    def __init__(self, url: str) -> None:
        self.connections = 0
        self.failures: list[str] = []
        self.away = 0.0
        self._url = url
        self._left: float | None = None

    async def run(self) -> None:
        """Be connected until cancelled."""
        while True:
            try:
                await (self._events if self._url.startswith("http") else self._websocket)()
            except ConnectionClosed:
                pass
            except (OSError, httpx.HTTPError, InvalidHandshake) as error:
                if self._left is not None or not self.connections:
                    self.failures.append(f"{self._url}: {error!r}")
            self._left = self._left or time.monotonic()
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))

    def _connected(self) -> None:
        self.connections += 1
        if self._left is not None:
            self.away = max(self.away, time.monotonic() - self._left)
        self._left = None

    async def _websocket(self) -> None:
        async with connect(self._url, proxy=None, max_queue=None) as connection:
            self._connected()
            async for _ in connection:
                pass

    async def _events(self) -> None:
        timeout = httpx.Timeout(10, read=None)
        async with (
            # Without TLS: reading the certificates each time would keep all of them waiting.
            httpx.AsyncClient(trust_env=False, verify=False, timeout=timeout) as http,
            http.stream("GET", self._url) as response,
        ):
            response.raise_for_status()
            self._connected()
            async for _ in response.aiter_bytes():
                pass


@asynccontextmanager
async def visiting(urls: Sequence[str]) -> AsyncIterator[list[Visitor]]:
    """A visitor of each URL."""
    visitors = [Visitor(url) for url in urls]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(visitor.run()) for visitor in visitors]
        try:
            yield visitors
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def following(
    address: str, kinds: Sequence[tuple[str, MessageForm, int]]
) -> AsyncIterator[list[Client]]:
    """`count` clients of each scheme and form. A text that several receive is kept once."""
    texts: dict[bytes, bytes] = {}
    clients = [
        Client(scheme, address, form, texts)
        for scheme, form, number in kinds
        for _ in range(number)
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client.run()) for client in clients]
        try:
            yield clients
        finally:
            for task in tasks:
                task.cancel()
