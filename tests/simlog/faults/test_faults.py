"""Each fault has its effect over HTTP, in its time and for its share, and no other effect."""

import gzip
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Literal

import httpx
import msgspec
import pytest

from ctparse import rfc6962
from ctparse.entry import Entry, Malformed
from ctparse.static_ct import tile_path
from simlog import fault_types
from simlog.api.request_stats import Counts
from simlog.fault_types import AnyFault
from simlog.spec import LogSpec, Spec
from tests.simlog.world_over_http import Served, root, served
from tests.simlog.worlds import small

STH = "/rfc1/ct/v1/get-sth"
ENTRIES = "/rfc1/ct/v1/get-entries?start=0&end=99"
TILE = "/static1/tile/data/000"


@pytest.fixture
async def world() -> AsyncIterator[Served]:
    async with served(small()) as opened:
        yield opened


def faulty(*wrong: AnyFault, **changes: object) -> Spec:
    """A world of one RFC 6962 log with these faults."""
    return small(logs=(LogSpec("rfc1", "rfc6962", "Operator", wrong),), **changes)


async def test_latency_delays_its_part_only(world: Served) -> None:
    await world.set("rfc1", fault_types.Latency(seconds=0.3, only="head"))
    began = time.monotonic()
    await world.get(ENTRIES)
    undelayed = time.monotonic() - began
    began = time.monotonic()
    await world.get(STH)
    assert undelayed < 0.3 <= time.monotonic() - began


async def test_jitter_differs_from_request_to_request(world: Served) -> None:
    await world.set("rfc1", fault_types.Latency(seconds=0.0, jitter=0.2))
    delays = []
    for _ in range(8):
        began = time.monotonic()
        await world.get(STH)
        delays.append(time.monotonic() - began)
    assert max(delays) > 2 * min(delays)


@pytest.mark.parametrize("code", [404, 429, 500, 503, 520])
async def test_refusals(world: Served, code: int) -> None:
    await world.set("*1", fault_types.Status(code=code, retry_after=7))
    for path in (STH, TILE):
        answer = await world.http.get(path)
        assert answer.status_code == code
        assert answer.headers["retry-after"] == "7"
    await world.set("rfc1", fault_types.Status(code=code))
    assert "retry-after" not in (await world.http.get(STH)).headers
    assert (await world.http.get("/rfc2/ct/v1/get-sth")).status_code == 200


async def test_a_share_of_the_requests(world: Served) -> None:
    hit = []
    for _ in range(2):
        await world.set("rfc1", fault_types.Status(share=0.5))
        hit.append([(await world.http.get(STH)).status_code for _ in range(100)])
    assert 30 < Counter(hit[0])[503] < 70
    assert hit[0] == hit[1]  # by the seed


async def test_an_index_that_can_never_be_read(world: Served) -> None:
    await world.set("*", fault_types.Status(code=500, index=42))
    statuses = {
        path: (await world.http.get(path)).status_code
        for path in (
            "/rfc1/ct/v1/get-entries?start=0&end=41",
            "/rfc1/ct/v1/get-entries?start=0&end=42",
            "/rfc1/ct/v1/get-entries?start=42&end=42",
            "/rfc1/ct/v1/get-entries?start=43&end=99",
            "/rfc1/ct/v1/get-entry-and-proof?leaf_index=42&tree_size=100",
            "/rfc1/ct/v1/get-entry-and-proof?leaf_index=41&tree_size=100",
            "/static1/tile/data/000",
            "/static1/tile/data/000.p/42",
            "/static1/tile/data/000.p/43",
            "/static1/tile/0/000",
        )
    }
    assert list(statuses.values()) == [200, 500, 500, 200, 500, 200, 500, 200, 500, 200]


async def test_a_log_without_proofs(world: Served) -> None:
    await world.set("*", fault_types.Status(code=404, only="proofs"))
    for path in (
        "/rfc1/ct/v1/get-proof-by-hash?hash=x&tree_size=1",
        "/rfc1/ct/v1/get-entry-and-proof?leaf_index=1&tree_size=9",
        "/rfc1/ct/v1/get-sth-consistency?first=1&second=9",
        "/static1/tile/0/000",
    ):
        assert (await world.http.get(path)).status_code == 404
    head = await world.verified_head("rfc1")
    assert root(await world.entries("rfc1", head.size)) == head.root


