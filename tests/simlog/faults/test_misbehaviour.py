"""Each misbehaviour over HTTP: it appears where it should, and the matching check detects it."""

import time
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from ctparse import merkle, signatures, static_ct
from ctparse.entry import Entry, Malformed, Rejected
from simlog import fault_types
from tests.simlog.world_over_http import Served, leaf_hash, root, served
from tests.simlog.worlds import small

LOGS = ("rfc1", "static1")
both_kinds = pytest.mark.parametrize("log", LOGS)


@pytest.fixture
async def world() -> AsyncIterator[Served]:
    async with served(small()) as opened:
        yield opened


@both_kinds
async def test_an_honest_root_is_that_of_the_entries(world: Served, log: str) -> None:
    head = await world.verified_head(log)
    assert root(await world.entries(log, head.size)) == head.root
    assert await world.uncommitted(log) == {}


@both_kinds
async def test_a_swapped_leaf(world: Served, log: str) -> None:
    honest = await world.entries(log, 100)
    await world.set(log, fault_types.SwappedLeaf(index=42))
    head = await world.verified_head(log)
    entries = await world.entries(log, head.size)
    assert root(entries) != head.root
    assert [n for n in range(100) if entries[n] != honest[n]] == [42]
    swapped = entries[42]
    assert isinstance(swapped, Entry)
    shown = await world.uncommitted(log)
    assert list(shown) == [42]
    assert shown[42].misbehaviour == "swapped_leaf"
    assert shown[42].sha256 == sha256(swapped.certificate).hexdigest()
    assert shown[42].names
    assert shown[42].sha256 not in {
        each.sha256 for each in await world.record() if not each.misbehaviour
    }


@both_kinds
async def test_leaves_swapped_at_an_interval(world: Served, log: str) -> None:
    await world.set(log, fault_types.SwappedLeaf(every=10))
    await world.entries(log, 35)
    assert {9, 19, 29} <= (await world.uncommitted(log)).keys()
    assert all(index % 10 == 9 for index in await world.uncommitted(log))


@both_kinds
async def test_a_forged_precertificate_leaves_the_leaf_alone(world: Served, log: str) -> None:
    honest = await world.entries(log, 100)
    at = [n for n, each in enumerate(honest) if isinstance(each, Entry) and each.is_precert][3]
    await world.set(log, fault_types.ForgedPrecert(index=at))
    forged, right = (await world.entries(log, 100))[at], honest[at]
    assert isinstance(forged, Entry)
    assert isinstance(right, Entry)
    assert forged.leaf == right.leaf
    assert forged.certificate != right.certificate
    entry = (await world.uncommitted(log))[at]
    assert (entry.misbehaviour, entry.sha256) == (
        "forged_precert",
        sha256(forged.certificate).hexdigest(),
    )


async def test_a_garbled_entry_of_an_rfc6962_log_is_one_that_cannot_be_read(world: Served) -> None:
    await world.set("rfc1", fault_types.Garbled(index=7))
    entries = await world.entries("rfc1", 20)
    assert [n for n, each in enumerate(entries) if isinstance(each, Rejected)] == [7]


async def test_a_garbled_entry_of_a_static_log_spoils_its_tile(world: Served) -> None:
    await world.set("static1", fault_types.Garbled(index=7))
    with pytest.raises(Malformed, match="entry 7"):
        await world.entries("static1", 256)


async def test_a_wrong_leaf_index(world: Served) -> None:
    await world.set("static1", fault_types.WrongLeafIndex(index=200))
    size = (await world.verified_head("static1")).size
    entries = await world.entries("static1", size)
    [(at, wrong)] = [(n, each) for n, each in enumerate(entries) if isinstance(each, Rejected)]
    assert at == 200
    assert "leaf_index is 201" in wrong.reason


@both_kinds
async def test_a_wrong_root_is_validly_signed(world: Served, log: str) -> None:
    honest = await world.verified_head(log)
    await world.set(log, fault_types.WrongRoot())
    head = await world.verified_head(log)
    assert head.size == honest.size
    assert head.root != honest.root == root(await world.entries(log, head.size))


@both_kinds
async def test_a_bad_signature_is_over_the_right_root(world: Served, log: str) -> None:
    honest = await world.verified_head(log)
    await world.set(log, fault_types.BadSignature())
    head = await world.head(log)
    assert (head.size, head.root) == (honest.size, honest.root)
    with pytest.raises(signatures.BadSignature, match="not by the log's key"):
        await world.verified_head(log)


@both_kinds
async def test_a_fork_is_a_tree_of_its_own(world: Served, log: str) -> None:
    honest = await world.verified_head(log)
    before = await world.entries(log, honest.size)
    await world.set(log, fault_types.Fork(at=100))
    head = await world.verified_head(log)
    assert head.size == honest.size
    assert head.root != honest.root
    entries = await world.entries(log, head.size)
    assert root(entries) == head.root
    assert [n for n in range(head.size) if entries[n] != before[n]] == [100]
    assert (await world.uncommitted(log))[100].misbehaviour == "fork"


