"""Which logs there are, and what they are called."""

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from certconf.settings import CustomLog, LogList, StaticLog
from ctparse.entry import Malformed
from ctparse.signatures import BadSignature, verify_log_list
from ingestor.catalog.log import Kind, Log, identify, normalise, read_log_id
from ingestor.catalog.log_list import MARGIN, is_followed, parse
from ingestor.catalog.merge import keep_ids, merge
from ingestor.catalog.peer_state import read_state
from ingestor.catalog.sources import GOOGLE, Lists, packaged
from ingestor.ctclient.fetch import Fetcher, Retry, http_client
from ingestor.first_sight import Starts, choose
from tests.ingestor.hostile import Answer, hostile_server

FIXTURES = Path(__file__).parents[1] / "fixtures"
BOTH = frozenset(Kind)
NOW = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
KEY = b"key of a log"
KEY_ID = hashlib.sha256(KEY).hexdigest()


def test_the_packaged_list_is_googles_and_signed() -> None:
    body, signature = packaged("log_list.json"), packaged("log_list.sig")
    pem = packaged("log_list_pubkey.pem")
    verify_log_list(body, signature, pem)
    with pytest.raises(BadSignature):
        verify_log_list(body.replace(b"Argon2026h2", b"Argon2026h3"), signature, pem)


def test_logs_of_googles_list() -> None:
    logs = {log.name: log for log in parse(packaged("log_list.json")).logs}
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
    logs = parse(packaged("log_list.json")).logs
    followed = [log for log in logs if is_followed(log, NOW)]
    assert {log.state for log in followed} == {"usable", "readonly"}
    assert {log.kind for log in followed} == BOTH
    assert all(log.end_exclusive is None or log.end_exclusive > NOW - MARGIN for log in followed)
    assert 0 < len(followed) < len(logs)


def test_a_shard_is_followed_for_a_while_after_its_end() -> None:
    shard = Log(id="00", name="s", url="u", kind=Kind.RFC6962, state="usable", end_exclusive=1000.0)
    assert is_followed(shard, 1000.0 + MARGIN - 1)
    assert not is_followed(shard, 1000.0 + MARGIN)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"operators": [{"name": "x", "logs": [{"key": "!"}]}]}',
        b'{"operators": [{"name": "x", "logs": [{"key": "AAAA", "url": "file:///etc"}]}]}',
    ],
)
def test_what_is_no_list_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="not a v3 log list"):
        parse(body)


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
    assert identify(KEY, None, url, listed) == KEY_ID
    assert identify(None, other, url, listed) == "00" * 32
    assert identify(None, None, url, listed) == "11" * 32
    digest = hashlib.sha256(b"https://log.example").hexdigest()
    assert identify(None, None, url, {}) == f"url-{digest}"
    with pytest.raises(ValueError, match="expected_log_id"):
        identify(KEY, other, url, {})


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
    (log,) = merge([LISTED], [configured], BOTH, NOW).values()
    assert (log.id, log.name, log.operator, log.key) == (KEY_ID, "Mine", "Operator", KEY)
    assert log.batch_size == 32


def test_a_configured_log_is_followed_whatever_its_state() -> None:
    retired = msgspec.structs.replace(LISTED, state="retired")
    assert merge([retired], [], BOTH, NOW) == {}
    configured = CustomLog(name="Mine", url=LISTED.url)
    assert merge([retired], [configured], BOTH, NOW).keys() == {KEY_ID}


def test_disabled_kinds_are_left_out() -> None:
    static = StaticLog(name="Static", url="https://mon.example/")
    only_static = frozenset({Kind.STATIC_CT})
    assert [log.name for log in merge([LISTED], [static], only_static, NOW).values()] == ["Static"]


def test_a_configured_log_that_contradicts_itself_is_left_out_and_told() -> None:
    wrong = CustomLog(
        name="Wrong",
        url="https://wrong.example",
        key=base64.b64encode(KEY).decode(),
        expected_log_id="00" * 32,
    )
    with capture_logs() as lines:
        assert merge([LISTED], [wrong], BOTH, NOW).keys() == {KEY_ID}
    (line,) = lines
    assert line["log"] == "Wrong"
    assert KEY_ID in line["problem"]


def test_a_log_keeps_the_id_it_is_followed_under() -> None:
    configured = CustomLog(name="Mine", url=LISTED.url)
    before = merge([], [configured], BOTH, NOW)
    after = merge([LISTED], [configured], BOTH, NOW)
    assert after.keys() == {KEY_ID}
    assert keep_ids(before, after).keys() == before.keys()


async def test_googles_list_has_a_stand_in_and_others_have_none() -> None:
    elsewhere = LogList(url="http://127.0.0.1:1/list", unsigned=True)
    unreachable = msgspec.structs.replace(GOOGLE, url="http://127.0.0.1:1/google")
    async with http_client() as http:
        fetcher = Fetcher(http, "list", Retry(1, 0, 0), 5)
        with pytest.MonkeyPatch.context() as patch, capture_logs() as lines:
            patch.setattr("ingestor.catalog.sources.GOOGLE", unreachable)
            lists = Lists((unreachable, elsewhere), fetcher)
            await lists.read_missing()
            await lists.read_missing()
            assert not lists.complete
            assert lists.logs() == list(parse(packaged("log_list.json")).logs)
    assert [line["event"] for line in lines] == [
        "log list unavailable, using the copy in this package until it is",
        "log list unavailable, trying again",
    ]
    assert lines[0]["copy_version"] == "85.92"


async def test_lists_from_a_url_and_from_a_file() -> None:
    async with hostile_server() as server, http_client() as http:
        server.answers["/list.json"] = [Answer(packaged("log_list.json"))]
        server.answers["/list.sig"] = [Answer(packaged("log_list.sig"))]
        signed = LogList(
            url=f"{server.url}/list.json",
            signature_url=f"{server.url}/list.sig",
            key=str(FIXTURES / "log_list_pubkey.pem"),
        )
        file = LogList(url=str(FIXTURES / "log_list.json"), unsigned=True)
        lists = Lists((signed, file), Fetcher(http, "list", Retry(1, 0, 0), 5))
        await lists.read_missing()
        assert lists.complete
        assert len(lists.logs()) == 2 * len(parse(packaged("log_list.json")).logs)


def test_a_state_file_says_where_unknown_logs_start() -> None:
    taken_over = read_state(FIXTURES / "peer_state.json")
    assert taken_over == {"https://ct.example.com/log": 5931}
    log = Log(id="00", name="x", url="https://CT.example.com/log/", kind=Kind.RFC6962)
    assert choose(log, 9000, Starts(taken_over=taken_over, overlap=256)).index == 5931
    assert choose(log, 9000, Starts(index=7, taken_over=taken_over)).index == 7
    assert choose(log, 9000, Starts(overlap=256)).index == 8744
    assert choose(log, 100, Starts(overlap=256)).index == 0


def test_a_broken_state_file_is_told_and_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert read_state(path) == {}
    path.write_text('{"version":1,"logs":{"https://ct.example.com/log":5}}')
    with capture_logs() as lines:
        assert read_state(path) == {}
    assert lines[0]["file"] == str(path)
