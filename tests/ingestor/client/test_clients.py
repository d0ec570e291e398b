"""The two kinds of logs, over HTTP: real answers, and wrong ones."""

import asyncio
import base64
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest

from ctparse.entry import Entry, Rejected
from ctparse.merkle import Frontier, leaf_hash, verify_consistency
from ctparse.signatures import load_log_key, verify_tree_head
from ingestor.client.errors import InvalidResponse, ResponseTooLarge, UnexpectedStatus
from ingestor.client.http import Fetcher, http_client
from ingestor.client.hybrid import HybridLog
from ingestor.client.interface import Inclusion
from ingestor.client.issuers import CAPACITY, RECENT, WINDOW, Issuers
from ingestor.client.rfc6962 import MAX_ALONE, Rfc6962Log
from ingestor.client.static_ct import Identity, StaticCtLog
from ingestor.client.throttle import Purpose
from ingestor.pipeline.page_size import PageSize
from ingestor.pipeline.prefetch import InFlight, Prefetch
from tests.ingestor.hostile import Answer, HostileServer, hostile_server
from tests.paths import FIXTURES

SUNLIGHT = FIXTURES / "sunlight"
SUNLIGHT_LOG = json.loads((SUNLIGHT / "log.v3.json").read_bytes())


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with hostile_server() as hostile:
        yield hostile


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    async with http_client() as http:
        yield Fetcher(http, "Test log", timeout=5)


@pytest.fixture
def rfc6962(server: HostileServer, fetcher: Fetcher) -> Rfc6962Log:
    return Rfc6962Log(server.url, fetcher)


@pytest.fixture
def sunlight(server: HostileServer, fetcher: Fetcher) -> StaticCtLog:
    def answer(path: str) -> Answer:
        file = SUNLIGHT / path.removeprefix("/")
        if not file.is_file():
            return Answer(status="404 Not Found")
        encoding = {"content-encoding": "gzip"} if "/tile/data/" in path else {}
        return Answer(file.read_bytes(), headers=encoding)

    server.answers["*"] = answer
    key = load_log_key(base64.b64decode(SUNLIGHT_LOG["key"]))
    identity = Identity(key.id, "sun.test/2026")
    return StaticCtLog(server.url, fetcher, Issuers(server.url, fetcher), identity)


def entries_body(count: int) -> bytes:
    entries: list[dict[str, Any]] = json.loads((FIXTURES / "ct_entries.json").read_bytes())
    fields = ("leaf_input", "extra_data")
    return json.dumps(
        {"entries": [{name: entry[name] for name in fields} for entry in entries[:count]]}
    ).encode()


async def test_rfc6962_entries(server: HostileServer, rfc6962: Rfc6962Log) -> None:
    server.answers["/ct/v1/get-entries?start=100&end=109"] = [Answer(entries_body(10))]
    entries = await rfc6962.entries(100, 110)
    assert [entry.index for entry in entries] == list(range(100, 110))
    first = entries[0]
    assert isinstance(first, Entry)
    assert [der[0] for der in rfc6962.issuer_chain(first.chain)] == [0x30] * 2
    assert rfc6962.entry_url(7) == f"{server.url}/ct/v1/get-entries?start=7&end=7"


async def test_rfc6962_answers_with_fewer_or_more(
    server: HostileServer, rfc6962: Rfc6962Log
) -> None:
    server.answers["/ct/v1/get-entries?start=0&end=9"] = [Answer(entries_body(3))]
    server.answers["/ct/v1/get-entries?start=0&end=1"] = [Answer(entries_body(20))]
    assert len(await rfc6962.entries(0, 10)) == 3
    assert len(await rfc6962.entries(0, 2)) == 2


