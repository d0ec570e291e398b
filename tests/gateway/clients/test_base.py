"""One client and its flow control, without a network: what it is given, and by whom."""

import asyncio

from certbus.ids import Cursor, parse_entry_id
from gateway.clients.base import Client
from gateway.clients.sse import SSEClient
from gateway.config import Settings
from gateway.delivery.encoding import SSE
from gateway.delivery.ring_buffer import Ring
from gateway.hub import Hub
from gateway.metrics import Metrics


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0


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