async def test_a_fork_proves_itself_and_not_what_was_before(world: Served) -> None:
    honest = await world.verified_head("rfc1")
    old = await world.entries("rfc1", 200)
    await world.set("rfc1", fault_types.Fork(at=100))
    head = await world.verified_head("rfc1")
    forked = await world.entries("rfc1", 200)
    proof = await world.consistency("rfc1", 200, head.size)
    merkle.verify_consistency(200, head.size, root(forked), head.root, proof)
    with pytest.raises(merkle.BadProof):
        merkle.verify_consistency(200, head.size, root(old), head.root, proof)
    leaf = leaf_hash(forked[100])
    path = await world.inclusion("rfc1", leaf, head.size)
    merkle.verify_inclusion(100, head.size, leaf, path, head.root)
    await world.set("rfc1")
    assert (await world.verified_head("rfc1")).root == honest.root


@both_kinds
async def test_a_fork_grows_with_the_log(log: str) -> None:
    live = small(start=time.time(), rate=1000.0, preload=40, total=2000, interval=0.02)
    async with served(live) as world:
        before = await world.verified_head(log)
        await world.set(log, fault_types.Fork(at=before.size + 50))
        head = before
        while head.size < before.size + 100:
            head = await world.verified_head(log)
        entries = await world.entries(log, head.size)
        assert root(entries) == head.root
        assert root(entries[: before.size]) == before.root
        await world.set(log)
        honest = await world.entries(log, head.size)
        assert [n for n in range(head.size) if entries[n] != honest[n]] == [before.size + 50]


@both_kinds
async def test_a_rewound_log_signs_a_smaller_tree_and_stays_there(world: Served, log: str) -> None:
    honest = await world.verified_head(log)
    await world.set(log, fault_types.Rewind(entries=20))
    head = await world.verified_head(log)
    assert head.size == honest.size - 20
    assert head.timestamp >= honest.timestamp
    assert head.root == root(await world.entries(log, head.size))
    beyond = f"ct/v1/get-entries?start={head.size}&end={head.size}"
    if log == "static1":
        tile, last = divmod(honest.size - 1, 256)
        beyond = static_ct.tile_path("data", tile, last + 1)
    assert (await world.http.get(f"/{log}/{beyond}")).status_code in (400, 404)
    await world.set(log)
    assert (await world.verified_head(log)).root == honest.root


async def test_wrong_proofs(world: Served) -> None:
    await world.set("rfc1", fault_types.WrongProofs())
    head = await world.verified_head("rfc1")
    entries = await world.entries("rfc1", head.size)
    assert root(entries) == head.root
    with pytest.raises(merkle.BadProof):
        merkle.verify_consistency(
            100, head.size, root(entries[:100]), head.root,
            await world.consistency("rfc1", 100, head.size),
        )  # fmt: skip
    leaf = leaf_hash(entries[42])
    path = await world.inclusion("rfc1", leaf, head.size)
    with pytest.raises(merkle.BadProof):
        merkle.verify_inclusion(42, head.size, leaf, path, head.root)


async def test_wrong_hash_tiles(world: Served) -> None:
    honest = await world.get(f"/static1/{static_ct.tile_path(0, 0)}")
    await world.set("static1", fault_types.WrongProofs())
    wrong = await world.get(f"/static1/{static_ct.tile_path(0, 0)}")
    assert len(wrong) == len(honest)
    assert wrong != honest
    head = await world.verified_head("static1")
    assert root(await world.entries("static1", head.size)) == head.root


async def test_wrong_issuers(world: Served) -> None:
    [entry] = (await world.entries("static1", 1))[:1]
    assert isinstance(entry, Entry)
    fingerprint = static_ct.fingerprints(entry.chain)[0]
    await world.set("static1", fault_types.WrongIssuer())
    issuer = await world.get(f"/static1/issuer/{fingerprint.hex()}")
    assert sha256(issuer).digest() != fingerprint
    assert (await world.http.get("/static1/issuer/00")).status_code == 404


async def test_one_log_misbehaves_and_the_others_do_not(world: Served) -> None:
    await world.set("rfc1", fault_types.WrongRoot(), fault_types.SwappedLeaf(every=2))
    for log in ("rfc2", "static1", "static2"):
        head = await world.verified_head(log)
        assert root(await world.entries(log, head.size)) == head.root


async def test_kinds_of_misbehaviour_combine(world: Served) -> None:
    await world.set(
        "rfc1", fault_types.Rewind(entries=20), fault_types.Fork(at=5), fault_types.BadSignature()
    )
    head = await world.head("rfc1")
    assert root(await world.entries("rfc1", head.size)) == head.root
    with pytest.raises(signatures.BadSignature):
        await world.verified_head("rfc1")
