"""One client and its flow control, without a network: what it is given, and by whom."""

import asyncio
import socket
from collections.abc import Mapping

from certbus.ids import Cursor, parse_entry_id
from gateway.clients.base import Client
from gateway.clients.sse import SSEClient
from gateway.clients.stall_timeout import close_stalled_clients
from gateway.clients.websocket import WebSocketClient
from gateway.config import Settings
from gateway.delivery.encoding import SSE, WEBSOCKET
from gateway.delivery.ring_buffer import Ring
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.waiting import until


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, extra: Mapping[str, object] | None = None) -> None:
        super().__init__(extra)
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class FullTransport(Transport):
    """Pauses its client within each write while it is full, as TLS does also within a resume."""

    client: Client

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if data and self.is_full:
            self.client.pause_writing()


PING = b"\x89\x80\0\0\0\0"
PONG = b"\x8a\0"


def paused_websocket() -> tuple[Hub, WebSocketClient, FullTransport]:
    """A live client that has sent a ping while its transport was paused."""
    hub = Hub(Settings(streams=("lite",)), lambda *_: None, Metrics())
    transport = FullTransport()
    client = WebSocketClient(hub.clients, hub.channels["lite", WEBSOCKET], transport)
    transport.client = client
    client.attach(None)
    client.pause_writing()
    client.data_received(PING)
    assert not transport.written
    return hub, client, transport


async def test_a_pong_that_fills_the_send_buffer_pauses_its_client() -> None:
    hub, client, transport = paused_websocket()
    transport.is_full = True
    client.resume_writing()
    assert transport.written == PONG
    assert client.paused
    assert client in hub.clients.paused, "a client that reads nothing is closed"
    assert client not in client.channel.ready
    transport.is_full = False
    client.resume_writing()
    assert client.channel.ready == {client}
    assert not hub.clients.paused
    assert transport.written == PONG


async def test_no_pong_follows_a_close_frame() -> None:
    _, client, transport = paused_websocket()
    client.close(1001, "bye")
    client.resume_writing()
    assert transport.written == b"\x88\x05\x03\xe9bye"


async def test_a_replay_waits_while_an_answer_fills_the_send_buffer() -> None:
    _, client, transport = paused_websocket()
    client.answer(lambda _: b"{}")
    writable = asyncio.create_task(client.writable())
    await asyncio.sleep(0)
    for is_full in (True, True, False):  # the pong, the answer, nothing
        transport.is_full = is_full
        client.resume_writing()
        for _ in range(3):
            await asyncio.sleep(0)
        assert writable.done() is not is_full


async def test_a_client_that_pauses_during_its_replay_is_not_replayed_twice() -> None:
    replays: list[Cursor] = []

    def replay(_: Client, cursor: Cursor) -> None:
        replays.append(cursor)

    service = Hub(Settings(streams=("lite",)), replay, Metrics())
    service.rings["lite"].append("2-0", "1-0", [b'{"n":2}'])
    lane = service.channels["lite", SSE]
    transport = Transport()
    client = SSEClient(service.clients, lane, transport)

    client.attach(Cursor(parse_entry_id("0-0"), None))
    assert len(replays) == 1
    old = Ring("lite", 1 << 20, first=-1000)  # as the history numbers its pieces
    old.append("1-0", "0-0", [b'{"n":1}'])
    data, place = old.read(old.first_after, SSE, 1)
    client.send(data, place, 1)
    client.pause_writing()
    client.resume_writing()
    assert len(replays) == 1, "the pending one continues"

    assert client.resume(Cursor(place.cursor.entry, None))
    assert transport.written.count(b'"n":1') == transport.written.count(b'"n":2') == 1
    assert client in lane.ready


async def test_slow_clients_are_closed_while_a_tls_connection_ends() -> None:
    """Its transport has no socket any more, or a closed one."""
    service = Hub(Settings(streams=("lite",)), lambda *_: None, Metrics())
    own, closed = socket.socketpair()
    closed.close()
    with own:
        clients = []
        for connection in (None, closed, own):
            transport = Transport({"socket": connection})
            clients.append(SSEClient(service.clients, service.channels["lite", SSE], transport))
            clients[-1].attach(None)
            clients[-1].pause_writing()
        checks = asyncio.create_task(close_stalled_clients(service.clients, 0.04))
        await until(lambda: checks.done() or clients[-1].closed)
        assert clients[-1].closed
        checks.cancel()
