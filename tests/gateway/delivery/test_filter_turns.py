"""Filters that much passes: they leave the index, and take turns after the other clients."""

import asyncio
import gc
import itertools
import json
import weakref
from time import perf_counter

import pytest

from certbus.ids import parse_cursor
from ctfilter import Filter, matching, parse_filter
from ctfilter.grammar import Term
from ctfilter.names import Name
from gateway.clients.sse import SSEClient
from gateway.config import Settings
from gateway.delivery import channel as channels
from gateway.delivery import filter_index
from gateway.delivery.channel import MAX_WRITE_BYTES, Flusher
from gateway.delivery.encoding import SSE
from gateway.delivery.filter_index import StreamFilters
from gateway.delivery.filtering import FilterSelection
from gateway.delivery.ring_buffer import SLOT_BYTES, Slot
from gateway.hub import Hub
from gateway.metrics import Metrics
from tests.gateway.delivery.test_filtering import events_after, lite_message, look_up_all
from tests.gateway.test_delivery_model import Transport
from tests.waiting import until

BATCH = 16


class Gateway:
    """The delivery of a gateway, without Redis."""

    def __init__(self) -> None:
        self.hub = Hub(Settings(streams=("lite",)), lambda client, cursor: None, Metrics())
        self.ring = self.hub.rings["lite"]
        self.published = 0

    @property
    def filters(self) -> StreamFilters:
        return self.hub.filters._streams["lite"]

    def connect(
        self,
        line: str | None = None,
        transport: Transport | None = None,
        wanted: Filter | None = None,
    ) -> Transport:
        wanted = wanted if line is None else parse_filter(match=[line])
        transport = transport or Transport()
        channel = self.hub.channel("lite", SSE, wanted)
        SSEClient(self.hub.clients, channel, transport).attach(None)
        return transport

    def publish(self, name: str = "{}.example", padding: int = 0) -> None:
        """Publish a batch; every other message is a precertificate."""
        numbers = range(self.published, self.published + BATCH)
        self.published += BATCH
        entry = self.published // BATCH
        texts = [
            lite_message([name.format(n)], is_precertificate=n % 2 == 0, padding=padding)
            for n in numbers
        ]
        self.ring.append(f"{entry}-0", f"{entry - 1}-0", texts)


def numbers(transport: Transport) -> list[int]:
    """Return the numbers of the messages that a client received."""
    texts = [line[6:] for line in transport.written.split(b"\n") if line.startswith(b"data: ")]
    names = [json.loads(text)["data"]["leaf_cert"]["all_domains"][0] for text in texts]
    return [int(name.partition(".")[0]) for name in names]


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def test_a_filter_leaves_the_index_and_returns(gateway: Gateway) -> None:
    """It receives the same as a filter that stays, and one that much passes never does."""
    flusher = Flusher(gateway.hub.unfiltered_channels, gateway.hub.filters, Metrics())
    task = asyncio.create_task(flusher.run())
    often, rare = gateway.connect("contains:shop"), gateway.connect("domain:400.example")
    scan = gateway.connect("regex:p")
    wanted = parse_filter(match=["contains:shop"])
    was_heavy: list[bool] = []
    expected: list[int] = []
    for name, batches in (("{}.shop", 20), ("{}.example", 60), ("{}.shop", 20)):
        for _ in range(batches):
            if name == "{}.shop":
                expected += range(gateway.published, gateway.published + BATCH)
            gateway.publish(name)
            flusher.wake()
            await until(lambda: gateway.filters.seen is gateway.ring.head)
        was_heavy.append(set(gateway.hub.filters.shared.heavy) == {wanted})
    assert was_heavy == [True, False, True]
    assert gateway.hub.filters.shared.heavy.keys().isdisjoint({parse_filter(match=["regex:p"])})
    await until(lambda: not gateway.hub.filters.due)
    assert numbers(often) == expected
    assert numbers(rare) == [400]
    assert len(numbers(scan)) == gateway.published
    task.cancel()


