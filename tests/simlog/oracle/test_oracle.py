"""The oracle calls a flawless delivery flawless, and every flaw by its name."""

from collections import Counter

import msgspec
import pytest

from ctparse import rfc6962
from ctparse.entry import Entry
from ctparse.wire_messages import MessageWriter, Source
from simlog.ctlog.rfc6962 import extra_data
from simlog.oracle.check_message import MessageForm
from simlog.oracle.oracle import Delivery, Tally, Verdict, judge
from simlog.spec import spread
from tests.simlog.worlds import grown, small

WORLD = grown(small(preload=60, logs=spread(2, 0, 1)))
RECORD = list(WORLD.entries())
FORMS: tuple[MessageForm, ...] = ("full", "lite", "domains")


def published() -> dict[MessageForm, list[bytes]]:
    """What an honest server would send: each certificate once, in entries of ten messages."""
    messages: dict[MessageForm, list[bytes]] = {"full": [], "lite": [], "domains": []}
    seen: set[bytes] = set()
    for name, log in WORLD.logs.items():
        source = Source(name, f"http://logs.test/{name}/", "Operator", "rfc6962")
        writer = MessageWriter(source, "http://logs.test/{}".format, rfc6962.chain_certificates)
        for index in range(log.head.size):
            made = log.entry(index)
            if made.certificate.sha256 in seen:
                continue
            message_id = f"1795300000000-{len(seen) // 10}-{len(seen) % 10}"
            seen.add(made.certificate.sha256)
            chain = extra_data(made)
            if made.certificate.is_precert:
                chain = chain[3 + len(made.certificate.der) :]
            entry = Entry(
                index,
                made.timestamp,
                made.certificate.is_precert,
                made.certificate.der,
                chain[3:],
                made.leaf,
            )
            message = writer.write(entry, made.certificate.sha256, 1795300001.5)
            for form, text in zip(
                FORMS, (message.full, message.lite, message.domains), strict=True
            ):
                messages[form].append(text.replace(b"{", b'{"id":"%b",' % message_id.encode(), 1))
    return messages


HONEST = published()
TALLIES = [
    Tally(name, 0, log.head.size, fresh, log.head.size - fresh)
    for name, log in WORLD.logs.items()
    for fresh in [sum(f'"name":"{name}"'.encode() in text for text in HONEST["lite"])]
]


def verdict(changed: MessageForm, messages: list[bytes]) -> Verdict:
    """Judge a client whose messages of one form are these, beside honest streams."""
    streams = [Delivery(f"stream {form}", form, HONEST[form]) for form in FORMS]
    return judge(RECORD, [*streams, Delivery("client", changed, messages)], TALLIES)


def edit(text: bytes, *path: str | int, to: object) -> bytes:
    """The message with one field changed."""
    content = msgspec.json.decode(text)
    *way, last = path
    at = content
    for step in way:
        at = at[step]
    at[last] = to
    return msgspec.json.encode(content)


@pytest.mark.parametrize("form", FORMS)
def test_honest_deliveries_are_flawless(form: MessageForm) -> None:
    heartbeat = b'{"message_type":"heartbeat","timestamp":1795300002}'
    found = verdict(form, [heartbeat, *HONEST[form], heartbeat])
    assert found.flawless, str(found)
    assert [each.received for each in found.findings] == [60] * 4
    assert "client: 60 of 60 certificates, all as it should be" in str(found)


@pytest.mark.parametrize("form", FORMS)
def test_a_lost_message(form: MessageForm) -> None:
    found = verdict(form, HONEST[form][:30] + HONEST[form][31:])
    assert list(found.findings[3].problems) == ["lost"]
    [lost] = found.findings[3].lost
    assert lost in {entry.sha256 for entry in RECORD}
    assert lost in str(found)
    assert not found.flawless


