"""Which logs there are, and what they are called."""

import asyncio
import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from certbus.caches.log_lists import LogListCache, RawList
from certbus.keys import Keys, operator_key
from certbus.logs.registry import LogRegistry
from certconf.current import ConfigHolder
from certconf.settings import GOOGLE_LIST, Config, CustomLog, LogList
from ctparse.entry import Malformed
from ctparse.signatures import BadSignature, verify_log_list
from ingestor.assignment.start_position import StartSettings, choose_start, read_rust_state
from ingestor.client.http import Fetcher
from ingestor.log import READ_MARGIN_SECS, Kind, Log, normalise, read_log_id, resolve_log_id
from ingestor.loglists.catalog import Catalog
from ingestor.loglists.merge import merge
from ingestor.loglists.parser import MAX_LOGS, is_followed, parse
from ingestor.loglists.source import ListRejected, Source, bundled_list
from ingestor.redis_retry import RedisRetry
from tests.paths import FIXTURES
from tests.waiting import until

BOTH = frozenset(Kind)
NOW = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
KEY = b"key of a log"
KEY_ID = hashlib.sha256(KEY).hexdigest()


def test_the_packaged_list_is_googles_and_signed() -> None:
    body, signature = bundled_list("log_list.json"), bundled_list("log_list.sig")
    pem = bundled_list("log_list_pubkey.pem")
    verify_log_list(body, signature, pem)
    with pytest.raises(BadSignature):
        verify_log_list(body.replace(b"Argon2026h2", b"Argon2026h3"), signature, pem)


def test_logs_of_googles_list() -> None:
    logs = {log.name: log for log in parse(bundled_list("log_list.json")).logs}
    argon = logs["Google 'Argon2026h2' log"]
    assert argon.id == base64.b64decode("1219ENGn9XfCx+lf1wC/+YLJM1pl4dCzAXMXwMjFaXc=").hex()
    assert argon.url == "https://ct.googleapis.com/logs/us1/argon2026h2/"
    assert argon.operator == "Google"
    assert argon.state == "usable"
    sycamore = logs["Let's Encrypt 'Sycamore2026h1'"]
    assert sycamore.kind is Kind.STATIC_CT
    assert sycamore.url == "https://mon.sycamore.ct.letsencrypt.org/2026h1/"
    assert sycamore.origin == "log.sycamore.ct.letsencrypt.org/2026h1"


def test_logs_that_still_matter_are_followed() -> None:
    logs = parse(bundled_list("log_list.json")).logs
    followed = [log for log in logs if is_followed(log, NOW)]
    assert {log.state for log in followed} == {"usable", "readonly"}
    assert {log.kind for log in followed} == BOTH
    assert all(
        log.end_exclusive is None or log.end_exclusive > NOW - READ_MARGIN_SECS for log in followed
    )
    assert 0 < len(followed) < len(logs)


def test_a_shard_is_followed_for_a_while_after_its_end() -> None:
    shard = Log(id="00", name="s", url="u", kind=Kind.RFC6962, state="usable", end_exclusive=1000.0)
    assert is_followed(shard, 1000.0 + READ_MARGIN_SECS - 1)
    assert not is_followed(shard, 1000.0 + READ_MARGIN_SECS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"operators": {}}',
        b'{"operators": []',
        b'{"operators": [' + b"[" * 200_000,
    ],
)
def test_what_is_no_list_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="not a log list"):
        parse(body)


def test_a_list_has_no_end_of_logs() -> None:
    entry = {"key": base64.b64encode(KEY).decode(), "url": "https://log.example/"}
    body = {"operators": [{"name": "x", "logs": [entry] * (MAX_LOGS + 1)}]}
    with pytest.raises(Malformed, match="more than 2,000 logs"):
        parse(msgspec.json.encode(body))


def test_a_list_has_no_end_of_operators() -> None:
    body = {"operators": [0] * (MAX_LOGS + 1)}
    with pytest.raises(Malformed, match="more than 2,000 operators"):
        parse(msgspec.json.encode(body))


GOOD = {"key": base64.b64encode(KEY).decode(), "url": "https://log.example/"}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (7, "Expected `object`, got `int`"),
        ({"key": "!"}, "base64"),
        ({**GOOD, "url": "file:///etc/passwd"}, "has URL 'file:///etc/passwd'"),
        ({**GOOD, "url": "https://[log.example/"}, "Invalid IPv6 URL"),
        ({**GOOD, "url": "https://log.example:99999/"}, "Port out of range"),
        ({**GOOD, "log_id": base64.b64encode(bytes(32)).decode()}, "but its key has another"),
        ({**GOOD, "temporal_interval": {"end_exclusive": "soon"}}, "RFC3339"),
        ({**GOOD, "state": {"usable": {"timestamp": "2026-01-32T00:00:00Z"}}}, "RFC3339"),
    ],
)
def test_a_garbage_entry_costs_nothing_but_itself(entry: object, problem: str) -> None:
    body = {"operators": [{"name": "x", "logs": [entry, GOOD]}, "no operator"]}
    read = parse(msgspec.json.encode(body))
    assert [log.id for log in read.logs] == [KEY_ID]
    first, second = read.unreadable
    assert problem in first
    assert first.startswith("log 1 (x): ")
    assert second.startswith("operator 2: ")