async def test_a_filter_of_many_lines_is_prepared_before_it_leaves(gateway: Gateway) -> None:
    """In slices; each message is still received, once."""
    flusher = Flusher(gateway.hub.unfiltered_channels, gateway.hub.filters, Metrics())
    task = asyncio.create_task(flusher.run())
    lines = ["contains:shop", *(f"like:brandname{number:04d}" for number in range(300))]
    wanted = parse_filter(match=lines)
    transport = gateway.connect(wanted=wanted)
    shared = gateway.hub.filters.shared
    for _ in range(20):
        gateway.publish("{}.shop")
        flusher.wake()
        await until(lambda: gateway.filters.seen is gateway.ring.head)
    assert set(shared.heavy) == {wanted}
    assert shared._prepared is None
    await until(lambda: not gateway.hub.filters.due)
    assert numbers(transport) == list(range(gateway.published))
    task.cancel()


async def test_messages_are_looked_up_while_what_left_is_removed(gateway: Gateway) -> None:
    transport, filters = gateway.connect("domain:1.example"), gateway.hub.filters
    wanted = parse_filter(match=[f"like:brandname{number:04d}" for number in range(1000)])
    assert wanted is not None
    left = filters.channel(gateway.hub.channels["lite", SSE], wanted, gateway.ring)
    look_up_all(gateway.hub)
    filters.remove(left)
    gateway.publish()
    while gateway.filters.seen is not gateway.ring.head:
        assert filters.look_up_next()
    assert filters.shared.index._to_remove
    await filters.serve_next()
    assert numbers(transport) == [1]


async def test_filters_are_placed_and_removed_without_new_messages(gateway: Gateway) -> None:
    filters = gateway.hub.filters
    task = asyncio.create_task(Flusher(gateway.hub.unfiltered_channels, filters, Metrics()).run())
    wanted, index = parse_filter(match=["like:brandname"]), filters.shared.index
    assert wanted is not None
    made = filters.channel(gateway.hub.channels["lite", SSE], wanted, gateway.ring)
    await until(lambda: index.is_placed)
    filters.remove(made)
    await until(lambda: not index._to_remove)
    assert not index._edits
    task.cancel()