@pytest.mark.parametrize("form", FORMS)
def test_a_repeated_message(form: MessageForm) -> None:
    found = verdict(form, HONEST[form][:31] + HONEST[form][30:])
    assert list(found.findings[3].problems) == ["repeated", "disordered"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_certificate_under_a_new_id(form: MessageForm) -> None:
    new_id = "1795300000000-99-0"
    streams = [Delivery(f"stream {each}", each, HONEST[each]) for each in FORMS]
    again = [edit(HONEST[each][5], "id", to=new_id) for each in FORMS]
    streams += [Delivery("stream repeats", "full", [*HONEST["full"], again[0]])]
    client = Delivery("client", form, [*HONEST[form], again[FORMS.index(form)]])
    findings = judge(RECORD, [*streams, client]).findings
    assert list(findings[3].problems) == ["repeated"]
    assert list(findings[4].problems) == ["repeated"]


@pytest.mark.parametrize("form", FORMS)
def test_messages_in_another_order(form: MessageForm) -> None:
    messages = list(HONEST[form])
    messages[10], messages[11] = messages[11], messages[10]
    found = verdict(form, messages)
    assert list(found.findings[3].problems) == ["disordered"]


@pytest.mark.parametrize("form", FORMS)
def test_a_reported_gap(form: MessageForm) -> None:
    gap = (
        b'{"message_type":"gap","data":{"requested":"1-0-0","oldest":"2-0-0","reason":"retention"}}'
    )
    found = verdict(form, [gap, *HONEST[form]])
    assert list(found.findings[3].problems) == ["gaps"]
    assert "retention" in str(found)


@pytest.mark.parametrize(
    ("form", "path", "to"),
    [
        ("lite", ("data", "update_type"), "SomethingElse"),
        ("lite", ("data", "leaf_cert", "not_after"), 5),
        ("lite", ("data", "leaf_cert", "all_domains"), ["evil.example"]),
        ("lite", ("data", "leaf_cert", "as_der"), "AAAA"),
        ("lite", ("data", "chain"), []),
        ("lite", ("data", "seen"), 7.0),
        ("full", ("data", "leaf_cert", "serial_number"), "00"),
        ("full", ("data", "submission_timestamp"), 1.0),
        ("full", ("data", "leaf_cert", "extensions", "subjectAltName"), "DNS:evil.example"),
        ("domains", ("data",), ["evil.example"]),
        ("domains", ("message_type",), "certificate_update"),
    ],
)
def test_an_altered_message(form: MessageForm, path: tuple[str, ...], to: object) -> None:
    messages = list(HONEST[form])
    messages[20] = edit(messages[20], *path, to=to)
    found = verdict(form, messages)
    assert list(found.findings[3].problems) == ["altered"], str(found)


@pytest.mark.parametrize("form", ["full", "lite"])
def test_a_certificate_that_no_log_holds_there(form: MessageForm) -> None:
    streams = [Delivery(f"stream {each}", each, HONEST[each]) for each in FORMS]
    strange = edit(HONEST[form][20], "data", "cert_index", to=12345)
    strange = edit(strange, "id", to="1795300000000-98-0")
    client = Delivery("client", form, [*HONEST[form], strange])
    findings = judge(RECORD, [*streams, client]).findings
    assert list(findings[3].problems) == ["unknown"]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'{"message_type":"certificate_update"}', b'{"data":[]}']
)
@pytest.mark.parametrize("form", FORMS)
def test_an_unreadable_message_is_a_problem_of_its_own(form: MessageForm, text: bytes) -> None:
    found = verdict(form, [*HONEST[form], text])
    assert list(found.findings[3].problems) == ["unknown"]


def test_another_certificate_under_a_known_id() -> None:
    messages = list(HONEST["full"])
    messages[20] = edit(messages[21], "id", to=msgspec.json.decode(messages[20])["id"])
    found = verdict("full", messages)
    assert "altered" in found.findings[3].problems


@pytest.mark.parametrize(
    ("changes", "text_part"),
    [
        ({"duplicates": 1}, "entries accounted"),
        ({"next": 7}, "position is 7 of"),
        ({"rejected": 1}, "1 entries rejected, 0 are malformed"),
        ({"skipped": 1}, "1 entries skipped, 0 for a reason"),
        ({"published": 0}, "published of 60 certificates"),
        ({"log": "other"}, "nothing accounted"),
    ],
)
def test_accounts_that_do_not_add_up(changes: dict[str, object], text_part: str) -> None:
    tallies = [msgspec.structs.replace(TALLIES[0], **changes), *TALLIES[1:]]
    found = judge(RECORD, [], tallies)
    assert not found.flawless
    assert text_part in str(found)


UNCOMMITTED = msgspec.structs.replace(
    RECORD[20], sha256="ab" * 32, names=("other.example",), misbehaviour="swapped_leaf"
)


