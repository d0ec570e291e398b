"""One client and its flow control, without a network: what it is given, and by whom."""

import asyncio
import socket
from collections.abc import Mapping

from certbus.ids import Cursor, parse_entry_id
from gateway.clients.base import Client
from gateway.clients.sse import SSEClient
from gateway.clients.stall_timeout import close_stalled_clients
from gateway.config import Settings
from gateway.delivery.encoding import SSE
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

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


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