def test_what_nothing_depends_on_makes_no_list_malformed() -> None:
    fields = {"version": "7", "operators": [{"name": "x", "logs": [GOOD]}]}
    plain = parse(msgspec.json.encode(fields))
    assert [log.id for log in plain.logs] == [KEY_ID]
    assert parse(b"\xef\xbb\xbf" + msgspec.json.encode(fields)) == plain
    unreadable: tuple[object, ...] = ("", "soon", 7, None, {})
    for timestamp in unreadable:
        assert parse(msgspec.json.encode({**fields, "log_list_timestamp": timestamp})) == plain


def test_only_a_list_over_http_or_a_file_names_logs_over_http() -> None:
    entries = [{**GOOD, "url": f"{scheme}://log.example/"} for scheme in ("http", "https")]
    body = msgspec.json.encode({"operators": [{"name": "x", "logs": entries}]})
    for listed_at in ("http://lists.example", "file"):
        read = parse(body, listed_at)
        assert [log.url for log in read.logs] == ["http://log.example/", "https://log.example/"]
        assert {log.listed_at for log in read.logs} == {listed_at}
    read = parse(body, "https://lists.example")
    assert [log.url for log in read.logs] == ["https://log.example/"]
    assert "https:// only" in read.unreadable[0]


def test_lists_of_apples_kind_are_ranked_by_their_number() -> None:
    def rank(**fields: object) -> str:
        return parse(msgspec.json.encode({"operators": [], **fields})).rank

    undated = [rank(), rank(version="9"), rank(version="85.9"), rank(version="85.92")]
    undated += [rank(version=511), rank(version="1001")]
    dated = [
        rank(version="7", log_list_timestamp=f"{year}-05-29T13:42:48Z") for year in (2025, 2026)
    ]
    assert undated + dated == sorted(undated + dated)
    assert len(set(undated + dated)) == 8


@pytest.mark.parametrize(
    "url",
    [
        "https://Log.Example/2026/",
        "log.example/2026",
        "HTTPS://log.example:443/2026",
        "https://log.example/2026//?a=b",
    ],
)
def test_one_url_in_many_spellings(url: str) -> None:
    assert normalise(url) == "https://log.example/2026"


def test_other_ports_and_schemes_are_other_urls() -> None:
    assert normalise("http://[::1]:8080/log/") == "http://[::1]:8080/log"
    assert normalise("http://log.example:443") != normalise("https://log.example")


def test_the_best_known_id_counts() -> None:
    url = "https://log.example/"
    listed = {"https://log.example": "11" * 32}
    other = base64.b64encode(bytes(32)).decode()
    assert resolve_log_id(KEY, None, url, listed) == KEY_ID
    assert resolve_log_id(None, other, url, listed) == "00" * 32
    assert resolve_log_id(None, None, url, listed) == "11" * 32
    digest = hashlib.sha256(b"https://log.example").hexdigest()
    assert resolve_log_id(None, None, url, {}) == f"url-{digest}"
    with pytest.raises(ValueError, match="expected_log_id"):
        resolve_log_id(KEY, other, url, {})


@pytest.mark.parametrize("text", ["", "AAAA", "zz" * 32, "x"])
def test_what_is_no_log_id(text: str) -> None:
    with pytest.raises(ValueError, match="log id"):
        read_log_id(text)


LISTED = Log(
    id=KEY_ID,
    name="Listed",
    url="https://log.example/2026/",
    kind=Kind.RFC6962,
    operator="Operator",
    state="usable",
    key=KEY,
)


def test_a_log_configured_and_listed_is_one_log_with_the_configured_settings() -> None:
    configured = CustomLog(name="Mine", url="log.EXAMPLE/2026", batch_size=32)
    (log,) = merge([LISTED], [], [configured], NOW).logs.values()
    assert (log.id, log.name, log.operator, log.key) == (KEY_ID, "Mine", "Operator", KEY)
    assert log.batch_size == 32


def test_a_configured_log_is_followed_whatever_its_state() -> None:
    retired = msgspec.structs.replace(LISTED, state="retired")
    assert merge([retired], [], [], NOW).logs == {}
    configured = CustomLog(name="Mine", url=LISTED.url)
    assert merge([retired], [], [configured], NOW).logs.keys() == {KEY_ID}


def test_a_configured_log_that_contradicts_itself_is_left_out_and_reported() -> None:
    wrong = CustomLog(
        name="Wrong",
        url="https://wrong.example",
        key=base64.b64encode(KEY).decode(),
        expected_log_id="00" * 32,
    )
    merged = merge([LISTED], [], [wrong], NOW)
    assert merged.logs.keys() == {KEY_ID}
    assert KEY_ID in merged.problems["Wrong"]