async def test_an_entry_too_large_for_a_window_is_had_alone_or_rejected(
    server: HostileServer, rfc6962: Rfc6962Log
) -> None:
    size = 5 << 20

    def answer(path: str) -> Answer:
        start, end = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
        entries = [
            {"leaf_input": "A" * size if index == 5 else "AAAA", "extra_data": ""}
            for index in range(start, end + 1)
        ]
        return Answer(json.dumps({"entries": entries}).encode())

    async def reasons() -> dict[int, str]:
        found = {}
        ahead = Prefetch(rfc6962, 0, PageSize(8), InFlight(2))
        ahead.extend(24)
        while ahead.next < 24:
            for window in await ahead.run(24):
                ahead.take(window.first + len(window.entries))
                for entry in window.entries:
                    assert isinstance(entry, Rejected)
                    found[entry.index] = entry.reason
        return found

    server.answers["*"] = answer
    with pytest.raises(ResponseTooLarge):
        await rfc6962.entries(4, 6)
    whole = await reasons()
    assert list(whole) == list(range(24))
    assert "larger" not in whole[5]
    size = MAX_ALONE
    assert await reasons() == {**whole, 5: "entry larger than 16,777,216 bytes"}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"entries": 5}', b'{"entries": []}', entries_body(2)[:-9]]
)
async def test_what_is_no_get_entries_answer(
    server: HostileServer, rfc6962: Rfc6962Log, body: bytes
) -> None:
    server.answers["*"] = [Answer(body)]
    with pytest.raises(
        InvalidResponse, match=r"Test log: http://.*/ct/v1/get-entries\?start=0&end=1: "
    ):
        await rfc6962.entries(0, 2)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"tree_size": -1}', b'{"tree_size": "x"}'])
async def test_what_is_no_sth(server: HostileServer, rfc6962: Rfc6962Log, body: bytes) -> None:
    server.answers["*"] = [Answer(body)]
    with pytest.raises(InvalidResponse, match=r"Test log: http://.*/ct/v1/get-sth: "):
        await rfc6962.tree_head()


async def test_a_real_static_ct_log(sunlight: StaticCtLog) -> None:
    head = await sunlight.tree_head()
    assert head.size == 700
    verify_tree_head(load_log_key(base64.b64decode(SUNLIGHT_LOG["key"])), head)
    certificates = []
    at = 0
    while at < head.size:
        entries = await sunlight.entries(at, head.size)
        for entry in entries:
            assert isinstance(entry, Entry)
            certificates.append(hashlib.sha256(entry.certificate).hexdigest())
            for issuer in sunlight.issuer_chain(entry.chain):
                assert issuer[0] == 0x30
        at += len(entries)
    assert sorted(certificates) == (SUNLIGHT / "sha256.txt").read_text().split()


async def test_entries_are_cut_to_the_wanted_range(
    server: HostileServer, sunlight: StaticCtLog
) -> None:
    assert [entry.index for entry in await sunlight.entries(250, 254)] == [250, 251, 252, 253]
    assert [entry.index for entry in await sunlight.entries(250, 300)] == list(range(250, 256))
    assert {request.path for request in server.requests} >= {"/tile/data/000"}


async def test_issuers_are_fetched_once(server: HostileServer, sunlight: StaticCtLog) -> None:
    for start in (0, 256, 512):
        await sunlight.entries(start, 700)
    issuers = [request.path for request in server.requests if request.path.startswith("/issuer/")]
    assert len(issuers) == len(set(issuers)) == 2


async def test_a_missing_partial_tile_means_the_full_one_is_there(
    server: HostileServer, sunlight: StaticCtLog
) -> None:
    # The tree has grown since the tree head of 300 entries, and the log dropped tile 1's partial.
    entries = await sunlight.entries(256, 300)
    assert [entry.index for entry in entries] == list(range(256, 300))
    tiles = [request.path for request in server.requests if "/tile/" in request.path]
    assert tiles == ["/tile/data/001.p/44", "/tile/data/001"]