def lying(text: bytes) -> bytes:
    """The message of an entry, as it would be about what was shown instead of entry 20."""
    place = msgspec.json.decode(text)
    place["id"] = "1795300000000-97-0"
    place["data"]["cert_index"] = UNCOMMITTED.index
    place["data"]["source"]["name"] = UNCOMMITTED.log
    place["data"]["leaf_cert"]["sha256"] = bytes.fromhex(UNCOMMITTED.sha256).hex(":").upper()
    place["data"]["leaf_cert"]["all_domains"] = list(UNCOMMITTED.names)
    return msgspec.json.encode(place)


@pytest.mark.parametrize("form", FORMS)
def test_a_published_entry_that_is_not_committed_to(form: MessageForm) -> None:
    shown: dict[MessageForm, bytes] = {
        "full": lying(HONEST["full"][20]),
        "lite": lying(HONEST["lite"][20]),
        "domains": (
            b'{"id":"1795300000000-97-0","message_type":"dns_entries","data":["other.example"]}'
        ),
    }
    streams = [Delivery(f"stream {each}", each, [*HONEST[each], shown[each]]) for each in FORMS]
    client = Delivery("client", form, [*HONEST[form], shown[form]])
    for findings in judge([*RECORD, UNCOMMITTED], [*streams, client]).findings:
        assert list(findings.problems) == ["uncommitted"], findings.problems
        [found] = findings.uncommitted
        assert "swapped_leaf" in found
        assert UNCOMMITTED.sha256 in found


@pytest.mark.parametrize("form", FORMS)
def test_misbehaviour_that_is_not_published_is_no_problem(form: MessageForm) -> None:
    streams = [Delivery(f"stream {each}", each, HONEST[each]) for each in FORMS]
    found = judge(
        [*RECORD, UNCOMMITTED], [*streams, Delivery("client", form, HONEST[form])], TALLIES
    )
    assert found.flawless, str(found)


def test_what_is_excused_may_be_missing_or_there() -> None:
    log = TALLIES[1].log
    held_back = {entry.sha256 for entry in RECORD if entry.log == log and entry.index >= 10}
    only_there = held_back - {e.sha256 for e in RECORD if e.log != log or e.index < 10}
    assert len(only_there) > 5
    for missing in (only_there, {min(only_there)}, set[str]()):
        client = Delivery("client", "full", without(missing))
        assert judge(RECORD, [client], excused={log: range(10, 1000)}).flawless
        assert set(judge(RECORD, [client]).findings[0].lost) == missing


def without(sha256s: set[str]) -> list[bytes]:
    """The honest full messages, but for those of these certificates."""
    absent = [bytes.fromhex(sha256).hex(":").upper().encode() for sha256 in sha256s]
    return [text for text in HONEST["full"] if not any(each in text for each in absent)]


def test_accounts_of_logs_that_are_held_back_or_skipped() -> None:
    first, second = TALLIES
    held = msgspec.structs.replace(first, published=4, duplicates=0, next=4)
    excused = {first.log: range(4, first.next)}
    alone = msgspec.structs.replace(second, published=second.next, duplicates=0)
    assert not judge(RECORD, [], [held, alone]).flawless
    assert judge(RECORD, [], [held, alone], excused).flawless
    alone_there = {e.index for e in RECORD if e.log == first.log and e.sha256 not in repeated()}
    start = next(at for at in range(first.next) if {at, at + 1, at + 2} <= alone_there)
    skipping = msgspec.structs.replace(first, published=first.published - 3, skipped=3)
    assert not judge(RECORD, [], [skipping, second]).flawless
    assert judge(RECORD, [], [skipping, second], {first.log: range(start, start + 3)}).flawless
    assert not judge(RECORD, [], [skipping, second], {first.log: range(start, start + 2)}).flawless


def test_malformed_entries_are_to_be_rejected_and_not_delivered() -> None:
    entry = next(each for each in RECORD if each.sha256 not in repeated())
    malformed = msgspec.structs.replace(entry, sha256="cd" * 32, names=(), malformed=True)
    record = [malformed if each == entry else each for each in RECORD]
    delivered = without({entry.sha256})
    assert len(delivered) == len(HONEST["full"]) - 1
    tallies = [
        msgspec.structs.replace(each, published=each.published - 1, rejected=1)
        if each.log == entry.log
        else each
        for each in TALLIES
    ]
    found = judge(record, [Delivery("client", "full", delivered)], tallies)
    assert found.flawless, str(found)
    assert "rejected, 1 are malformed" in str(judge(record, [], TALLIES))


def repeated() -> set[str]:
    """SHA-256 of what more than one log holds."""
    counts = Counter(entry.sha256 for entry in RECORD)
    return {sha256 for sha256, count in counts.items() if count > 1}
