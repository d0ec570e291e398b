"""A flush serves the clients of its channel, whatever they do while other tasks run."""

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from certbus.ids import Cursor
from ctfilter import Certificate, Evaluator, Index, parse_filter
from gateway.clients.base import Client
from gateway.clients.sse import SSEClient
from gateway.config import Settings
from gateway.delivery import channel as channels
from gateway.delivery.channel import Channel
from gateway.delivery.encoding import SSE
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.delivery.test_filtering import domains_message, lite_message, look_up_all
from tests.gateway.test_delivery_model import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = 40  # a flush reads the clock after each 16 of them
EVEN, ODD, FINAL = "contains:even", "contains:odd", "contains:odd type:final"


def passing(line: str | None, numbers: range) -> list[int]:
    """Return the numbers that pass the filter of a line."""
    return [n for n in numbers if line is None or n % 2 == (line != EVEN)]


class Gateway:
    """The delivery of a gateway without Redis, with `CLIENTS` clients of one channel.

    Args:
        stream: lite or domains.
        line: of their filter; None without one.
    """

    def __init__(self, stream: str, line: str | None) -> None:
        self.hub = Hub(Settings(), self._replay, Metrics())
        self.replays: list[tuple[Client, Cursor]] = []
        self._stream = stream
        self._batches = 0
        self.channel = self.find(line)
        self.transports: dict[SSEClient, Transport] = {}
        for _ in range(CLIENTS):
            transport = Transport()
            client = SSEClient(self.hub.clients, self.channel, transport)
            client.attach(None)
            self.transports[client] = transport

    def find(self, line: str | None) -> Channel[Client]:
        wanted = None if line is None else parse_filter(match=[line])
        return self.hub.channel(self._stream, SSE, wanted)

    def publish(self, *more: bytes) -> None:
        """Publish a batch: a message with an even number, one with an odd one, and more of lite."""
        first = 2 * self._batches
        names = [f"{first}.even.example", f"{first + 1}.odd.example"]
        self._batches += 1
        entry, before = f"{self._batches}-0", f"{self._batches - 1}-0"
        lite = [lite_message([name], is_precertificate=False) for name in names]
        self.hub.rings["lite"].append(entry, before, [*lite, *more])
        self.hub.rings["domains"].append(entry, before, [domains_message([n]) for n in names])

    async def flush(self) -> None:
        """Flush once, as `Flusher` does."""
        for channel in self.hub.unfiltered_channels():
            await channel.flush()
        for client, cursor in self.replays:  # a filter on another ring
            assert client.channel.encoding.selection is not None
            for slot in client.channel.unseen(cursor):
                while not client.channel.encoding.selection.evaluate(slot, 0.0):
                    pass
            assert client.resume(cursor)
        self.replays.clear()
        look_up_all(self.hub)
        while self.hub.filters.due:
            await self.hub.filters.serve_next()
            await asyncio.sleep(0)  # a client continues its reads in another turn

    def _replay(self, client: Client, cursor: Cursor) -> None:
        self.replays.append((client, cursor))

    def switch(self, client: Client, line: str | None) -> None:
        client.switch(
            self.find(line),
            lambda cursor: b'{"message_type":"subscribed","cursor":"%b"}' % str(cursor).encode(),
        )

    def received(self, client: SSEClient) -> list[str | int]:
        """Return the cursor of each answer and the number of each message that a client has."""
        events = self.transports[client].written.split(b"\n")
        found: list[str | int] = []
        for text in (line[6:] for line in events if line.startswith(b"data: ")):
            message = json.loads(text)
            if message.get("message_type") == "subscribed":
                found.append(message["cursor"])
                continue
            data = message["data"]
            names = data if isinstance(data, list) else data["leaf_cert"]["all_domains"]
            found.append(int(names[0].partition(".")[0]))
        return found


async def during_a_flush(gateway: Gateway, act: "Callable[[SSEClient], None]") -> SSEClient:
    """Have the client that a flush serves last act while the flush lets other tasks run."""
    gateway.publish()
    await gateway.flush()
    assert len(gateway.channel.ready) == CLIENTS
    before = {client: gateway.received(client) for client in gateway.transports}
    gateway.publish()
    flush = asyncio.create_task(gateway.flush())
    waiting: list[SSEClient] = []
    while not 0 < len(waiting) < CLIENTS:
        await asyncio.sleep(0)
        waiting = [each for each, had in before.items() if gateway.received(each) == had]
    act(waiting[-1])
    await flush
    gateway.publish()
    await gateway.flush()
    return waiting[-1]