async def test_a_forged_checkpoint_does_not_hide_the_newest_tile(
    server: HostileServer, sunlight: StaticCtLog
) -> None:
    """The client cannot know which ones the log signed."""
    checkpoint = (SUNLIGHT / "checkpoint").read_bytes()
    forged = checkpoint.replace(b"\n700\n", b"\n700000000\n")
    for body, size in ((forged, 700_000_000), (checkpoint, 700)):
        server.answers["/checkpoint"] = [Answer(body)]
        assert (await sunlight.tree_head()).size == size
    assert len(await sunlight.entries(512, 700)) == 188


async def test_a_missing_full_tile_is_an_error(sunlight: StaticCtLog) -> None:
    with pytest.raises(UnexpectedStatus, match=r"/tile/data/003: HTTP 404"):
        await sunlight.entries(768, 1024)


async def test_an_issuer_with_another_fingerprint(
    server: HostileServer, sunlight: StaticCtLog
) -> None:
    name = next((SUNLIGHT / "issuer").iterdir()).name
    server.answers[f"/issuer/{name}"] = [Answer(b"another certificate")]
    with pytest.raises(
        InvalidResponse, match=rf"/issuer/{name}: another certificate, with SHA-256"
    ):
        await sunlight.entries(0, 256)


def made_up_issuers(server: HostileServer, count: int) -> list[bytes]:
    """Serve `count` issuers; return their fingerprints."""
    issuers = [index.to_bytes(4) for index in range(count)]
    digests = [hashlib.sha256(issuer).digest() for issuer in issuers]
    for digest, issuer in zip(digests, issuers, strict=True):
        server.answers[f"/issuer/{digest.hex()}"] = [Answer(issuer)]
    return digests


async def test_a_tile_with_more_issuers_than_any_is_not_followed(
    server: HostileServer, fetcher: Fetcher
) -> None:
    digests = made_up_issuers(server, WINDOW + 1)
    issuers = Issuers(server.url, fetcher)
    with pytest.raises(
        InvalidResponse, match=r"Test log: .*entries name 513 issuers, more than 512"
    ):
        await issuers.ensure(digests)
    assert not server.requests
    await issuers.ensure(digests[:WINDOW])
    assert len(server.requests) == WINDOW


async def test_issuers_of_recent_windows_are_bounded(
    server: HostileServer, fetcher: Fetcher
) -> None:
    digests = made_up_issuers(server, CAPACITY + 1)
    issuers = Issuers(server.url, fetcher)
    for start in range(0, CAPACITY, WINDOW):
        await issuers.ensure(digests[start : start + WINDOW])
    with pytest.raises(InvalidResponse, match=r"Test log: .*name 4,097 issuers; 4,096 are kept"):
        await issuers.ensure(digests[CAPACITY:])
    assert len(server.requests) == CAPACITY
    for _ in range(RECENT):  # what they named goes when nothing can need it any more
        await issuers.ensure(digests[:1])
    await issuers.ensure(digests[CAPACITY:])
    assert issuers.certificates(digests[CAPACITY]) == [CAPACITY.to_bytes(4)]


async def test_fetching_issuers_ends_when_it_is_cancelled_though_one_has_failed() -> None:
    digests = [bytes([n]) * 32 for n in range(2)]
    ending, end = asyncio.Event(), asyncio.Event()

    class Fetching(Fetcher):
        async def get_log(self, url: str, limit: int, *, purpose: Purpose = Purpose.OTHER) -> bytes:
            if digests[0].hex() in url:
                raise InvalidResponse(self.log, url, f"longer than {limit}")
            try:
                return await asyncio.Future()
            finally:
                ending.set()
                await end.wait()

    async with http_client() as http:
        issuers = Issuers("http://test", Fetching(http, "Test log", 5))
        task = asyncio.create_task(issuers.ensure(digests))
        await ending.wait()
        task.cancel()
        await asyncio.sleep(0)
        end.set()
        await asyncio.wait([task])
    assert task.cancelled()