@pytest.mark.parametrize("after", [None, 0, 10])
@pytest.mark.parametrize("path", [ENTRIES, TILE])
async def test_a_reset(world: Served, path: str, after: int | None) -> None:
    await world.set("*1", fault_types.Reset(after=after))
    with pytest.raises(httpx.ReadError):
        await world.get(path)
    await world.set("*1")
    await world.get(path)


async def test_truncated_bodies(world: Served) -> None:
    await world.set("*1", fault_types.Truncated())
    with pytest.raises(Malformed):
        rfc6962.decode_entries(await world.get(ENTRIES), 0)
    with pytest.raises(Malformed):
        rfc6962.decode_sth(await world.get(STH))
    async with world.http.stream("GET", TILE) as answer:
        body = b"".join([piece async for piece in answer.aiter_raw()])
    with pytest.raises(EOFError):
        gzip.decompress(body)


async def test_an_endless_body_ends_with_its_reader(world: Served) -> None:
    await world.set("rfc1", fault_types.Oversized())
    received = 0
    async with world.http.stream("GET", ENTRIES) as answer:
        async for piece in answer.aiter_raw():
            received += len(piece)
            if received > 20_000_000:
                break
    assert received > 20_000_000
    await world.get("/rfc2/ct/v1/get-sth")


async def test_an_oversized_body(world: Served) -> None:
    honest = await world.get(ENTRIES)
    await world.set("rfc1", fault_types.Oversized(size=200_000))
    assert await world.get(ENTRIES) == honest + b" " * 200_000


@pytest.mark.parametrize("size", [1, 1 << 20, 5_000_000])
async def test_a_bomb(world: Served, size: int) -> None:
    await world.set("*1", fault_types.Bomb(size=size))
    for path in (ENTRIES, TILE):
        async with world.http.stream("GET", path) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            body = b"".join([piece async for piece in answer.aiter_raw()])
        assert len(body) < 100 + size / 900
        assert gzip.decompress(body) == bytes(size)


async def test_wrong_content(world: Served) -> None:
    await world.set("rfc1", fault_types.WrongContent())
    with pytest.raises(Malformed):
        rfc6962.decode_entries(await world.get(ENTRIES), 0)


async def test_fewer_entries_than_requested(world: Served) -> None:
    await world.set("rfc1", fault_types.Fewer(entries=5))
    lengths = set()
    for start in range(40):
        path = f"/rfc1/ct/v1/get-entries?start={start}&end={start + 50}"
        lengths.add(len(rfc6962.decode_entries(await world.get(path), start)))
    assert lengths == {1, 2, 3, 4, 5}
    head = await world.verified_head("rfc1")
    assert root(await world.entries("rfc1", head.size)) == head.root


async def test_partial_tiles_are_gone_where_the_full_one_is(world: Served) -> None:
    size = (await world.verified_head("static1")).size
    assert 256 < size < 512
    await world.set("static1", fault_types.NoPartials())
    levels: tuple[Literal["data"] | int, ...] = ("data", 0)
    for level in levels:
        last = size - 256
        for n, width, status in ((0, 10, 404), (0, 256, 200), (1, last, 200), (1, last + 1, 404)):
            path = tile_path(level, n, width)
            assert (await world.http.get(f"/static1/{path}")).status_code == status, path


@pytest.mark.parametrize("log", ["rfc1", "static1"])
async def test_a_stale_replica_shows_an_older_consistent_tree(world: Served, log: str) -> None:
    newest = await world.verified_head(log)
    await world.set(log, fault_types.Stale(entries=30, seconds=90))
    heads = {newest.size: newest}
    while len(heads) < 2:
        head = await world.verified_head(log)
        heads[head.size] = head
    old = heads[newest.size - 30]
    assert newest.timestamp - 90_000 <= old.timestamp < newest.timestamp
    await world.set(log)
    entries = await world.entries(log, newest.size)
    assert root(entries) == newest.root == heads[newest.size].root
    assert root(entries[: old.size]) == old.root


async def test_malformed_entries_are_in_the_tree_and_in_the_record() -> None:
    wrong = fault_types.Malformed(share=0.1)
    async with served(faulty(wrong, preload=200, duplicates=0.0)) as world:
        head = await world.verified_head("rfc1")
        entries = await world.entries("rfc1", head.size)
        record = await world.record()
    assert root(entries) == head.root
    malformed = [each.index for each in record if each.malformed]
    assert 5 < len(malformed) < 40
    for each, entry in zip(record, entries, strict=True):
        assert isinstance(entry, Entry)
        assert (len(entry.certificate) < 300) == each.malformed
        assert not each.malformed or not each.names
    assert len({each.sha256 for each in record}) == 200


