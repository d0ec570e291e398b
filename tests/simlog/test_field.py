"""A log with a profile grows, answers and limits as its profile states; each behaviour alone."""

from collections import Counter
from collections.abc import Mapping
from itertools import islice

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from certhttp.protocol import Request
from ctparse import rfc6962
from ctparse.entry import Entry
from simlog.api import request_stats
from simlog.ctlog.request_target import classify_request
from simlog.field.behaviour import Behaviour, OperatorBudget
from simlog.field.operators import LOGS, field_spec
from simlog.http_server import BrokenOff, Response
from simlog.profile import (
    AnonymousRate,
    Budget,
    ConnectionRate,
    Delay,
    Heads,
    Limit,
    Profile,
    SharedNames,
    SmallRequests,
    Startup,
)
from simlog.schedule import submissions
from simlog.spec import LogSpec, Spec
from simlog.world import World
from tests.simlog.world_over_http import served
from tests.simlog.worlds import START, grown, small

AGENT = {"user-agent": "example/1.0 (+https://example.com)"}


def log_with(profile: Profile, **changes: object) -> Spec:
    return small(logs=(LogSpec("rfc1", "rfc6962", "Operator", profile=profile),), **changes)


def behaviour(*limits: Limit, budget: OperatorBudget | None = None, **other: object) -> Behaviour:
    profile = Profile(limits=limits, **other)  # type: ignore[arg-type]
    return Behaviour(profile, 7, "rfc1", START, budget or OperatorBudget())


def ask(
    log: Behaviour,
    now: float,
    path: str = "ct/v1/get-sth",
    *,
    query: Mapping[str, str] = {},
    headers: Mapping[str, str] = AGENT,
    connection: int = 1,
) -> Response | None:
    request = Request("GET", f"/rfc1/{path}", query, headers=headers, connection=connection)
    return log.refusal(request, classify_request(path, query, log.profile.page), now)


def refused(answers: list[Response | None]) -> int:
    return sum(answer is not None and answer.status == 429 for answer in answers)


def test_each_log_gets_its_share_of_the_entries_and_two_thirds_of_all_are_duplicates() -> None:
    spec = field_spec(START, seed=3)
    first = list(islice(submissions(spec), 200_000))
    seconds = first[-1].time / 1000 - START
    counts = Counter(each.log for each in first)
    for position, log in enumerate(spec.logs):
        assert counts[position] / seconds == pytest.approx(log.growth, rel=0.12)
    assert len(first) / seconds == pytest.approx(sum(log.growth for log in spec.logs), rel=0.02)
    assert len(first) / seconds >= 2000
    assert 0.65 <= 1 - len({each.certificate for each in first}) / len(first) <= 0.75


def test_the_table_holds_at_least_25_logs_of_both_kinds() -> None:
    assert len(LOGS) >= 25
    assert {kind for _, _, kind, _, _ in LOGS} == {"rfc6962", "static-ct"}
    assert len({name for name, *_ in LOGS}) == len(LOGS)


def test_a_world_may_have_the_logs_of_some_operators_only() -> None:
    spec = field_spec(START, seed=3, operators=["Google", "Microsec"])
    assert {log.operator for log in spec.logs} == {"Google", "Microsec"}
    with pytest.raises(ValueError, match="operator 'google' is none of"):
        field_spec(START, seed=3, operators=["google"])


async def test_answers_to_a_client_that_is_behind_are_counted() -> None:
    profile = Profile(page=32, entries=Delay(0.0))
    async with served(log_with(profile)) as world:
        for start in (0, 32, 64):
            await world.get(f"/rfc1/ct/v1/get-entries?start={start}&end=999")
        size = msgspec.json.decode(await world.get("/rfc1/ct/v1/get-sth"))["tree_size"]
        await world.get(f"/rfc1/ct/v1/get-entries?start={size - 1}&end={size - 1}")
        counted = request_stats.read(await world.get("/requests")).logs["rfc1"]
    assert (counted.answers, counted.entries) == (4, 97)
    assert (counted.behind_answers, counted.behind_entries) == (3, 96)


async def test_a_page_ends_on_a_multiple_of_its_size() -> None:
    async with served(log_with(Profile(page=32, entries=Delay(0.0)))) as world:
        for start, end, count in ((0, 999, 32), (5, 999, 27), (32, 40, 9), (63, 999, 1)):
            body = await world.get(f"/rfc1/ct/v1/get-entries?start={start}&end={end}")
            assert len(rfc6962.decode_entries(body, start)) == count


async def test_an_unaligned_page_has_its_full_size_everywhere() -> None:
    profile = Profile(page=32, is_aligned=False, entries=Delay(0.0))
    async with served(log_with(profile)) as world:
        body = await world.get("/rfc1/ct/v1/get-entries?start=5&end=999")
        assert len(rfc6962.decode_entries(body, 5)) == 32