async def test_clients_without_a_filter_wait_for_one_turn(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 filters that half of everything passes have more to do than time allows."""
    monkeypatch.setattr(channels, "perf_counter", itertools.count().__next__)
    monkeypatch.setattr(channels, "MAX_SLICE_SECS", 0.5)  # a turn is one look-up and one write
    filters = gateway.hub.filters
    flusher = Flusher(gateway.hub.unfiltered_channels, filters, Metrics())
    task = asyncio.create_task(flusher.run())
    turns, served = 0, []
    serve_next = filters.serve_next

    async def counted() -> float:
        nonlocal turns
        turns += 1
        await serve_next()
        return 1.0

    class Plain(Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            if data:
                served.append(turns)

    monkeypatch.setattr(filters, "serve_next", counted)
    gateway.connect(transport=Plain())
    others = [gateway.connect(f"type:precert -domain:{n}.test") for n in range(60)]
    published = []
    for _ in range(40):
        gateway.publish()
        flusher.wake()
        published.append(turns)
        for _ in range(20):
            await asyncio.sleep(0)
    assert filters.due, "there was more to do than time"
    await until(lambda: not filters.due and gateway.filters.seen is gateway.ring.head)
    del served[0]  # the head of the response
    assert len(served) == len(published)
    assert all(then - before <= 2 for before, then in zip(published, served, strict=True))
    assert all(numbers(other) == list(range(0, gateway.published, 2)) for other in others)
    task.cancel()


async def test_a_client_that_lags_is_served_in_turns(gateway: Gateway) -> None:
    """One write in a turn, and one turn for each of the others between two of them."""
    hub = gateway.hub
    transports = [gateway.connect(f"type:precert -domain:{n}.test") for n in range(3)]
    clients = [next(iter(channel.clients)) for channel in hub.filters.channels.values()]
    for client in clients:
        client.pause_writing()
    for _ in range(8):
        gateway.publish(padding=20_000)
    look_up_all(hub)
    for client in clients:
        client.resume_writing()
    sizes = []
    while hub.filters.due:
        await hub.filters.serve_next()
        await asyncio.sleep(0)
        sizes.append([len(each.written) for each in transports])
    assert all(max(each) - min(each) <= MAX_WRITE_BYTES + SLOT_BYTES for each in sizes)
    assert len(sizes) > 10
    assert [len(numbers(each)) for each in transports] == [gateway.published // 2] * 3


async def test_a_look_up_is_one_message(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """No channel reads ahead of the look-ups, which would look up whole slots."""

    def fail(self: FilterSelection, slot: Slot) -> None:
        raise AssertionError(slot.entry)

    client = gateway.connect("contains:example")
    gateway.publish()
    gateway.publish()
    monkeypatch.setattr(FilterSelection, "_steps", fail)
    calls = 0
    while not gateway.hub.filters.due:
        assert gateway.hub.filters.look_up_next()
        calls += 1
    assert calls >= BATCH
    while gateway.hub.filters.due:
        await gateway.hub.filters.serve_next()
    assert numbers(client) == list(range(BATCH))
    look_up_all(gateway.hub)
    while gateway.hub.filters.due:
        await gateway.hub.filters.serve_next()
    assert numbers(client) == list(range(2 * BATCH))


def test_the_hits_that_slots_keep_are_bounded(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was removed is looked up again for a client that needs it."""
    monkeypatch.setattr(filter_index, "MAX_HITS", 3 * BATCH)
    monkeypatch.setattr(filter_index, "WINDOW_MESSAGES", 10_000)
    channel = gateway.hub.channel("lite", SSE, parse_filter(match=["contains:example"]))
    for _ in range(20):
        gateway.publish()
        look_up_all(gateway.hub)
    kept = [slot.hits is not None for slot in gateway.ring.slots_from(0)]
    assert kept == [False] * 17 + [True] * 3
    found = events_after(gateway.ring, parse_cursor("0"), channel.encoding)
    assert len(found) == gateway.published


def test_slots_that_the_ring_has_dropped_are_forgotten(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dropped() -> int:
        return sum(isinstance(it, weakref.ref) and it() is None for it in gc.get_objects())

    monkeypatch.setattr(filter_index, "WINDOW_MESSAGES", 10_000)
    gateway.hub.channel("lite", SSE, parse_filter(match=["contains:example"]))
    before = dropped()
    for _ in range(20):
        gateway.publish()
        look_up_all(gateway.hub)
        assert any(slot.hits for slot in gateway.ring.slots_from(0))
        gateway.ring.clear()
    assert dropped() < before + 10


@pytest.mark.parametrize("looked_up", [0, 1, 12])
async def test_a_filter_that_joins_during_the_look_up_of_a_slot_gets_all_of_it(
    gateway: Gateway, looked_up: int
) -> None:
    """The client had another filter before, and a position in front of the slot."""
    filters, transport = gateway.hub.filters, Transport()
    first = gateway.hub.channel("lite", SSE, parse_filter(match=["contains:3.exam"]))
    client = SSEClient(gateway.hub.clients, first, transport)
    client.attach(None)
    gateway.connect("contains:9.exam")
    gateway.publish()
    await serve_all(gateway.hub)
    gateway.publish()
    for _ in range(looked_up):
        filters.look_up_next()
    following = gateway.hub.channel("lite", SSE, parse_filter(match=["contains:7.exam"]))
    client.switch(following, lambda _: b"{}")
    await serve_all(gateway.hub)
    texts = [line[6:] for line in transport.written.split(b"\n") if line.startswith(b'data: {"')]
    received = [json.loads(text)["data"]["leaf_cert"]["all_domains"][0] for text in texts]
    assert received == [f"{number}.example" for number in (3, 13, 17, 27)]


async def serve_all(hub: Hub) -> None:
    """Look up, and give turns, until nothing is left."""
    while hub.filters.look_up_next() or hub.filters.due:
        if hub.filters.due:
            await hub.filters.serve_next()


COST = 0.003


@pytest.fixture
def costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each comparison with a regex take longer than a turn."""
    search = matching._regex

    def slow(term: Term, name: Name) -> bool:
        end = perf_counter() + COST
        while perf_counter() < end:
            pass
        return search(term, name)

    monkeypatch.setitem(matching._NAME_TERMS, "regex", slow)


@pytest.mark.usefixtures("costly")
async def test_a_filter_that_nothing_passes_leaves_the_index_if_it_is_slow(
    gateway: Gateway,
) -> None:
    """It is not moved back; a filter beside it stays, and receives everything."""
    slow = parse_filter(match=["regex:exam[^x]*_"])
    gateway.connect(wanted=slow)
    other = gateway.connect("contains:exam contains:7.e")
    filters, shared = gateway.hub.filters, gateway.hub.filters.shared
    for _ in range(80):
        gateway.publish()
    slots = 0
    while not shared.heavy:
        assert filters.look_up_next()
        slots = gateway.filters.seen.number
    assert set(shared.heavy) == {slow}
    assert slots <= 2
    assert shared.index.instructions > 10, "it still counts against the limit"
    look_up_all(gateway.hub)
    shared.joined[slow].evaluated = 8 * filter_index.WINDOW_MESSAGES  # type: ignore[index]
    shared.joined[slow].secs = COST * shared.joined[slow].evaluated  # type: ignore[index]
    shared._judge()
    assert not shared._moving
    while filters.due:
        following = next(iter(filters.due))
        if following.selection.joined.given is slow:
            del filters.due[following]
        else:
            await filters.serve_next()
    assert numbers(other) == list(range(7, gateway.published, 10))
    for channel in list(filters.channels.values()):
        for client in list(channel.clients):
            client.connection_lost(None)
    assert shared.index.instructions == 0


@pytest.mark.usefixtures("costly")
@pytest.mark.parametrize("lags", [False, True])
async def test_a_turn_of_a_slow_filter_ends_by_time(gateway: Gateway, lags: bool) -> None:
    """Each message is still evaluated and received once, also by clients at other slots."""
    wanted = parse_filter(match=["regex:[0-9]*[05]\\.exam"])
    first, second = gateway.connect(wanted=wanted), gateway.connect(wanted=wanted)
    (channel,) = gateway.hub.filters.channels.values()
    shared, filters = gateway.hub.filters.shared, gateway.hub.filters
    shared._moving.append(channel.selection.joined)
    gateway.publish()
    look_up_all(gateway.hub)
    assert set(shared.heavy) == {wanted}
    clients = {client.transport: client for client in channel.clients}
    if lags:
        clients[first].pause_writing()
    gateway.publish()
    look_up_all(gateway.hub)
    turns = 0
    while filters.due:
        turns += 1
        evaluated = channel.selection.joined.evaluated
        await filters.serve_next()
        await asyncio.sleep(0)
        assert channel.selection.joined.evaluated - evaluated <= 2
        if turns == 5 and lags:
            clients[first].resume_writing()
            clients[second].pause_writing()
        if turns == 9 and lags:
            clients[second].resume_writing()
    expected = [n for n in range(gateway.published) if n % 5 == 0]
    assert numbers(first) == numbers(second) == expected
    assert turns >= gateway.published
    assert not channel.selection._begun
    assert not channel.selection._found


@pytest.mark.usefixtures("costly")
async def test_a_slow_filter_that_moves_or_is_left_in_the_middle_of_a_slot(
    gateway: Gateway,
) -> None:
    wanted = parse_filter(match=["regex:[0-9]*[05]\\.exam"])
    transports = [gateway.connect(wanted=wanted) for _ in range(2)]
    (channel,) = gateway.hub.filters.channels.values()
    shared, filters = gateway.hub.filters.shared, gateway.hub.filters
    shared._moving.append(channel.selection.joined)
    gateway.publish()
    look_up_all(gateway.hub)
    for _ in range(4):
        await filters.serve_next()
    assert 4 <= channel.selection.joined.evaluated < BATCH
    next(c for c in channel.clients if c.transport is transports[0]).connection_lost(None)
    for _ in range(4):
        await filters.serve_next()
    shared._moving.append(channel.selection.joined)
    gateway.publish()
    look_up_all(gateway.hub)
    while filters.due:
        await filters.serve_next()
        await asyncio.sleep(0)
    assert numbers(transports[0]) == []
    assert numbers(transports[1]) == [n for n in range(gateway.published) if n % 5 == 0]