async def test_a_schedule_by_entries() -> None:
    live = faulty(
        fault_types.Status(code=500, since_size=150, until_size=300, only="head"),
        start=time.time(), rate=300.0, preload=100, total=400, interval=0.02,
    )  # fmt: skip
    async with served(live) as world:
        statuses, after = set(), 0
        while after < 400:
            before = await _size(world)
            status = (await world.http.get(STH)).status_code
            after = await _size(world)
            statuses.add(status)
            if before >= 150 and after < 300:
                assert status == 500
            if after < 150 or before >= 300:
                assert status == 200
    assert statuses == {200, 500}


async def _size(world: Served) -> int:
    size = msgspec.json.decode(await world.get("/world.json"))["logs"][0]["size"]
    assert isinstance(size, int)
    return size


async def test_a_schedule_by_seconds() -> None:
    async with served(
        faulty(fault_types.Status(until=0.5), start=time.time(), preload=10)
    ) as world:
        answers = [(await world.http.get(STH)).status_code]
        while answers[-1] == 503:
            answers.append((await world.http.get(STH)).status_code)
        assert answers[0] == 503
        assert answers[-1] == 200
        await world.set("rfc1", fault_types.Status(since=0.3))
        assert (await world.http.get(STH)).status_code == 200
        while (await world.http.get(STH)).status_code == 200:
            pass


async def test_faults_that_meet_all_apply(world: Served) -> None:
    await world.set(
        "rfc1", fault_types.Latency(seconds=0.2), fault_types.Status(code=429), fault_types.Stale()
    )
    began = time.monotonic()
    assert (await world.http.get(STH)).status_code == 429
    assert time.monotonic() - began >= 0.2


async def test_what_no_log_has_is_not_there_with_faults_either(world: Served) -> None:
    await world.set("*", fault_types.Fewer(), fault_types.NoPartials(), fault_types.SwappedLeaf())
    for path, status in (
        ("/rfc1/ct/v1/get-entries?start=x&end=4", 400),
        ("/rfc1/ct/v1/get-entries?start=9&end=4", 400),
        ("/rfc1/ct/v1/get-entries", 400),
        ("/rfc1/ct/v1/get-entry-and-proof?leaf_index=9", 400),
        ("/rfc1/nothing", 404),
        ("/static1/tile/0/0", 404),
    ):
        assert (await world.http.get(path)).status_code == status


async def test_requests_are_counted_by_operator_and_log(world: Served) -> None:
    for _ in range(30):
        await world.get(STH)
    await world.set("rfc1", fault_types.Status(code=429))
    for _ in range(10):
        await world.http.get(STH)
    await world.get("/static2/checkpoint")  # the same operator's
    traffic = await world.traffic()
    assert traffic.logs["rfc1"].statuses == {200: 30, 429: 10}
    assert traffic.logs["rfc2"].total == 0
    operator = traffic.operators["Simulated Operator 1"]
    assert operator.total == 41
    assert sum(count for _, count in operator.buckets) == 41
    assert operator.most(3600) == 41
    assert operator.most(0.1) == max(count for _, count in operator.buckets)
    assert all(began % 100 == 0 for began, _ in operator.buckets)


def test_the_most_requests_of_any_span() -> None:
    counted = Counts(buckets=[[0, 5], [100, 1], [900, 3], [1000, 4]])
    assert [counted.most(span) for span in (0.1, 0.2, 0.9, 1.0, 1.1)] == [5, 7, 7, 9, 13]


@pytest.mark.parametrize("turn", range(len(fault_types.HTTP_FAULTS)))
def test_every_trouble_hits_a_third_of_the_logs_in_turn(turn: int) -> None:
    logs = [fault_types.in_turn(position, 10.0) for position in range(12)]
    now = [[fault for fault in log if fault.in_force(10.0 * turn + 5, 0)] for log in logs]
    assert [len(each) for each in now].count(1) == 4
    assert {type(fault) for each in now for fault in each} == {type(fault_types.HTTP_FAULTS[turn])}