@pytest.fixture(autouse=True)
def _yields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tasks run whenever a flush reads the clock."""
    monkeypatch.setattr(channels, "_YIELD_AFTER_SECS", -1.0)


@pytest.mark.parametrize(
    ("stream", "before", "lines"),
    [
        ("lite", EVEN, [ODD]),
        ("lite", None, [ODD]),
        ("lite", EVEN, [None]),
        ("lite", EVEN, [ODD, EVEN]),
        ("lite", None, [ODD, None]),
        ("domains", None, [ODD]),
        ("domains", None, [FINAL]),
        ("domains", EVEN, [FINAL]),
        ("domains", FINAL, [None]),
    ],
)
async def test_a_client_that_changes_its_filter_during_a_flush(
    stream: str, before: str | None, lines: list[str | None]
) -> None:
    """It receives, after the answers, what passes the new filter, once."""
    gateway = Gateway(stream, before)

    def act(client: SSEClient) -> None:
        for line in lines:
            gateway.switch(client, line)

    last = await during_a_flush(gateway, act)
    old, new = passing(before, range(2)), passing(lines[-1], range(2, 6))
    assert gateway.received(last) == [*old, *["1-0"] * len(lines), *new]
    others = [gateway.received(each) for each in gateway.transports if each is not last]
    assert others == [passing(before, range(6))] * (CLIENTS - 1)


@pytest.mark.parametrize("line", [None, EVEN])
async def test_a_client_that_pauses_and_resumes_during_a_flush(line: str | None) -> None:
    gateway = Gateway("lite", line)

    def act(client: SSEClient) -> None:
        client.pause_writing()
        client.resume_writing()

    last = await during_a_flush(gateway, act)
    assert gateway.received(last) == passing(line, range(6))


@pytest.mark.parametrize("line", [None, EVEN])
async def test_nothing_is_written_to_a_client_that_closes_during_a_flush(line: str | None) -> None:
    gateway = Gateway("lite", line)
    last = await during_a_flush(gateway, lambda client: client.close(1000, "bye"))
    assert gateway.transports[last].written.endswith(b": 1000 bye\n\n")


@pytest.mark.parametrize("disabled", ["lite", "domains"])
@pytest.mark.parametrize("looked_up", [True, False])
async def test_a_client_of_a_disabled_stream_resumes_after_what_it_received(
    disabled: str, looked_up: bool
) -> None:
    """A message that passes its filter waits, looked up or not, when its stream is disabled."""
    gateway = Gateway("domains" if disabled == "domains" else "lite", FINAL)
    hub, client = gateway.hub, next(iter(gateway.transports))
    other = SSEClient(hub.clients, gateway.find(EVEN), Transport())
    other.attach(None)
    gateway.publish()
    await gateway.flush()
    gateway.publish()
    if looked_up:
        look_up_all(hub)
    streams = tuple(stream for stream in hub.settings.offered if stream != disabled)
    removed = hub.apply_settings(msgspec.structs.replace(hub.settings, streams=streams))
    assert {gateway.channel, other.channel} <= set(removed)
    assert client.resume_hint == "?cursor=1-0"
    look_up_all(hub)
    assert (gateway.received(client), client.resume_hint) == ([1], "?cursor=1-0")
    await gateway.flush()
    assert (gateway.received(client), client.resume_hint) == ([1, 3], "?cursor=2-0")
    for each in (*gateway.transports, other):
        each.close(1001, "stream disabled")
    assert (hub.filters.count, hub.filters.size, hub.filters.due) == (0, 0, {})
    assert not hub.filters.reads(gateway.channel.ring)


@pytest.mark.parametrize("others", [0, CLIENTS])
async def test_a_client_that_joins_before_a_look_up_stays_in_the_ring(others: int) -> None:
    """Its position is after what does not pass its filter, however long nothing does."""
    gateway = Gateway("lite", "contains:rare" if others else "contains:other")
    ring = gateway.hub.rings["lite"]
    gateway.publish()  # and nothing is looked up yet
    transport = Transport()
    channel = gateway.find("contains:rare")
    client = SSEClient(gateway.hub.clients, channel, transport)
    client.attach(None)
    joined = ring.head.number
    await gateway.flush()
    while ring.first_after.number <= joined:
        gateway.publish()
        await gateway.flush()
        ring._max_bytes = 4000
    gateway.publish(lite_message(["1.rare.example"], is_precertificate=False))
    look_up_all(gateway.hub)
    while gateway.hub.filters.due:
        await gateway.hub.filters.serve_next()
    assert gateway.replays == []
    assert transport.written.count(b"contains:rare") == 1


@pytest.mark.parametrize("is_heavy", [False, True])
async def test_a_certificate_that_cannot_be_compared_costs_itself_alone(
    is_heavy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filtered clients lack it, which is logged; everything else is delivered."""
    kind, name = (Evaluator, "matches") if is_heavy else (Index, "lookup")
    compare = getattr(kind, name)

    def fail(self: object, compared: Certificate) -> object:
        if "2.even.example" in compared.names:
            raise ValueError
        return compare(self, compared)

    monkeypatch.setattr(kind, name, fail)
    gateway = Gateway("lite", EVEN)
    (joined,) = gateway.hub.filters.shared.joined.values()
    if is_heavy:
        gateway.hub.filters.shared._moving.append(joined)
    for _ in range(3):
        gateway.publish()
        await gateway.flush()
    assert (joined.evaluator is not None) is is_heavy
    assert {tuple(gateway.received(each)) for each in gateway.transports} == {(0, 4)}
