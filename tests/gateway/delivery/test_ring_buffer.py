from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certbus.ids import Cursor, EntryId, parse_cursor
from gateway.delivery import ring_buffer
from gateway.delivery.compression import SharedContext, SharedFrames
from gateway.delivery.encoding import Encoding
from gateway.delivery.ring_buffer import SLOT_BYTES, BehindRing, Ring, RingPosition, Slot

MANY = 1 << 30


def ids(entry: str, first: int, messages: object) -> bytes:
    assert isinstance(messages, list | tuple)
    return b"".join(b"%b-%d " % (entry.encode(), n) for n in range(first, first + len(messages)))


IDS = Encoding("ids", ids, lambda message: message + b" ")


def ring_of(*sizes: int, max_bytes: int = MANY, message: bytes = b"m") -> Ring:
    """Batches 1-0, 2-0, ... of these numbers of messages."""
    ring = Ring("lite", max_bytes)
    for number, size in enumerate(sizes, 1):
        ring.append(f"{number}-0", f"{number - 1}-0", [message] * size)
    return ring


def read_all(ring: Ring, place: RingPosition, data: bytes = b"") -> list[str]:
    while place is not ring.head:
        piece, place = ring.read(place, IDS, 1)
        data += piece
    return data.decode().split()


def all_ids(*sizes: int) -> list[str]:
    return [f"{entry}-0-{n}" for entry, size in enumerate(sizes, 1) for n in range(size)]


def test_what_is_appended_is_read_in_order() -> None:
    ring = ring_of(2, 1, 3)
    assert read_all(ring, ring.first_after) == all_ids(2, 1, 3)
    assert ring.read(ring.head, IDS, 1) == (b"", ring.head)


def test_a_read_joins_slots_up_to_its_limit() -> None:
    ring = ring_of(1, 1, 1)
    data, place = ring.read(ring.first_after, IDS, 7)
    assert data == b"1-0-0 2-0-0 "
    assert str(place) == "2-0-0"


def test_a_form_is_made_once() -> None:
    made = []

    def batch(entry: str, first: int, messages: object) -> bytes:
        made.append(entry)
        return b"x"

    ring = ring_of(1, 1)
    form = Encoding("counted", batch, lambda message: message)
    for _ in range(3):
        ring.read(ring.first_after, form, MANY)
    assert made == ["1-0", "2-0"]