def test_a_configured_log_that_contradicts_a_signed_list_is_left_out_and_reported() -> None:
    wrong = CustomLog(name="Wrong", url=LISTED.url, expected_log_id="00" * 32)
    merged = merge([LISTED], [], [wrong], NOW)
    assert merged.logs == {KEY_ID: LISTED}
    assert f"a signed list has {KEY_ID} at" in merged.problems["Wrong"]
    # An unsigned list has no effect on that, and neither has a retired log.
    assert merge([], [LISTED], [wrong], NOW).logs.keys() == {"00" * 32}
    retired = msgspec.structs.replace(LISTED, state="retired")
    assert merge([retired], [], [wrong], NOW).logs.keys() == {"00" * 32}


def test_a_log_configured_twice_is_followed_once() -> None:
    one, other = CustomLog(name="One", url=LISTED.url), CustomLog(name="Other", url=LISTED.url)
    merged = merge([], [], [one, other], NOW)
    assert [log.name for log in merged.logs.values()] == ["One"]
    assert merged.problems == {"Other": "it is the same log as 'One'"}


def test_an_unsigned_list_adds_and_changes_nothing_else() -> None:
    added = msgspec.structs.replace(LISTED, id="11" * 32, url="https://added.example/")
    rekeyed = msgspec.structs.replace(LISTED, id="22" * 32, key=b"another")
    renamed = msgspec.structs.replace(LISTED, url="https://elsewhere.example/", state="rejected")
    assert merge([LISTED], [added, rekeyed, renamed], [], NOW).logs == {
        KEY_ID: LISTED,
        added.id: added,
    }
    retired = msgspec.structs.replace(LISTED, state="retired")
    assert merge([retired], [LISTED], [], NOW).logs == {}
    assert merge([], [LISTED, rekeyed], [], NOW).logs == {KEY_ID: LISTED}


def test_a_log_of_an_unsigned_list_shares_no_slots_with_its_operator() -> None:
    named = LISTED.operator
    made = {"key": base64.b64encode(KEY).decode(), "url": LISTED.url, "state": {"usable": {}}}
    body = msgspec.json.encode({"operators": [{"name": named, "logs": [made]}]})
    read = list[Log]()
    for url in ("https://lists.example/1", "https://lists.example/2"):
        source = Source(LogList(url=url, unsigned=True))
        read += source.verify(RawList(body, b"")).content.logs
    logs = [LISTED, *read]
    assert len({operator_key(log.slots) for log in logs}) == 3
    assert {log.operator for log in logs} == {named}
    assert read[0].slots == f"{named} (unsigned list https://lists.example/1)"
    # A signed list, or a configuration that names the operator, shares that operator's slots.
    (both,) = merge([LISTED], read, [], NOW).logs.values()
    assert both.slots == named
    for operator, slots in ((None, read[0].slots), ("Mine", "Mine")):
        configured = CustomLog(name="Mine", url=LISTED.url, operator=operator)
        (log,) = merge([], read, [configured], NOW).logs.values()
        assert log.slots == slots


async def test_lists_that_change_before_the_catalog_runs_again_are_followed(redis: Redis) -> None:
    keys, before = Keys(), Config(log_lists=(GOOGLE_LIST,))
    present = ConfigHolder(before)
    cache, registry = LogListCache(redis, keys), LogRegistry(redis, keys)

    def unreachable(_name: str) -> Fetcher:
        raise ListRejected("unreachable", "no network")

    catalog = Catalog(present, cache, registry, unreachable, RedisRetry(), lambda *_: None)
    await redis.set(keys.logs, "another type")
    with pytest.raises(ExceptionGroup):
        await catalog.run()
    present.replace(msgspec.structs.replace(before, log_lists=()))
    await redis.delete(keys.logs)
    task = asyncio.create_task(catalog.run())
    await until(lambda: task.done() or not catalog.lists.sources, "that no list is followed")
    assert not task.done(), task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_state_file_sets_the_start_of_unknown_logs() -> None:
    taken_over = read_rust_state(FIXTURES / "peer_state.json")
    assert taken_over == {"https://ct.example.com/log": 5931}
    log = Log(id="00", name="x", url="https://CT.example.com/log/", kind=Kind.RFC6962)
    assert choose_start(log, 9000, StartSettings(taken_over=taken_over, overlap=256)).index == 5931
    assert choose_start(log, 9000, StartSettings(index=7, taken_over=taken_over)).index == 7
    assert choose_start(log, 9000, StartSettings(overlap=256)).index == 8744
    assert choose_start(log, 100, StartSettings(overlap=256)).index == 0


def test_a_broken_state_file_is_reported_and_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_rust_state(path) == {}
    path.write_text('{"version":1,"logs":{"https://ct.example.com/log":5}}')
    with capture_logs() as lines:
        assert read_rust_state(path) == {}
    assert lines[0]["file"] == str(path)