def test_each_kind_of_request_takes_its_own_time() -> None:
    log = behaviour(head=Delay(1.0, 1.0), entries=Delay(2.0, 1.0), proofs=Delay(3.0, 1.0))
    for path, seconds in (
        ("ct/v1/get-sth", 1.0),
        ("ct/v1/get-entries", 2.0),
        ("tile/data/000", 2.0),
        ("ct/v1/get-sth-consistency", 3.0),
        ("tile/0/000", 3.0),
    ):
        answer = log.late(classify_request(path, {}, 256), Response(b""), START)
        assert answer.delay == pytest.approx(seconds)


def test_latencies_spread_around_their_median() -> None:
    drawn = sorted(Delay(1.0, 2.0).at(step / 1000) for step in range(1000))
    assert drawn[0] == pytest.approx(0.5, rel=0.01)
    assert drawn[500] == pytest.approx(1.0, rel=0.01)
    assert drawn[-1] == pytest.approx(2.0, rel=0.01)


def test_a_tile_is_slow_once() -> None:
    log = behaviour(entries=Delay(0.4, 1.0), cold=Delay(9.0, 1.0))
    tile = classify_request("tile/data/000", {}, 256)
    assert log.late(tile, Response(b""), START).delay == pytest.approx(9.0)
    assert log.late(tile, Response(b""), START).delay == pytest.approx(0.4)


def test_an_operator_answers_its_budget_and_then_refuses_all_its_logs_for_a_minute() -> None:
    budget = OperatorBudget()
    one, two = (behaviour(Budget(requests=10, pause=60), budget=budget) for _ in range(2))
    assert refused([ask(one, START) for _ in range(5)] + [ask(two, START) for _ in range(5)]) == 0
    answer = ask(two, START + 1)
    assert answer is not None
    assert answer.status == 429
    assert 60 <= int(dict(answer.headers)["retry-after"]) <= 61
    assert ask(one, START + 60.9) is not None
    assert ask(one, START + 61.1) is None


def test_retry_after_may_be_a_date_or_absent() -> None:
    dated = behaviour(Budget(requests=1, pause=60, retry_after="date"))
    plain = behaviour(Budget(requests=1, pause=60, retry_after=None))
    for log in (dated, plain):
        ask(log, START)
    answer = ask(dated, START)
    assert answer is not None
    assert dict(answer.headers)["retry-after"].endswith("GMT")
    answer = ask(plain, START)
    assert answer is not None
    assert not answer.headers


def test_each_tcp_connection_has_a_rate_of_its_own() -> None:
    log = behaviour(ConnectionRate(rate=2, burst=4))
    assert refused([ask(log, START, connection=1) for _ in range(6)]) == 2
    assert refused([ask(log, START, connection=2) for _ in range(4)]) == 0
    assert refused([ask(log, START + 1, connection=1) for _ in range(3)]) == 1


def test_clients_without_a_contact_share_what_others_leave() -> None:
    log = behaviour(AnonymousRate(share=0.5))
    anonymous = [ask(log, START, headers={"user-agent": "example/1.0"}) for _ in range(400)]
    assert refused(anonymous) == pytest.approx(200, abs=40)
    for agent in ("example/1.0 (+https://example.com)", "example/1.0 ops@example.com"):
        assert refused([ask(log, START, headers={"user-agent": agent}) for _ in range(50)]) == 0


def test_names_that_many_clients_share_are_refused() -> None:
    log = behaviour(SharedNames())
    assert ask(log, START, headers={"user-agent": "python-httpx/0.28 (+https://example.com)"})
    assert ask(log, START, headers={})
    assert ask(log, START) is None


def test_a_stream_of_small_requests_is_refused() -> None:
    log = behaviour(SmallRequests(below=16, rate=1, burst=3))
    path = "ct/v1/get-entries"
    small_one = {"start": "0", "end": "3"}
    assert refused([ask(log, START, path, query=small_one) for _ in range(5)]) == 2
    whole = {"start": "0", "end": "31"}
    assert refused([ask(log, START, path, query=whole) for _ in range(5)]) == 0


def test_a_log_may_refuse_everything_at_first() -> None:
    log = behaviour(Startup(seconds=10))
    assert ask(log, START + 9) is not None
    assert ask(log, START + 10.1) is None


def test_tiles_break_off_when_too_many_are_under_way() -> None:
    log = behaviour(entries=Delay(5.0, 1.0), resets_above=2)
    tile = classify_request("tile/data/000", {}, 256)
    bodies = [log.late(tile, Response(b"x" * 100), START).body for _ in range(3)]
    assert bodies[:2] == [b"x" * 100] * 2
    assert not isinstance(bodies[2], bytes)
    with pytest.raises(BrokenOff):
        b"".join(bodies[2])
    assert log.late(tile, Response(b"x"), START + 6).body == b"x"