async def test_proofs_of_a_real_static_ct_log(sunlight: StaticCtLog) -> None:
    head = await sunlight.tree_head()
    frontier = Frontier()
    for size in (0, 256, 512):
        for entry in await sunlight.entries(size, min(size + 256, head.size)):
            proof = await sunlight.inclusion(entry.index, head.size)
            assert proof.leaf == leaf_hash(entry.leaf)
            started = Frontier.from_inclusion_proof(
                entry.index + 1, head.size, proof.leaf, proof.path, head.root
            )
            frontier.append(proof.leaf)
            assert started.to_bytes() == frontier.to_bytes()
        proof_hashes = await sunlight.consistency(frontier.size, head.size)
        verify_consistency(frontier.size, head.size, frontier.root(), head.root, proof_hashes)
    assert frontier.root() == head.root


async def test_a_hybrid_log_without_proofs_is_proven_by_hash_tiles(
    sunlight: StaticCtLog, server: HostileServer, fetcher: Fetcher
) -> None:
    """Its get-proof-by-hash and get-sth-consistency answer 404."""
    head = await sunlight.tree_head()
    hybrid = HybridLog(server.url, fetcher, Issuers(server.url, fetcher))
    proof = await hybrid.inclusion(300, head.size, bytes(32))
    expected = await sunlight.inclusion(300, head.size)
    assert (proof.leaf, proof.path) == (expected.leaf, expected.path)
    Frontier.from_inclusion_proof(301, head.size, proof.leaf, proof.path, head.root)
    assert await hybrid.consistency(256, head.size) == await sunlight.consistency(256, head.size)
    del server.answers["*"]
    with pytest.raises(UnexpectedStatus, match="get-entry-and-proof"):
        await hybrid.inclusion(300, head.size, bytes(32))


async def test_a_hybrid_log_links_an_entry_to_the_url_it_was_read_from(
    sunlight: StaticCtLog, server: HostileServer, fetcher: Fetcher
) -> None:
    """An entry that get-entries returned keeps its link when the rest of its tile is read."""
    hybrid = HybridLog(server.url, fetcher, Issuers(server.url, fetcher))
    sth = {"timestamp": 1, "sha256_root_hash": "A" * 43 + "=", "tree_head_signature": "BAMAAA=="}
    sizes = (260, (await sunlight.tree_head()).size)
    heads = [Answer(json.dumps({**sth, "tree_size": size}).encode()) for size in sizes]
    server.answers["/ct/v1/get-sth"] = heads
    server.answers["/ct/v1/get-entries?start=256&end=259"] = [Answer(entries_body(4))]
    await hybrid.tree_head()
    assert len(await hybrid.entries(256, 260)) == 4
    by_request = f"{server.url}/ct/v1/get-entries?start=256&end=256"
    assert hybrid.entry_url(256) == by_request
    await hybrid.tree_head()
    assert [entry.index for entry in await hybrid.entries(260, 512)] == list(range(260, 512))
    assert hybrid.entry_url(256) == by_request
    assert hybrid.entry_url(260) == f"{server.url}/tile/data/001"
    await hybrid.entries(256, 512)  # again, by the tile
    assert hybrid.entry_url(256) == f"{server.url}/tile/data/001"


async def test_a_hybrid_log_links_entries_whatever_the_order_of_its_answers(
    server: HostileServer, fetcher: Fetcher
) -> None:
    hybrid = HybridLog(server.url, fetcher, Issuers(server.url, fetcher))
    sth = {"timestamp": 1, "sha256_root_hash": "A" * 43 + "=", "tree_head_signature": "BAMAAA=="}
    server.answers["/ct/v1/get-sth"] = [Answer(json.dumps({**sth, "tree_size": 270}).encode())]
    await hybrid.tree_head()
    for start, end in ((260, 264), (266, 270), (256, 260)):
        url = f"/ct/v1/get-entries?start={start}&end={end - 1}"
        server.answers[url] = [Answer(entries_body(end - start))]
        await hybrid.entries(start, end)
    by_request = set(range(256, 264)) | set(range(266, 270))
    for index in range(256, 270):
        tile, entry = "/tile/data/001", f"/ct/v1/get-entries?start={index}&end={index}"
        assert hybrid.entry_url(index) == server.url + (entry if index in by_request else tile)


