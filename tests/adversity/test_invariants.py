"""The judge of the runs under random faults, with made-up lines and clients."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis
import msgspec
import pytest

from certbus.keys import Keys
from certbus.streams.events import CURSOR_AHEAD_REASON, FORGOTTEN, NOT_RETAINED_REASON, RESET
from simlog.api.request_stats import Counts
from simlog.fault_types import Malformed, parse
from simlog.oracle.check_message import GroundTruth
from simlog.oracle.ground_truth import TruthEntry
from tests.adversity import controls, lines
from tests.adversity.__main__ import summary
from tests.adversity.clients import FILTER, TEXTS, Profile, Texts, Transcript
from tests.adversity.clients import Line as Noted
from tests.adversity.cluster import INVALID, ends_rightly
from tests.adversity.faults import LOG_FAULTS, EmptyRedis, LogFault, ShiftClock, StopAtPublish
from tests.adversity.invariants import (
    MAX_MIB,
    RATE_SPAN_SECS,
    Client,
    Gap,
    Message,
    client_of,
    of_client,
    of_memory,
    of_operators,
    of_redis,
)
from tests.adversity.lines import Held, Line
from tests.adversity.plan import Plan, draw
from tests.adversity.run import NOT_CHECKED, Result, lets_marks_expire
from tests.adversity.tail import REPEATS_SECS, Output, ended_wrongly
from tests.paths import ROOT

LOST = "the server lost it"


def line(name: str, *messages: str, retained: str | None = None) -> Line:
    """A line of messages such as "3a": id 3-0-0, about certificate a."""
    held = tuple(Held(f"{text[:-1]}-0-0", text[-1], (text[-1],)) for text in messages)
    kept = messages if retained is None else retained.split()
    ids = frozenset(f"{text[:-1]}-0-0" for text in kept)
    return Line(name, held, {"full": ids, "lite": ids, "domains": ids})


REASONS = {
    "trimmed": NOT_RETAINED_REASON,
    "lost": LOST,
    "future": CURSOR_AHEAD_REASON,
    "forgot": FORGOTTEN,
    "reset": RESET,
}


def client(received: str) -> Client:
    """A client that got this: messages as in `line`, gaps by their reason.

    A gap is from the message before it to the one after it; "trimmed:2:4" from 2-0-0 to 4-0. After
    "lost/" the connection ends.
    """
    items: list[Message | Gap] = []
    words = received.split()
    for at, word in enumerate(words):
        reason, *ends = word.rstrip("/").split(":")
        if reason in REASONS:
            last = next((i.id for i in reversed(items) if isinstance(i, Message)), "0-0")
            following = next((w[:-1] for w in words[at + 1 :] if w[:-1].isdigit()), None)
            begin, end = (f"{ends[0]}-0-0", ends[1]) if ends else (last, following)
            oldest = f"{end}-0" if end and reason != "future" else None
            items.append(Gap(at, begin, oldest, REASONS[reason], is_last=word.endswith("/")))
        else:
            order = (int(word[:-1]), 0, 0)
            items.append(Message(at, f"{word[:-1]}-0-0", order, word[-1], ()))
    return Client("client", "lite", tuple(items))


ONE = (line("0", "1a", "2b", "3c", "4d"),)
TRIMMED = (line("0", "1a", "2b", "3c", "4d", retained="4d"),)
EMPTIED = (line("0", "1a", "2b", "3c"), line("1", "5d", "6e"))
EMPTIED_AND_TRIMMED = (line("0", "1a", "2b"), line("1", "5d", "6e", retained="6e"))
REWOUND = (line("0", "1a", "2b", "3c", "4d"), line("1", "1a", "2b", "5c", "6d", "7e"))
TRIMMED_AGAIN = (line("1", "1a", "2b", "5c", "6d", "7e", retained="6d 7e"),)
RETAINED = dict.fromkeys(("full", "lite", "domains"), frozenset[str]())
SKIPPED = (REWOUND[0], line("1", "1a", "5f", "6d", "7e"))
BEHIND = (line("0", "1a", "2b", "5x", retained=""), line("1", "1a", "3c", "4d", "6x", "7b"))
"""The first is the one of a primary that is cut off."""
BEGUN_LATER = (
    line("0", "1a"),
    line("1", "5d", "6e", "7f"),
    line("2", "5d", "6e", "8f", retained="8f"),
)
REWOUND_AND_EMPTIED = (line("0", "1a", "2b"), line("1", "1a", "4d"), line("2", "5e"))
AGAIN = (REWOUND[0], line("1", "1a", "2b", "5c", "6d", "7e", retained="5c 6d 7e"))


def kinds(received: str, lines: tuple[Line, ...], lost_since: float | None = 0) -> set[str]:
    return {trouble.kind for trouble in of_client(client(received), lines, lost_since)}


@pytest.mark.parametrize(
    ("received", "lines"),
    [
        ("1a 2b 3c 4d", ONE),
        ("2b 3c 4d", ONE),  # it began there
        ("1a trimmed 4d", TRIMMED),
        ("1a 2b 3c lost 5d 6e", EMPTIED),
        ("1a lost 5d 6e", EMPTIED),
        ("1a 2b 3c 4d lost 5c 6d 7e", REWOUND),
        ("1a 2b 3c 4d lost 7e", REWOUND),  # it has those certificates
        ("1a 2b 3c lost 5c 6d 7e", REWOUND),
        ("1a 2b 3c lost 2b 5c 6d 7e", REWOUND),
        ("1a 2b lost 6e", EMPTIED_AND_TRIMMED),
        ("1a 2b 3c trimmed 5c 6d 7e", REWOUND),  # from a gateway that began after the loss
        ("1a 2b", (EMPTIED[0], line("1"))),  # nothing followed
        ("1a 3c lost 5x lost 3c 4d 6x 7b", BEHIND),  # between from the one that is cut off
        ("1a 3c future lost:5:3 3c 4d 6x 7b", BEHIND),  # a heartbeat moved it to 5
        ("1a 3c future 3c 4d 6x 7b", BEHIND),  # to 1
        ("1a trimmed/ 4d", TRIMMED),
        ("1a trimmed:1:4/ 2b 3c 4d", TRIMMED),  # from the memory of another gateway
        ("1a 2b trimmed trimmed:3:4 4d", TRIMMED),  # the first one moved it on
        ("1a 2b 3c forgot 4a", (line("0", "1a", "2b", "3c", "4a"),)),
        ("1a 2b 3c lost 5c trimmed 6d 7e", (REWOUND[0], *TRIMMED_AGAIN)),
        ("1a lost 6e 7f", BEGUN_LATER),
        ("1a 4d lost 5e", REWOUND_AND_EMPTIED),  # 2b was to be read again
    ],
)
def test_what_is_right(received: str, lines: tuple[Line, ...]) -> None:
    assert kinds(received, lines) == set()


@pytest.mark.parametrize(
    ("received", "lines", "kind"),
    [
        ("1a 2b 4d", ONE, "lost although Redis holds them"),
        ("1a 2b 3c", ONE, "lost although Redis holds them"),
        ("1a lost 4d", ONE, "lost although Redis holds them"),
        ("1a 4d", TRIMMED, "lost without a gap"),
        ("trimmed 1a 4d", TRIMMED, "lost without a gap"),
        ("1a 4d trimmed", TRIMMED, "lost without a gap"),
        ("1a 2b 5d 6e", EMPTIED, "lost without a gap"),
        ("1a 2b 5d lost 6e", EMPTIED, "lost without a gap"),
        ("1a lost 2b 5d 6e", EMPTIED, "lost without a gap"),
        ("1a lost 2b 6e", EMPTIED_AND_TRIMMED, "lost without a gap"),
        ("1a 4d 5e", REWOUND_AND_EMPTIED, "lost without a gap"),
        ("1a 4d 5e lost", REWOUND_AND_EMPTIED, "lost without a gap"),
        ("1a 2b 3c 4d lost 6d 7e", SKIPPED, "lost although Redis holds them"),
        ("1a 2b 2b 3c 4d", ONE, "repeated without a gap before"),
        ("1a 2b 3c 4d 5c 6d 7e", REWOUND, "repeated without a gap before"),
        ("1a 2b 3c 4d trimmed 1a 2b 3c 4d", ONE, "repeated without a gap before"),
        ("1a 2b 3c 4d lost 1a 2b 3c 4d", ONE, "repeated without a gap before"),
        ("1a 2b 5c lost 5c 6d 7e", AGAIN, "repeated without a gap before"),
        ("1a 3c future 4d lost 3c 4d 6x 7b", BEHIND, "repeated without a gap before"),
        ("1a 2b 4d 3c", ONE, "out of order"),
        ("1a trimmed 2b trimmed 3c trimmed 4d", ONE, "gaps for nothing"),
        ("1a lost 2b 3c 4d", ONE, "gaps for nothing"),
        ("1a 2b 3c lost 5c lost 6d 7e", AGAIN, "gaps for nothing"),
        ("1a trimmed:99:4 4d", TRIMMED, "gaps for nothing"),
        ("1a 2b 3c trimmed:3:99 4d", TRIMMED, "gaps for nothing"),
        ("1a trimmed:99:99 4d", TRIMMED, "gaps for nothing"),
        ("1a trimmed:3:4 4d", TRIMMED, "lost without a gap"),
        ("1a trimmed:1:2 4d", TRIMMED, "lost without a gap"),
        ("1a trimmed:1:3 4d", TRIMMED, "lost without a gap"),
        ("1a 2b lost:2:5 6e", EMPTIED_AND_TRIMMED, "lost without a gap"),
        ("1a forgot 4d", TRIMMED, "lost without a gap"),
        ("1a 2b 3c 4d 9z", ONE, "unknown to Redis"),
    ],
)  # fmt: skip
def test_what_is_wrong(received: str, lines: tuple[Line, ...], kind: str) -> None:
    assert kind in kinds(received, lines)


def test_a_gap_within_a_batch_is_for_nothing() -> None:
    one = client("1a trimmed 2b")
    first, gap, second = one.items
    assert isinstance(second, Message)
    same = msgspec.structs.replace(second, id="1-0-1", order=(1, 0, 1))
    lines = (Line("0", (Held("1-0-0", "a", ("a",)), Held("1-0-1", "b", ("b",))), RETAINED),)
    troubles = of_client(msgspec.structs.replace(one, items=(first, gap, same)), lines, 0)
    assert [trouble.kind for trouble in troubles] == ["gaps for nothing"]


def test_a_gap_of_trimming_before_the_loss_announces_no_repeats() -> None:
    found = kinds("1a 2b 3c trimmed 5c 6d 7e", REWOUND, lost_since=3.5)
    assert "repeated without a gap before" in found


def test_a_gap_before_anything_was_lost_is_for_nothing() -> None:
    assert kinds("1a 2b 3c lost 4d", ONE, lost_since=3.5) == {"gaps for nothing"}
    assert kinds("1a 2b 3c lost 4d", ONE, lost_since=None) == {"gaps for nothing"}


def test_a_filtered_client_is_owed_what_passes_only() -> None:
    names = {"a": "a.shop.example", "b": "b.example", "c": "paper.b.example", "d": "d.test"}
    held = tuple(Held(f"{n}-0-0", name, (names[name],)) for n, name in enumerate("abcd", 1))
    lines = (Line("0", held, {"lite": frozenset(each.id for each in held)}),)
    one = client("1a 3c")
    found = of_client(msgspec.structs.replace(one, is_filtered=True), lines, None)
    assert [trouble.kind for trouble in found] == []
    found = of_client(msgspec.structs.replace(client("1a"), is_filtered=True), lines, None)
    assert [trouble.kind for trouble in found] == ["lost although Redis holds them"]
    assert len(FILTER) == 3


def test_only_the_owner_of_a_lease_publishes() -> None:
    lines = (Line("0", (), RETAINED, fences={"1-0": "7:a", "2-0": "8:b"}),)
    truth = GroundTruth([])
    assert of_redis(lines, truth, {"1-0": "7:a", "2-0": "8:b"}, marks_may_expire=False) == []
    (found,) = of_redis(lines, truth, {"1-0": "7:a", "2-0": "7:a"}, marks_may_expire=False)
    assert found.kind == "published without the lease"


def tail_of(noted: str, form: str) -> Client:
    """Make a client of what processes of `tail` print.

    Args:
        noted: words: a digit is a message; "gap"; "later" is the time after which nothing is
            repeated; "killed@" and a digit is the end of a process, with the id stored.
        form: of the stored id, with {} for the digit.
    """
    data = {"requested": "2-0", "oldest": "3-0", "reason": NOT_RETAINED_REASON}
    gap = msgspec.json.encode({"message_type": "gap", "data": data})
    lines: list[Noted] = []
    at = 0.0
    for word in noted.split():
        if word == "later":
            at += REPEATS_SECS
        elif word.startswith("killed"):
            opened = f"address {form.format(word[-1])}".encode()
            lines += [Noted(at, "close", b"it is killed"), Noted(at, "open", opened)]
        elif word == "gap":
            lines.append(Noted(at, "text", gap))
        else:
            text = f'{{"id":"{word}-0-0","message_type":"dns_entries","data":["{word}.example"]}}'
            lines.append(Noted(at, "text", text.encode()))
    profile = Profile("tail", "domains", "hopping")
    return client_of(profile, lines, GroundTruth([]), lambda message_id, _: message_id[0])


@pytest.mark.parametrize(
    ("noted", "repeated"),
    [
        ("1 2 3 killed@1 2 3 4", ""),
        ("1 2 3 killed@3 2 3 4", "2 3"),
        ("1 2 3 killed@1 2 3 2 4", "2"),  # once by each process
        ("1 2 3 killed@1 2 3 killed@1 2 3 4", ""),
        ("1 2 3 killed@1 later killed@1 2 3 4", ""),  # the second process got nothing
        ("1 2 3 4 killed@1 2 killed@2 3 4", ""),  # the second process repeated a part
        ("1 2 3 4 killed@1 2 killed@2 3 4 2", "2"),
        ("1 2 killed@1 3 2", "2"),  # after something new
        ("1 2 3 later killed@1 2 3 4", "2 3"),
        ("1 2 3 killed@1 later 2 3 later killed@1 2 3", "2 3"),
    ],
)
@pytest.mark.parametrize("form", ["{}-0-0", "{}-0"], ids=["message", "batch"])
def test_tail_repeats_only_what_follows_its_cursor(noted: str, repeated: str, form: str) -> None:
    one = tail_of(noted, form)
    seen: set[str] = set()
    again = []
    for item in one.items:
        assert isinstance(item, Message)
        again += [item.id[0]] * (item.id in seen)
        seen.add(item.id)
    assert " ".join(again) == repeated


@pytest.mark.parametrize(("stored", "is_reported"), [("1-0-0", False), ("2-0-0", True)])
def test_what_tail_prints_follows_its_stored_id(stored: str, *, is_reported: bool) -> None:
    """After a fail-over it may print what its gateway alone has of an earlier primary."""
    texts = [
        f'{{"id":"{each}","message_type":"dns_entries","data":["{each}.example"]}}'.encode()
        for each in ("1-0-0", "4-0-0", "2-0-0", "5-0-0")
    ]
    lines = [
        *(Noted(n, "text", text) for n, text in enumerate(texts[:2])),
        Noted(3, "close", b"it is killed"),
        Noted(4, "open", f"address {stored}".encode()),
        *(Noted(5, "text", text) for text in texts[2:]),
    ]
    profile = Profile("tail", "domains", "hopping")
    one = client_of(profile, lines, GroundTruth([]), lambda message_id, _: message_id)
    assert [item.id for item in one.items if isinstance(item, Message)][2:] == ["2-0-0", "5-0-0"]
    kinds = {each.kind for each in of_client(one, (), 0)}
    assert ("out of order" in kinds) == is_reported


@pytest.mark.parametrize(
    ("cursor", "is_reported"), [("1-0-0", False), ("2-0-0", True), ("2-0-1", True)]
)
def test_a_gap_after_the_stored_id_of_tail_is_not_within_a_batch(
    cursor: str, *, is_reported: bool
) -> None:
    ids = ("1-0-0", "2-0-0", "2-0-1", "2-0-2")
    texts = [
        f'{{"id":"{each}","message_type":"dns_entries","data":["{each}.example"]}}'.encode()
        for each in ids
    ]
    data = {"requested": cursor, "oldest": "2-0", "reason": NOT_RETAINED_REASON}
    lines = [
        *(Noted(n, "text", text) for n, text in enumerate(texts[:3])),
        Noted(3, "close", b"it is killed"),
        Noted(4, "open", f"address {cursor}".encode()),
        Noted(5, "text", msgspec.json.encode({"message_type": "gap", "data": data})),
        *(Noted(6, "text", text) for text in texts[1 + ids.index(cursor) :]),
    ]
    profile = Profile("tail", "domains", "hopping")
    one = client_of(profile, lines, GroundTruth([]), lambda message_id, _: message_id)
    held = tuple(Held(each, each, ()) for each in ids)
    kinds = {each.kind for each in of_client(one, (Line("0", held, RETAINED),), 0)}
    assert ("gaps for nothing" in kinds) == is_reported


@pytest.mark.parametrize(
    ("noted", "gaps"),
    [
        ("1 gap 3 killed@1 gap 3 4", 1),
        ("1 2 gap 4 killed@1 2 gap 4", 1),
        ("1 2 gap 4 killed@1 killed@1 2 gap 4", 1),
        ("1 gap 3 killed@3 gap 4", 2),  # the stored id is after it
        ("1 gap 3 killed@1 3 4 gap", 2),  # after something new
        ("1 gap gap 3", 2),
        ("1 gap 3 later killed@1 gap 3", 2),
    ],
)
def test_tail_repeats_a_gap_only_after_its_cursor(noted: str, gaps: int) -> None:
    one = tail_of(noted, "{}-0-0")
    assert sum(isinstance(item, Gap) for item in one.items) == gaps


def test_tail_repeats_a_certificate_that_redis_lost_once_under_another_id() -> None:
    """The server cannot know what was printed after the stored id."""
    ids = {"2": "b", "3": "c", "4": "b", "5": "b"}  # and their certificates
    lines = [
        Noted(0, kind, what)
        for kind, what in (
            ("text", b"2"),
            ("close", b"it is killed"),
            ("open", b"address 1-0-0"),
            ("text", b"3"),
            ("text", b"4"),
            ("text", b"5"),
        )
    ]
    message = b'{"id":"%b-0-0","message_type":"dns_entries","data":["a.example"]}'
    lines = [
        msgspec.structs.replace(each, what=message % each.what) if each.kind == "text" else each
        for each in lines
    ]
    profile = Profile("tail", "domains", "hopping")
    one = client_of(profile, lines, GroundTruth([]), lambda message_id, _: ids[message_id[0]])
    assert [item.id[0] for item in one.items if isinstance(item, Message)] == ["2", "3", "5"]


def test_tail_repeats_a_certificate_under_each_id_that_it_had() -> None:
    """Redis was emptied in between, and the certificate published again."""
    certificates = {"2": "b", "3": "c", "4": "b", "5": "d"}
    message = b'{"id":"%b-0-0","message_type":"dns_entries","data":["a.example"]}'
    lines = [
        *(Noted(0, "text", message % each) for each in (b"2", b"3", b"4")),
        Noted(0, "close", b"it is killed"),
        Noted(0, "open", b"address 1-0-0"),
        *(Noted(1, "text", message % each) for each in (b"2", b"3", b"4", b"5")),
    ]
    profile = Profile("tail", "domains", "hopping")
    one = client_of(profile, lines, GroundTruth([]), lambda each, _: certificates[each[0]])
    assert [item.id[0] for item in one.items if isinstance(item, Message)] == ["2", "3", "4", "5"]


def test_a_rejection_whose_record_was_trimmed_counts(tmp_path: Path) -> None:
    keys, reason = Keys(), b"entry %d: " + lines.FORGED
    commands: list[tuple[bytes | str, ...]] = [("HSET", keys.log("ab"), "name", "rfc1")]
    for index in (2, 5, 5, 8):  # 5 was read again
        record = ("log", "ab", "index", str(index), "reason", reason % index, "raw", b"0")
        commands.append(("XADD", keys.rejected, f"{len(commands)}-0", *record))
    commands.append(("XTRIM", keys.rejected, "MINID", "4-1"))
    file = tmp_path / "appendonly.aof"
    packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
    file.write_bytes(b"".join(packed))
    found = lines.read(tmp_path, GroundTruth([]))
    assert found.forged == {("rfc1", 2), ("rfc1", 5), ("rfc1", 8)}
    assert [skip.first for skip in found.skips] == [2, 5, 5, 8]


def test_accounts_add_up_after_each_command(tmp_path: Path) -> None:
    log = Keys().log("ab")
    commands: list[tuple[str, ...]] = [
        ("HSET", log, "name", "rfc1", "start", "0", "next", "0"),
        ("HSET", log, "next", "5", "published", "3", "duplicates", "1", "rejected", "1"),
        ("HSET", log, "next", "9", "published", "6"),  # one less than it should be
        ("HSET", log, "next", "9", "published", "7"),
        ("HDEL", log, "published", "duplicates", "rejected", "skipped"),
        ("HSET", log, "start", "9", "next", "9"),
        ("HSET", log, "next", "12", "skipped", "3"),
    ]
    packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
    (tmp_path / "appendonly.aof").write_bytes(b"".join(packed))
    (trouble,) = lines.read(tmp_path, GroundTruth([])).troubles
    assert trouble.startswith("rfc1: 8 accounted")


def test_a_heartbeat_is_no_progress(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.client", Texts(tmp_path)
    (tmp_path / TEXTS).write_bytes(
        b'{"message_type":"heartbeat","timestamp":5,"id":"1-0"}\n{"id":"2-0-0","message_type":""}\n'
    )
    path.write_bytes(b"5.000 text 0\n")
    transcript = Transcript(path, texts)
    transcript.update()
    assert transcript.moved_after(4) is None
    path.write_bytes(b"5.000 text 0\n6.000 text 1\n")
    transcript.update()
    assert transcript.moved_after(4) == 6


def test_malformed_entries_are_in_the_trees_from_the_start() -> None:
    malformed = next(at for at, each in enumerate(LOG_FAULTS) if isinstance(each, Malformed))
    faults = [LogFault(at=9.5, log=log, fault=malformed - log, seconds=2.25) for log in (0, 1)]
    faults.append(LogFault(at=20, log=6, fault=malformed, seconds=1))
    plan = Plan(1, 60, 30, "redis6", 1, tuple(faults))
    parsed = [parse(text) for text in plan.malformed(["rfc1", "rfc2", "static1", "static2"])]
    assert parsed == [
        ("rfc1", Malformed(share=0.2, since=9.5, until=11.75)),
        ("static1", Malformed(share=0.2, since=20, until=21)),
    ]


def test_a_seed_draws_the_same_plan() -> None:
    one, same = (draw(5, 60, 30, ["redis6"], clock=True) for _ in range(2))
    assert one == same
    drawn = {
        name for seed in range(200) for name in draw(seed, 60, 30, ["redis6"], clock=True).drawn()
    }
    assert {"field profile", "bounded delay", "FillDisk", "LogFault Fork", "ShiftHost"} <= drawn
    assert {"FailOver killed", "FailOver stopped", "FailOver cut off"} <= drawn


@pytest.mark.parametrize(
    ("offset", "seconds", "may_expire"),
    [
        (3600, None, True),
        (-3600, None, True),
        (3600, 61, True),
        (3600, 12, False),
        (20, None, False),
    ],
)
def test_marks_expire_if_a_jump_of_the_clock_lasts(
    offset: float, seconds: float | None, *, may_expire: bool
) -> None:
    assert lets_marks_expire(ShiftClock(at=1, offset=offset, seconds=seconds)) == may_expire
    assert not lets_marks_expire(EmptyRedis(at=1, down=1, ingestors=False))


@pytest.mark.parametrize(
    ("first", "times", "is_reported"),
    [
        ("3600000-1", {"3600000-1": 1000}, False),  # made while the clock was an hour behind
        ("3600000-1", {}, True),
        ("3600000-1", {"3600000-1": 1000, "3601000-0": 3000}, True),  # the clock is behind still
        ("1000-0", {}, True),  # the clock was ahead for a moment
    ],
)
def test_a_certificate_is_published_twice(
    first: str, times: dict[str, int], *, is_reported: bool
) -> None:
    held = tuple(Held(f"{entry}-0", "a", ("a",)) for entry in (first, "3601000-0"))
    truth = GroundTruth([TruthEntry("log", 0, "a", is_precert=False, timestamp=0, names=())])
    found = of_redis((Line("0", held, RETAINED, times=times),), truth, {}, marks_may_expire=False)
    assert [trouble.kind for trouble in found] == ["published twice"] * is_reported


RETRYING = b"tail: ws://127.0.0.1:1/: [Errno 111] Connection refused; retrying"


@pytest.mark.parametrize(
    ("printed", "status", "is_reported"),
    [
        ([RETRYING], -9, False),
        ([], -9, False),
        ([RETRYING], 1, True),
        ([b"Traceback (most recent call last):", b"ValueError: no", RETRYING], -9, True),
        ([b"tail: unexpected response from ws://127.0.0.1:1/: no"], -9, True),
        ([b"tail: 3 certificates in 1.0 s, 3.0/s, no gaps"], 255, True),
        ([b"garbage"], -9, True),
    ],
)
def test_tail_ends_only_when_it_is_killed(
    printed: list[bytes], status: int, *, is_reported: bool
) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for text in [*printed, b'{"id":"1-0-0"}']:
            yield text + b"\n"
        yield b'{"id":"2-0-'

    async def read() -> list[str]:
        return [text async for text in output.texts(lines())]

    output = Output()
    assert asyncio.run(read()) == ['{"id":"1-0-0"}']
    why = b"it ended with %d" % status + (b": " + output.other if output.other else b"")
    assert ended_wrongly(why) == is_reported
    profile = Profile("tail", "lite", "hopping")
    one = client_of(profile, [Noted(1, "close", why)], GroundTruth([]), lambda *_: None)
    assert bool(one.unreadable) == is_reported


def test_a_gap_before_the_end_of_a_connection_is_marked() -> None:
    gap = msgspec.json.encode(
        {"message_type": "gap", "data": {"requested": "1-0", "oldest": "3-0", "reason": LOST}}
    )
    noted = [Noted(1, "text", gap), Noted(2, "text", gap), Noted(3, "close", b"it leaves")]
    profile = Profile("sse", "lite", "hopping")
    one = client_of(profile, noted, GroundTruth([]), lambda *_: None)
    assert [item.is_last for item in one.items if isinstance(item, Gap)] == [False, True]


@pytest.mark.parametrize("name", ["ingestor-1", "gateway-1"])
def test_an_invalid_configuration_ends_only_a_process_that_starts(name: str) -> None:
    started = "logs selected\n" if name == "ingestor-1" else "gateway started\n"
    refused = f"invalid configuration: {INVALID}\n"
    assert ends_rightly(name, refused)
    assert not ends_rightly(name, started + refused)
    assert not ends_rightly(name, "Killed\n")
    assert not ends_rightly("simlog", refused)


def test_logs_grow_beyond_a_stop_at_the_end() -> None:
    stop = StopAtPublish(at=55, seconds=20)
    assert Plan(1, 60, 30, "redis6", 1, (stop,)).end == 75
    assert Plan(1, 60, 30, "redis6", 1, ()).end == 60


def test_runs_whose_clients_were_not_checked_are_named() -> None:
    plan = Plan(7, 60, 30, "redis6", 1, ())
    results = [
        Result(plan, 0, [], [], {NOT_CHECKED: 1}),
        Result(msgspec.structs.replace(plan, seed=8), 0, [], [], {}),
    ]
    assert f"{NOT_CHECKED}: seeds 7" in summary(results, []).split("\n")


def test_what_a_failover_lost_is_read_again() -> None:
    truth = GroundTruth([TruthEntry("log", 0, "c", is_precert=False, timestamp=0, names=())])
    lines = (ONE[0], line("1", "1a", "2b"))
    assert of_redis(lines, truth, {}, marks_may_expire=False) == []
    (found,) = of_redis(lines, truth, {}, marks_may_expire=False, is_read_again=True)
    assert found.kind == "never published"


@pytest.mark.parametrize("name", controls.BREAKS)
def test_each_control_changes_one_place(name: str) -> None:
    change = controls.BREAKS[name]
    assert (ROOT / change.file).read_text().count(change.right) == 1


def test_more_requests_to_an_operator_than_its_rate_are_found() -> None:
    """One request in 100 ms is permitted, and 5 s of delay."""
    at_rate = Counts(buckets=[[at, 1] for at in range(0, 60_000, 100)])
    late = Counts(buckets=[*at_rate.buckets, [60_000, 51]])
    twice = Counts(buckets=[[at, 2] for at in range(0, 60_000, 100)])
    assert not of_operators({"one": at_rate, "late": late}, 0.1, 5)
    (trouble,) = of_operators({"one": at_rate, "twice": twice}, 0.1, 5)
    assert trouble.examples == (f"twice: 400 in {RATE_SPAN_SECS:g} s, 251 are permitted",)


def test_a_process_that_takes_too_much_memory_is_found() -> None:
    assert not of_memory({"gateway-1": MAX_MIB, "ingestor-1": MAX_MIB})
    (trouble,) = of_memory({"gateway-2": MAX_MIB + 1, "ingestor-1": 1.0})
    assert trouble.examples == (f"gateway-2: {MAX_MIB + 1:.0f} MiB",)