def test_partial_tiles_disappear_when_the_full_one_is_there() -> None:
    log = behaviour(drops_partials=True)
    for path in ("tile/data/000.p/7", "tile/0/000.p/7"):
        gone = log.gone(classify_request(path, {}, 256), 256)
        assert gone is not None
        assert gone.status == 404
        assert log.gone(classify_request(path, {}, 256), 255) is None
    assert log.gone(classify_request("tile/data/000", {}, 256), 256) is None


def advanced(spec: Spec, *moments: float) -> World:
    world = grown(spec)
    for moment in moments:
        while world.advance(START + moment, 10_000):
            pass
    return world


def test_heads_come_at_their_interval_and_are_shown_at_their_age() -> None:
    heads = Heads(interval=Delay(10.0, 1.0), age=Delay(3.0, 1.0), first=10.0)
    spec = log_with(Profile(heads=heads), rate=10.0, preload=50)
    assert advanced(spec, 10.0, 12.9).logs["rfc1"].head.size == 50
    world = advanced(spec, 10.0, 13.1, 19.0)
    head = world.logs["rfc1"].head
    assert head.size == 150
    assert head.timestamp == 1000 * (START + 10)
    assert [shown.size for shown in world.heads["rfc1"].shown] == [50, 150]
    assert world.heads["rfc1"].shown[1].at == 1000 * START + 13_100


def test_a_world_is_complete_when_the_last_heads_are_shown() -> None:
    heads = Heads(interval=Delay(10.0, 1.0), age=Delay(3.0, 1.0), first=10.0)
    spec = log_with(Profile(heads=heads), rate=10.0, preload=50, total=60)
    assert not advanced(spec, 10.0, 12.9).complete
    assert advanced(spec, 10.0, 13.1).complete


def test_a_log_that_signs_each_head_anew_shows_its_newest_tree() -> None:
    world = advanced(log_with(Profile(heads=Heads(per_request=True)), rate=10.0), 1.0, 2.0)
    assert world.logs["rfc1"].head.size == len(world.logs["rfc1"].tree) == 800 + 20


def test_a_replica_shows_an_older_head_now_and_then() -> None:
    heads = Heads(interval=Delay(1.0, 1.0), first=1.0, older_every=10.0, older_by=5.0)
    spec = log_with(Profile(heads=heads), rate=10.0, preload=50)
    world = advanced(spec, *range(1, 30))
    schedule = world.heads["rfc1"]
    older = [schedule.older(START + 30 + second / 10) for second in range(400)]
    shown = [head for head in older if head is not None]
    assert 2 <= len(shown) <= 8
    newest = world.logs["rfc1"].head
    for head in shown:
        assert head.size < newest.size
        assert head.root == world.logs["rfc1"].tree.root(head.size)


async def test_an_rfc_6962_log_may_serve_full_data_tiles_but_no_checkpoint() -> None:
    profile = Profile(has_data_tiles=True, head=Delay(0.0), entries=Delay(0.0))
    async with served(log_with(profile)) as world:
        tile = await world.get("/rfc1/tile/data/001")
        body = await world.get("/rfc1/ct/v1/get-entries?start=256&end=511")
        entries = rfc6962.decode_entries(body, 256)
        for entry in entries:
            assert isinstance(entry, Entry)
            assert entry.certificate in tile
        for path in ("checkpoint", "tile/data/003.p/32", "tile/0/000"):
            answer = await world.http.get(f"/rfc1/{path}")
            assert answer.status_code == 404, path


async def test_a_log_with_a_profile_may_have_faults_too() -> None:
    spec = field_spec(START, seed=1, preload=200)
    spec = replace(spec, rate=0.0)
    async with served(spec) as world:
        assert isinstance(world.http, httpx.AsyncClient)
        answer = await world.http.put("/control/xenon*/faults", json={"kind": "status"})
        assert answer.status_code == 200
        answer = await world.http.get("/xenon2027h1/ct/v1/get-sth")
        assert answer.status_code == 503
        answer = await world.http.get("/willow2027h1/checkpoint")
        assert answer.status_code == 200


async def test_the_server_reports_its_own_load() -> None:
    async with served(log_with(Profile(head=Delay(0.05, 1.0)))) as world:
        await world.get("/rfc1/ct/v1/get-sth")
        load = (await world.http.get("/load")).json()
        assert load["answers"] >= 1
        assert load["cpu_seconds"] > 0
        assert 0 <= load["late_p50_ms"] <= load["late_max_ms"]
        requests = (await world.http.get("/requests")).json()
        assert requests["logs"]["rfc1"]["total"] == 1