async def test_rfc6962_proofs(server: HostileServer, rfc6962: Rfc6962Log) -> None:
    leaf, other, path = b"a leaf", b"another", [bytes([n]) * 32 for n in range(3)]
    hashed = base64.b64encode(leaf_hash(leaf)).decode()
    by_hash = f"/ct/v1/get-proof-by-hash?{urlencode({'hash': hashed, 'tree_size': 8})}"
    by_index = "/ct/v1/get-entry-and-proof?leaf_index=5&tree_size=8"
    text = [base64.b64encode(each).decode() for each in path]
    server.answers[by_hash] = [Answer(json.dumps({"leaf_index": 5, "audit_path": text}).encode())]
    assert await rfc6962.inclusion(5, 8, leaf_hash(leaf)) == Inclusion(leaf_hash(leaf), path)
    shown = {"leaf_input": base64.b64encode(other).decode(), "audit_path": text[:2]}
    server.answers[by_index] = [Answer(json.dumps(shown).encode())]
    server.answers[by_hash] = [Answer(status="404 Not Found")]
    assert await rfc6962.inclusion(5, 8, leaf_hash(leaf)) == Inclusion(leaf_hash(other), path[:2])
    server.answers["/ct/v1/get-sth-consistency?first=3&second=8"] = [
        Answer(json.dumps({"consistency": text}).encode())
    ]
    assert await rfc6962.consistency(3, 8) == path
    server.answers["/ct/v1/get-sth-consistency?first=4&second=8"] = [
        Answer(json.dumps({"consistency": ["AAAA"]}).encode())
    ]
    with pytest.raises(InvalidResponse, match=r"hashes of \[3\] bytes"):
        await rfc6962.consistency(4, 8)


async def test_a_tile_that_is_short_or_cut(server: HostileServer, sunlight: StaticCtLog) -> None:
    tile = gzip.decompress((SUNLIGHT / "tile/data/000").read_bytes())
    server.answers["/tile/data/000"] = [Answer(tile[:-5])]
    with pytest.raises(InvalidResponse, match="data tile: entry 255"):
        await sunlight.entries(0, 256)
    server.answers["/tile/data/000.p/200"] = [Answer(b"")]
    with pytest.raises(InvalidResponse, match="tile has 0 entries, but the tree head covers 200"):
        await sunlight.entries(0, 200)


@pytest.mark.parametrize("body", [b"", b"other.test\n1\nAAAA\n\n", b"\xff"])
async def test_what_is_no_checkpoint(
    server: HostileServer, sunlight: StaticCtLog, body: bytes
) -> None:
    server.answers["/checkpoint"] = [Answer(body)]
    with pytest.raises(InvalidResponse, match="checkpoint"):
        await sunlight.tree_head()


async def test_proofs_in_one_tree_share_its_upper_tiles_and_its_last(
    server: HostileServer, sunlight: StaticCtLog
) -> None:
    head = await sunlight.tree_head()
    for index in (255, 511, 600):
        await sunlight.inclusion(index, head.size)
    assert server.count("/tile/1/000.p/2") == server.count("/tile/0/002.p/188") == 1
    # The proof that the tree continues one of whole tiles takes no other tile.
    leaves = [leaf_hash(entry.leaf) for entry in await sunlight.entries(0, 256)]
    requests = len(server.requests)
    frontier = Frontier()
    frontier.extend(leaves)
    proof = await sunlight.consistency(256, head.size)
    verify_consistency(256, head.size, frontier.root(), head.root, proof)
    assert len(server.requests) == requests
    # A log that has answered wrongly once is not held to it.
    await sunlight.tree_head()
    await sunlight.inclusion(255, head.size)
    assert server.count("/tile/1/000.p/2") == 2