def test_readers_by_cursor_share_what_follows_their_slot() -> None:
    """A replay finds its place by a cursor before each write."""
    made = []

    def batch(entry: str, first: int, messages: object) -> bytes:
        made.append(first)
        return ids(entry, first, messages)

    ring = ring_of(12, message=b"m" * (SLOT_BYTES // 4))  # three slots
    form = Encoding("counted", batch, lambda message: message)
    for _ in range(3):
        position = ring.first_after
        while position is not ring.head:
            rest, found, messages = ring.read_from_cursor(position.cursor, form)
            assert (rest, found, messages) == (b"", position, 0)
            _, position = ring.read(found, form, 1)
    assert made == [0, 4, 8]


def test_a_large_batch_is_cut_into_slots() -> None:
    ring = ring_of(10, message=b"m" * (SLOT_BYTES // 4))
    data, place = ring.read(ring.first_after, IDS, 1)
    assert data.split() == [b"1-0-%d" % n for n in range(4)]
    assert str(place) == "1-0-3"
    assert read_all(ring, ring.first_after) == all_ids(10)


def test_the_oldest_are_dropped_with_their_forms() -> None:
    ring = ring_of(5, 5, 5, max_bytes=12)
    assert read_all(ring, ring.first_after) == [f"{n}-0-{k}" for n in (2, 3) for k in range(5)]
    assert ring.size > 12  # the forms that were just made
    gone = ring.first_after
    ring.append("4-0", "3-0", [b"m"] * 5)
    assert ring.size <= 12
    with pytest.raises(BehindRing):
        ring.read(gone, IDS, 1)


def test_the_size_is_that_of_what_the_ring_holds() -> None:
    ring = Ring("lite", 100)
    ring.context = cast("SharedContext", Compressed(*["next", "none"] * 20))
    for number in range(1, 40):
        ring.append(f"{number}-0", f"{number - 1}-0", [b"m" * 10])
        ring.read(ring.first_after, IDS, MANY)
    held = list(ring.slots_from(0))
    assert held[0].entry != "1-0"
    texts, forms = 10 * len(held), sum(len(f"{slot.entry}-0 ") for slot in held)
    shared = sum(len(f"({slot.entry})") for slot in held if int(slot.entry[:-2]) % 2)
    assert shared
    assert ring.size == texts + forms + shared


def test_the_newest_slot_stays_whatever_its_size() -> None:
    ring = ring_of(1, 100, max_bytes=10)
    assert read_all(ring, ring.first_after) == [f"2-0-{n}" for n in range(100)]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_resuming_after_any_message_returns_exactly_the_rest(
    sizes: list[int], data: st.DataObject
) -> None:
    ring = Ring("lite", MANY)
    for number, size in enumerate(sizes, 1):
        ring.append(f"{number}-0", f"{number - 1}-0", [b"m" * (SLOT_BYTES // 2)] * size)
    every = all_ids(*sizes)
    seen = data.draw(st.integers(0, len(every) - 1))
    rest, place, _ = ring.read_from_cursor(parse_cursor(every[seen]), IDS)
    assert read_all(ring, place, rest) == every[seen + 1 :]


@pytest.mark.parametrize(
    ("cursor", "rest"),
    [
        ("0", all_ids(2, 2)),
        ("1-0", ["2-0-0", "2-0-1"]),
        ("1", ["2-0-0", "2-0-1"]),
        ("2-0", []),
        ("2-0-1", []),
        ("1-0-999", ["2-0-0", "2-0-1"]),  # after every position of its batch
    ],
)
def test_cursors_without_a_message(cursor: str, rest: list[str]) -> None:
    ring = ring_of(2, 2)
    data, place, _ = ring.read_from_cursor(parse_cursor(cursor), IDS)
    assert read_all(ring, place, data) == rest


@pytest.mark.parametrize("cursor", ["0-5-1", "1-7-0", "2-1-0", "1-5", "3"])
def test_a_message_of_an_unknown_batch_is_refused(cursor: str) -> None:
    ring = ring_of(2, 2)
    with pytest.raises(BehindRing):
        ring.read_from_cursor(parse_cursor(cursor), IDS)


def test_what_the_ring_has_dropped_is_refused() -> None:
    ring = ring_of(5, 5, 5, max_bytes=10)
    with pytest.raises(BehindRing):
        ring.read_from_cursor(Cursor(EntryId(1, 0), 3), IDS)
    data, place, _ = ring.read_from_cursor(Cursor(EntryId(1, 0), 4), IDS)
    assert len(read_all(ring, place, data)) == 10


def test_the_batch_before_a_ring_may_have_a_rest() -> None:
    ring = Ring("lite", MANY)
    ring.begin_after("7-0")
    ring.append("8-0", "7-0", [b"m"])
    with pytest.raises(BehindRing):
        ring.read_from_cursor(parse_cursor("7-0-3"), IDS)
    data, place, _ = ring.read_from_cursor(parse_cursor("7-0"), IDS)
    assert read_all(ring, place, data) == ["8-0-0"]


def test_a_notice_is_read_in_order_from_an_earlier_cursor() -> None:
    ring = ring_of(1)
    ring.append_notice(b"gap")
    ring.append("5-0", "4-0", [b"m"])
    assert read_all(ring, ring.first_after) == ["1-0-0", "gap", "5-0-0"]
    data, place, _ = ring.read_from_cursor(parse_cursor("1-0-0"), IDS)
    assert read_all(ring, place, data) == ["gap", "5-0-0"]


def test_ids_that_begin_anew_void_the_old_ones() -> None:
    ring = ring_of(1, 1)
    ring.append("1-0", "0-0", [b"m", b"m"])
    assert read_all(ring, ring.first_after) == ["1-0-0", "1-0-1"]


def test_an_id_that_is_issued_again_voids_its_batch() -> None:
    ring = ring_of(1, 1)
    ring.append("2-0", "1-0", [b"m", b"m"])
    assert read_all(ring, ring.first_after) == ["2-0-0", "2-0-1"]


def test_a_notice_before_ids_that_begin_anew_stays() -> None:
    ring = ring_of(1, 1)
    behind = ring.head
    ring.append_notice(b"gap")
    ring.append("1-5", "1-0", [b"m"])
    assert read_all(ring, ring.first_after) == ["gap", "1-5-0"]
    assert read_all(ring, behind) == ["gap", "1-5-0"], "who had everything misses nothing"
    data, place, _ = ring.read_from_cursor(parse_cursor("1-0"), IDS)
    assert read_all(ring, place, data) == ["gap", "1-5-0"]
    with pytest.raises(BehindRing):
        ring.read_from_cursor(parse_cursor("2-0-0"), IDS)


def test_cursors_after_a_dropped_notice_are_refused() -> None:
    ring = ring_of(1, max_bytes=1)
    ring.append_notice(b"n")
    ring.append("2-0", "0-0", [b"m"])
    with pytest.raises(BehindRing):
        ring.read_from_cursor(parse_cursor("1-0-0"), IDS)


def test_the_present_epoch_begins_after_its_notice() -> None:
    ring = Ring("lite", MANY)
    ring.begin_after("0-0")
    ring.append("1-0", "0-0", [b"m"])
    ring.append_notice(b"other")
    data, place, _ = ring.read_from_cursor(parse_cursor("0"), IDS)
    assert read_all(ring, place, data) == ["1-0-0", "other"]
    ring.append_notice(b"gap", resets=True)
    assert ring.read_from_cursor(parse_cursor("0"), IDS) == (b"", ring.head, 0)
    ring.append("2-0", "0-0", [b"m"])
    data, place, _ = ring.read_from_cursor(parse_cursor("0"), IDS)
    assert read_all(ring, place, data) == ["2-0-0"]
    data, place, _ = ring.read_from_cursor(parse_cursor("1-0-0"), IDS)
    assert read_all(ring, place, data) == ["other", "gap", "2-0-0"]


def test_a_ring_that_begins_within_an_epoch_does_not_have_all_of_it() -> None:
    ring = Ring("lite", MANY)
    ring.begin_after("7-0")
    ring.append("8-0", "7-0", [b"m"])
    with pytest.raises(BehindRing):
        ring.read_from_cursor(parse_cursor("0"), IDS)


def test_the_rest_of_a_slot_is_counted() -> None:
    ring = ring_of(5, 2)
    assert ring.read_from_cursor(parse_cursor("1-0-1"), IDS)[2] == 3
    assert ring.read_from_cursor(parse_cursor("1-0-4"), IDS)[2] == 0


def test_the_newest_message() -> None:
    ring = ring_of()
    ring.append_notice(b"gap")
    assert ring.latest(1) == []
    assert ring.has_messages is False
    ring.append("3-1", "0-0", [b"a", b"b"])
    ring.append_notice(b"gap")
    assert bool(ring.has_messages)
    assert ring.latest(1) == [("3-1-1", b"b")]
    assert ring.latest(2) == [("3-1-1", b"b"), ("3-1-0", b"a")]
    ring.append("4-0", "3-1", [b"c"])
    assert ring.latest(0) == []
    assert [key for key, _ in ring.latest(2)] == ["4-0-0", "3-1-1"]


class Model:
    """The items of a ring as a list, and the number of those that it has dropped."""

    def __init__(self) -> None:
        self.items: list[list[str]] = []  # per slot
        self.entries: list[str | None] = []  # of each slot; None for a notice
        self.dropped = 0  # slots
        self.total = 0  # items dropped

    def rest(self, slots: int) -> list[str]:
        """Return what follows a number of slots."""
        return [item for items in self.items[slots:] for item in items]

    def drop(self, slots: int) -> None:
        """Drop the oldest slots until this many were dropped."""
        while self.dropped < slots:
            self.total += len(self.items.pop(0))
            self.entries.pop(0)
            self.dropped += 1


@given(
    st.lists(
        st.one_of(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.none()), max_size=12
    ),
    st.sampled_from((1, 20, 40, 1000)),
    st.integers(0, 3),
    st.integers(1, 30),
)
def test_a_ring_is_a_list_of_the_newest_items(
    steps: list[list[int] | None], max_bytes: int, first: int, limit: int
) -> None:
    ring, model = Ring("lite", max_bytes, first), Model()
    assert ring.is_empty
    ring.begin_after("0-0")
    size, number, sizes = 0, 0, list[int]()
    for step in steps:
        if step is None:
            ring.append_notice(b"gap")
            model.items.append(["gap"])
            model.entries.append(None)
            sizes.append(3)
        else:
            number += 1
            ring.append(f"{number}-0", f"{number - 1}-0", [b"m" * length for length in step])
            model.items.append([f"{number}-0-{at}" for at in range(len(step))])
            model.entries.append(f"{number}-0")
            sizes.append(sum(step))
        size += sizes[-1]
        while size > max_bytes and len(sizes) > 1:
            size -= sizes.pop(0)
        model.drop(len(model.items) + model.dropped - len(sizes))
        _agree(ring, model, first + model.dropped, size)
    _agree_on_reads(ring, model, first + model.dropped, limit)
    ring.clear()
    assert (ring.size, ring.is_empty, ring.has_begun) == (0, True, False)


def _agree(ring: Ring, model: Model, first: int, size: int) -> None:
    """Compare everything that a ring shows; `first` is the number of its oldest slot."""
    assert ring.size == size
    assert ring.is_empty is not bool(model.items)
    present = [entry for entry in model.entries if entry]
    assert ring.has_messages is bool(present)
    assert ring.oldest == (present[0] if present else None)
    messages = [item for item in model.rest(0) if item != "gap"]
    for count in (1, 3):
        assert [key for key, _ in ring.latest(count)] == messages[::-1][:count]
    assert ring.position_at(first - 1) is None
    assert ring.head.number == first + len(model.items)
    assert ring.head.total == model.total + len(model.rest(0))
    assert ring.position_at(ring.head.number) is ring.head
    for slots in range(len(model.items)):
        position = ring.position_at(first + slots)
        assert position is not None
        assert position.number == first + slots
        assert position.total == model.total + len(model.rest(0)) - len(model.rest(slots))
        assert next(slot.before for slot in ring.slots_from(position.number)) is position
        if (entry := model.entries[slots]) is not None:
            last = len(model.items[slots]) - 1
            assert ring.find(parse_cursor(entry)) == first + slots + 1
            assert ring.find(parse_cursor(f"{entry}-{last}")) == first + slots + 1
            assert ring.find(parse_cursor(f"{entry}-0")) == first + slots + (not last)
    assert len(list(ring.slots_from(first - 1))) == len(model.items)


def _agree_on_reads(ring: Ring, model: Model, first: int, limit: int) -> None:
    """Compare reads from each position: as many slots as reach the limit, at least one."""
    size = ring.size
    texts = [slot.text_bytes for slot in ring.slots_from(first - 1)]
    counted = [max(len(_text(model, at, at + 1)), text) for at, text in enumerate(texts)]
    for slots in range(len(model.items)):
        position = ring.position_at(first + slots)
        assert position is not None
        end = slots + 1
        while end < len(model.items) and sum(counted[slots:end]) < limit:
            end += 1
        data, after = ring.read(position, IDS, limit)
        assert data.decode() == _text(model, slots, end)
        assert after.number == first + end
        data, after = ring.read(position, IDS, MANY, end=position.number + 1)
        assert data.decode().split() == model.items[slots]
        assert after.number == position.number + 1
    assert ring.size == size + sum(len(item) + 1 for item in model.rest(0))


def _text(model: Model, begin: int, end: int) -> str:
    """Return some slots as `IDS` encodes them."""
    return "".join(f"{item} " for items in model.items[begin:end] for item in items)


class Chosen:
    """A selection of the first, or last, message of each slot; it evaluates all slots or none."""

    def __init__(self, *, evaluates: bool, last: bool = False) -> None:
        self._evaluates = evaluates
        self._last = last

    def evaluates(self, _: Slot) -> bool:
        return self._evaluates

    def must_look_up(self, _: Slot) -> bool:
        return self._evaluates

    def evaluate(self, slot: Slot, secs: float) -> bool:
        raise AssertionError(slot, secs)

    def forget(self, slots: Iterable[Slot]) -> None:
        raise AssertionError(slots)

    def select(self, slot: Slot, skip: int) -> Iterator[tuple[int, bytes]]:
        number = len(slot.messages) - 1 if self._last else 0
        yield from [(number, slot.messages[number])][skip:]


def test_a_selection_keeps_the_positions_of_its_messages() -> None:
    ring = ring_of(5, message=b"m" * (SLOT_BYTES // 2))
    encoding = msgspec.structs.replace(IDS, selection=Chosen(evaluates=False))
    assert ring.read(ring.first_after, encoding, MANY)[0] == b"1-0-0 1-0-2 1-0-4 "
    encoding = msgspec.structs.replace(IDS, selection=Chosen(evaluates=False, last=True))
    assert ring.read(ring.first_after, encoding, MANY)[0] == b"1-0-1 1-0-3 1-0-4 "


@pytest.mark.parametrize(
    ("evaluates", "limit", "end"),
    [(True, 13, 1), (True, 14, 2), (False, 6, 1), (False, 7, 2), (False, 12, 2), (False, 13, 3)],
)
def test_a_read_counts_what_a_selection_evaluates_and_what_it_selects(
    evaluates: bool, limit: int, end: int
) -> None:
    ring = ring_of(*[7] * 5)  # 7 bytes each, and 6 that are selected
    encoding = msgspec.structs.replace(IDS, selection=Chosen(evaluates=evaluates))
    assert ring.read(ring.first_after, encoding, limit)[1].number == end


class Compressed:
    """A context that compresses some slots, of which some restart it."""

    def __init__(self, *plan: str) -> None:
        self._plan = iter(plan)

    def frames(self, entry: str, first: int, messages: Sequence[bytes]) -> SharedFrames | None:
        kind = next(self._plan)
        if kind == "none":
            return None
        return SharedFrames(f"({entry})".encode(), kind == "restart")


def test_a_client_is_in_step_from_a_restart_to_a_slot_without_frames() -> None:
    ring = Ring("lite", MANY)
    ring.context = cast("SharedContext", Compressed("next", "restart", "next", "none", "next"))
    for number in range(1, 4):
        ring.append(f"{number}-0", f"{number - 1}-0", [b"m"])
    ring.append_notice(b"n")
    for number in range(4, 6):
        ring.append(f"{number}-0", f"{number - 1}-0", [b"m"])
    read: list[tuple[bytes, bool]] = []
    position, in_step = ring.first_after, False
    while position is not ring.head:
        data, position, in_step = ring.read_shared(position, IDS, 1, in_step=in_step)
        read.append((data, in_step))
    assert read == [
        *((b"1-0-0 ", False), (b"(2-0)", True), (b"(3-0)", True), (b"n ", True)),
        *((b"4-0-0 ", False), (b"5-0-0 ", False)),
    ]
    data, position, in_step = ring.read_shared(ring.first_after, IDS, MANY, in_step=True)
    assert (data, position, in_step) == (b"(1-0)(2-0)(3-0)n 4-0-0 5-0-0 ", ring.head, False)
    assert ring.read_shared(ring.head, IDS, 1, in_step=True) == (b"", ring.head, True)


@pytest.mark.parametrize(("limit", "end"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (99, 3)])
def test_a_shared_read_ends_with_the_slot_that_reaches_its_limit(limit: int, end: int) -> None:
    ring = ring_of(2, 2, 2)
    assert ring.read_shared(ring.first_after, IDS, limit, in_step=False)[1].number == end


def test_a_slot_ends_with_the_message_that_reaches_its_size() -> None:
    ring = Ring("lite", MANY)
    sizes = [SLOT_BYTES - 1, 1, SLOT_BYTES - 1, 1, SLOT_BYTES, 1]
    ring.append("1-0", "0-0", [b"m" * size for size in sizes])
    assert [len(slot.messages) for slot in ring.slots_from(0)] == [2, 2, 1, 1]


def test_notices_that_stay_have_positions_after_the_lost_batches() -> None:
    ring = ring_of(2, 1)
    ring.append_notice(b"old")
    ring.append("3-0", "2-0", [b"m"])
    ring.append_notice(b"first")
    ring.append_notice(b"second")
    ring.append("1-5", "1-0", [b"m"])
    assert [
        (slot.before.number, slot.before.total, str(slot.before), slot.after.total)
        for slot in ring.slots_from(0)
    ] == [(4, 5, "1-0", 6), (5, 6, "1-0", 7), (6, 7, "1-0", 8)]
    assert (ring.head.number, ring.head.total, ring.size) == (7, 8, len(b"firstsecondm"))


class SlowSelection:
    """Selects everything. Evaluating a slot takes 2 s, and ends if there was less time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left: list[float] = []
        self.forgotten: list[Slot] = []

    def evaluates(self, slot: Slot) -> bool:
        return True

    def must_look_up(self, slot: Slot) -> bool:
        return True

    async def place(self) -> None:
        return

    def evaluate(self, slot: Slot, secs: float) -> bool:
        self.left.append(secs)
        self.now += 2
        return secs >= 2

    def forget(self, slots: Iterable[Slot]) -> None:
        self.forgotten += slots

    def select(self, slot: Slot, skip: int) -> Iterator[tuple[int, bytes]]:
        yield from enumerate(slot.messages[skip:], skip)


def test_a_read_ends_before_the_slot_at_which_its_time_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selection = SlowSelection()
    monkeypatch.setattr(ring_buffer, "perf_counter", lambda: selection.now)
    ring = ring_of(1, 1, 1, 1)
    encoding = msgspec.structs.replace(IDS, selection=selection)
    for expected, left in ((b"1-0-0 2-0-0 ", [5.0, 3.0, 1.0]), (b"", [1.0])):
        selection.left.clear()
        selection.forgotten.clear()
        data, position = ring.read(ring.first_after, encoding, MANY, secs=left[0])
        assert (data, selection.left) == (expected, left)
        read = [slot.entry for slot in selection.forgotten]
        assert read == [name.removesuffix("-0") for name in expected.decode().split()]
        assert position.number == len(read)


def test_a_new_ring_has_begun_after_no_batch() -> None:
    ring = Ring("lite", MANY)
    assert ring.has_begun is False
    for cursor in ("0", "1-0"):
        with pytest.raises(BehindRing):
            ring.read_from_cursor(parse_cursor(cursor), IDS)
    ring.begin_after("1-0")
    assert ring.read_from_cursor(parse_cursor("1-0"), IDS) == (b"", ring.head, 0)
