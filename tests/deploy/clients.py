"""Clients that come back, with the last id they have, whenever they are sent away."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import msgspec
from websockets.exceptions import ConnectionClosed

from launcher.tail.sources import FAILURES, messages
from simlog.examine import Form
from simlog.oracle import Delivery

_LONGEST_PAUSE = 0.5  # seconds


class _Message(msgspec.Struct):
    id: str = ""


class Client:
    """One client of `address`, from the oldest certificate that there is.

    Attributes:
        certificates: how many messages with an id it has.
        ended: how its connections ended: close codes of WebSocket, else names of errors.
    """

    def __init__(self, scheme: str, address: str, form: Form, texts: dict[bytes, bytes]) -> None:
        self.certificates = 0
        self.ended: Counter[str] = Counter()
        self._url = f"{scheme}://{address}"
        self._form: Form = form
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
                if message_id := msgspec.json.decode(text, type=_Message).id:
                    self.certificates += 1
                    self._last = message_id


@asynccontextmanager
async def following(
    address: str, kinds: Sequence[tuple[str, Form, int]]
) -> AsyncIterator[list[Client]]:
    """So many clients of each scheme and form. What several receive is kept once."""
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
