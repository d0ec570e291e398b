"""The shared context: whatever a client was sent before, an independent inflater reads the rest."""

import random
from hashlib import sha256

import pytest

from certbus.ids import Cursor, parse_cursor
from gateway.clients.websocket import heartbeat_frames
from gateway.delivery.compression import (
    RESTART_MESSAGES,
    RESTART_SECS,
    SHARED,
    SharedContext,
)
from gateway.delivery.encoding import WEBSOCKET, websocket_frame
from gateway.delivery.ring_buffer import SLOT_BYTES, BehindRing, Ring, RingPosition
from tests.gateway.inflater import Inflater

SUBSCRIBED = b'{"message_type":"subscribed"}'
HEARTBEAT = b'{"message_type":"heartbeat","timestamp":1}'
GAP = b'{"message_type":"gap"}'
BATCHES = (1, 7, 64, 3, 256, 1, 1, 40, 200, 16, 64, 8)


class Stream:
    """A ring whose messages refer to the ones before; a clock; clients that negotiated."""

    def __init__(self) -> None:
        self.clients = [object()]
        self.now = 0.0
        self.ring = Ring("lite", 1 << 30)
        self.ring.context = SharedContext(self.clients, lambda: self.now)
        self.texts: dict[Cursor, bytes] = {}
        self._entry = 0
        self._random = random.Random(1)

    def append(self, count: int, *, size: int = 0) -> None:
        entry, self._entry = f"{self._entry + 1}-0", self._entry + 1
        texts = [self._text(size) for _ in range(count)]
        self.ring.append(entry, f"{self._entry - 1}-0", texts)
        for position, text in enumerate(texts):
            number = f"{entry}-{position}"
            self.texts[parse_cursor(number)] = b'{"id":"%b",%b' % (number.encode(), text[1:])

    def _text(self, size: int) -> bytes:
        # Each message repeats parts that only one of the last 300 messages has.
        recent = list(self.texts.values())[-300:]
        before = self._random.choice(recent)[-130:-66] if recent else b"0" * 64
        own = sha256(self._random.randbytes(8)).hexdigest().encode()
        return b'{"pad":"%b","parts":"%b %b"}' % (b"x" * size, own, before)

    @property
    def restarts(self) -> list[int]:
        """Numbers of the slots that a client can begin with."""
        return [
            slot.before.number
            for slot in self.ring._slots
            if slot.shared is not None and slot.shared.restarts
        ]


class Reader:
    """A client of the ring that writes what a `Client` does."""

    def __init__(self, stream: Stream) -> None:
        self.inflater = Inflater()
        self.in_step = False
        self.position: RingPosition = stream.ring.head
        self.texts: list[bytes] = []
        self._ring = stream.ring

    def resume(self, cursor: Cursor) -> None:
        data, self.position, _ = self._ring.read_from_cursor(cursor, SHARED)
        self.texts += self.inflater.feed(data)

    def read(self, limit: int) -> None:
        data, self.position, self.in_step = self._ring.read_shared(
            self.position, SHARED, limit, in_step=self.in_step
        )
        self.texts += self.inflater.feed(data)

    def read_all(self, limit: int) -> None:
        while self.position is not self._ring.head:
            self.read(limit)

    def receive(self, data: bytes) -> None:
        self.texts += self.inflater.feed(data)


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_every_position_is_a_place_to_resume(stream: Stream) -> None:
    stream.append(5)
    for number, count in enumerate(BATCHES):
        stream.append(count, size=3000 * (number % 5 == 2))  # cut into slots
        if number % 4 == 1:
            stream.ring.append_notice(GAP)
        stream.now += 0.5
    assert len(stream.restarts) > 3
    ids = list(stream.texts)
    for index, cursor in enumerate(ids):
        reader = Reader(stream)
        reader.resume(cursor)
        chance = random.Random(index)
        while reader.position is not stream.ring.head:
            reader.read(chance.choice((0, 1, SLOT_BYTES, 1 << 20)))
            if chance.random() < 0.3:
                reader.receive(heartbeat_frames(1, None) + websocket_frame(SUBSCRIBED))
        got = [text for text in reader.texts if text not in (HEARTBEAT, GAP, SUBSCRIBED)]
        assert got == [stream.texts[after] for after in ids[index + 1 :]]
        if reader.position.number > stream.restarts[-1] > 0 and index < 100:
            assert reader.inflater.compressed > 0
            assert reader.in_step


