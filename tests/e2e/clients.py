"""Clients that keep everything they receive."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import msgspec
from websockets.asyncio.client import connect

from simlog.oracle.check_message import MessageForm
from simlog.oracle.oracle import Delivery
from tests.waiting import until

PATHS: dict[MessageForm, str] = {"full": "/full-stream", "lite": "/", "domains": "/domains-only"}


class Client:
    """One client and its messages, in the order of arrival.

    Attributes:
        where: which gateway, protocol and stream.
        form: the form of its messages.
        messages: the JSON texts.
    """

    def __init__(self, where: str, form: MessageForm) -> None:
        self.where = where
        self.form = form
        self.messages: list[bytes] = []

    @property
    def last_id(self) -> str:
        """The id to resume with: that of its newest certificate, or of a heartbeat after it."""
        return next((each.id for each in self._newest_first() if each.id), "")

    @property
    def last_certificate(self) -> str:
        """The id of its newest message about a certificate."""
        return next((each.id for each in self._newest_first() if each.is_certificate), "")

    def _newest_first(self) -> Iterator["_Message"]:
        return (msgspec.json.decode(text, type=_Message) for text in reversed(self.messages))

    @property
    def delivery(self) -> Delivery:
        return Delivery(self.where, self.form, self.messages)


class _Message(msgspec.Struct):
    message_type: str = ""
    id: str = ""

    @property
    def is_certificate(self) -> bool:
        return self.message_type in ("certificate_update", "dns_entries")


Keep = Callable[[str], bytes]


@asynccontextmanager
async def connected(
    gateways: Sequence[str], forms: Sequence[MessageForm]
) -> AsyncIterator[list[Client]]:
    """Clients of every form over WebSocket and SSE at every gateway, until the context ends.

    Clients that receive the same text share one copy of it.
    """
    texts: dict[bytes, bytes] = {}

    def keep(text: str) -> bytes:
        encoded = text.encode()
        return texts.setdefault(encoded, encoded)

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(client(f"{address} {form}", address, form, keep))
            for address in gateways
            for form in forms
            for client in (websocket, server_sent_events)
        ]
        yield clients


@asynccontextmanager
async def websocket(
    where: str, address: str, form: MessageForm, keep: Keep
) -> AsyncIterator[Client]:
    """A WebSocket client."""
    client = Client(f"WebSocket {where}", form)

    async def receive() -> None:
        async for text in connection:
            assert isinstance(text, str), "messages are text frames"
            client.messages.append(keep(text))

    url = f"ws://{address}{PATHS[form]}"
    async with connect(url, proxy=None, max_queue=None) as connection, _background(receive()):
        yield client


@asynccontextmanager
async def server_sent_events(
    where: str, address: str, form: MessageForm, keep: Keep
) -> AsyncIterator[Client]:
    """An SSE client, which also checks that each event's id is its message's."""
    client = Client(f"SSE {where}", form)

    async def receive() -> None:
        async for text in events(response.aiter_lines()):
            client.messages.append(keep(text))

    url = f"http://{address}/sse?stream={form}"
    timeout = httpx.Timeout(10, read=None)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=timeout) as http,
        http.stream("GET", url) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        async with _background(receive()):
            yield client


async def events(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """The data of server-sent events, which each must have its message's id."""
    event: dict[str, str] = {}
    async for line in lines:
        field, _, value = line.partition(":")
        if line:
            event[field] = value.removeprefix(" ")
        elif "data" in event:
            message_id = msgspec.json.decode(event["data"], type=_Message).id
            assert event.get("id", "") == message_id, event
            yield event["data"]
            event = {}
        else:
            event = {}


@asynccontextmanager
async def _background(
    receiving: Coroutine[None, None, None],
) -> AsyncIterator[None]:
    """Receive during the context; a connection that ends before its end fails the test."""
    task = asyncio.create_task(receiving)
    try:
        yield
        if task.done():
            task.result()
            raise AssertionError("the connection was closed")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def all_received(clients: Sequence[Client], last_id: str, seconds: float) -> None:
    """Wait until each client has the message with this id, the last there will be."""

    async def received() -> bool:
        return all(client.last_certificate == last_id for client in clients)

    await until(received, f"each client received {last_id}", seconds)