def test_a_client_that_reads_all_slots_gets_only_compressed_ones(stream: Stream) -> None:
    readers = [Reader(stream) for _ in range(2)]
    for count in BATCHES:
        stream.append(count)
        readers[0].read_all(0)  # slot for slot
    readers[1].read_all(1 << 30)
    for reader in readers:
        assert reader.texts == list(stream.texts.values())
        assert reader.inflater.compressed == len(stream.texts)


def test_a_client_joins_at_the_next_restart(stream: Stream) -> None:
    for _ in range(3):
        stream.append(100)
    reader = Reader(stream)
    stream.append(50)  # still of the context that began with the third batch
    stream.append(100)
    stream.append(10)
    stream.append(1)
    reader.read_all(0)
    assert reader.inflater.compressed == 11
    assert reader.in_step


@pytest.mark.parametrize("pause", [0.0, 1.5])
def test_restarts_are_close_to_each_other(stream: Stream, pause: float) -> None:
    since, began = 0, 0.0
    for count in BATCHES * 2:
        before = len(stream.restarts)
        stream.append(count)
        if len(stream.restarts) > before:
            since, began = 0, stream.now
        since += count
        assert since <= RESTART_MESSAGES
        assert stream.now - began < RESTART_SECS
        stream.now += pause


def test_a_slot_without_clients_is_not_compressed_and_ends_the_context(stream: Stream) -> None:
    stream.append(3)
    reader = Reader(stream)
    others = [Reader(stream) for _ in range(2)]
    stream.append(3)
    others[0].read_all(0)
    stream.clients.clear()
    stream.append(3)
    others[1].in_step = True  # as if it had read the first slot compressed
    others[1].position = stream.ring.head
    stream.clients.append(object())
    stream.append(3)
    stream.append(3)
    reader.read_all(0)
    assert reader.texts == list(stream.texts.values())[3:]
    assert reader.inflater.compressed == 6
    others[1].read_all(0)
    assert others[1].texts == list(stream.texts.values())[9:]


def test_an_uncompressed_slot_ends_being_in_step_and_a_notice_does_not(stream: Stream) -> None:
    reader = Reader(stream)
    stream.append(3)
    stream.ring.append_notice(GAP)
    reader.read_all(0)
    assert reader.in_step
    stream.append(3)
    slot = stream.ring._slots[-1]
    slot.shared = None
    reader.read_all(0)
    assert not reader.in_step


def test_uncompressed_frames_are_made_once_for_clients_with_and_without_compression(
    stream: Stream,
) -> None:
    start = stream.ring.head
    stream.append(3)
    stream.append(3)
    plain, _ = stream.ring.read(start, WEBSOCKET, 1 << 20)
    size = stream.ring.size
    second = stream.ring.read(start, WEBSOCKET, 0)[1]
    assert stream.ring.read_shared(second, SHARED, 1 << 20, in_step=False)[0] in plain
    assert stream.ring.size == size


def test_the_bound_of_the_ring_counts_the_compressed_form(stream: Stream) -> None:
    stream.append(10)
    texts = sum(len(text) for slot in stream.ring._slots for text in slot.messages)
    compressed = stream.ring.read_shared(stream.ring.first_after, SHARED, 0, in_step=True)[0]
    assert stream.ring.size == texts + len(compressed)


def test_a_message_without_names_is_not_sent(stream: Stream) -> None:
    reader = Reader(stream)
    empty = b'{"message_type":"dns_entries","data":[]}'
    stream.ring.append("1-0", "0-0", [empty, b'{"data":["a"]}', empty])
    reader.read_all(0)
    assert reader.texts == [b'{"id":"1-0-1","data":["a"]}']
    assert reader.inflater.compressed == 1


def test_batches_that_redis_lost_do_not_stay_in_the_context_of_a_client(stream: Stream) -> None:
    """A client that has received them stays in step; another one has to replay."""
    reader, slow = Reader(stream), Reader(stream)
    stream.append(4)
    slow.read_all(0)
    stream.append(4)
    reader.read_all(0)
    stream.ring.append("2-0", "1-0", [b'{"parts":"new"}'])  # voids the batches before it
    reader.read_all(0)
    assert reader.texts[-1] == b'{"id":"2-0-0","parts":"new"}'
    assert reader.inflater.compressed == 9
    with pytest.raises(BehindRing):
        slow.read(0)
