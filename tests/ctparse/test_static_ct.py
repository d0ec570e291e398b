"""Checkpoints and data tiles: a tree that Sunlight wrote, and what it would not write."""

import base64
import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from ctparse import merkle, signatures
from ctparse.entry import Entry, Malformed, Rejected
from ctparse.static_ct import (
    Checkpoint,
    decode_tile,
    fingerprints,
    parse_checkpoint,
    tile_path,
    tree_head,
)
from ctparse.tree_head import TreeHead

ORIGIN = "sun.test/2026"
WIDTHS = (256, 256, 188)


def tile(sunlight: Path, n: int) -> bytes:
    return gzip.decompress((sunlight / tile_path("data", n, WIDTHS[n])).read_bytes())


@pytest.fixture(scope="module")
def entries(sunlight: Path) -> list[Entry]:
    decoded = [
        entry for n in range(len(WIDTHS)) for entry in decode_tile(tile(sunlight, n), n * 256)
    ]
    assert all(isinstance(entry, Entry) for entry in decoded)
    return [entry for entry in decoded if isinstance(entry, Entry)]


@pytest.fixture(scope="module")
def checkpoint(sunlight: Path) -> Checkpoint:
    return parse_checkpoint((sunlight / "checkpoint").read_bytes())


@pytest.fixture(scope="module")
def key(sunlight: Path) -> signatures.LogKey:
    described = json.loads((sunlight / "log.v3.json").read_bytes())
    key = signatures.load_log_key(base64.b64decode(described["key"]))
    assert key.id == base64.b64decode(described["log_id"])
    return key


class TestSunlight:
    def test_certificates(self, entries: list[Entry], sunlight: Path) -> None:
        found = sorted(sha256(entry.certificate).hexdigest() for entry in entries)
        assert found == (sunlight / "sha256.txt").read_text().split()
        assert [entry.index for entry in entries] == list(range(700))
        assert {entry.is_precert for entry in entries} == {True, False}

    def test_leaf_hashes_are_those_of_the_hash_tiles(
        self, entries: list[Entry], sunlight: Path
    ) -> None:
        tiles = b"".join(
            (sunlight / tile_path(0, n, width)).read_bytes() for n, width in enumerate(WIDTHS)
        )
        assert b"".join(merkle.leaf_hash(entry.leaf) for entry in entries) == tiles

    def test_root_is_the_one_the_checkpoint_signs(
        self, entries: list[Entry], checkpoint: Checkpoint, key: signatures.LogKey
    ) -> None:
        frontier = merkle.Frontier()
        for entry in entries:
            frontier.append(merkle.leaf_hash(entry.leaf))
        signed = tree_head(checkpoint, key.id, ORIGIN)
        signatures.verify_tree_head(key, signed)
        assert (frontier.size, frontier.root()) == (signed.size, signed.root)

    def test_issuers(self, entries: list[Entry], sunlight: Path) -> None:
        chains = {fingerprint for entry in entries for fingerprint in fingerprints(entry.chain)}
        assert chains
        for fingerprint in chains:
            issuer = (sunlight / "issuer" / fingerprint.hex()).read_bytes()
            assert sha256(issuer).digest() == fingerprint

    def test_the_log_has_signed_just_one_line(
        self, checkpoint: Checkpoint, key: signatures.LogKey
    ) -> None:
        assert len(checkpoint.signatures) == 4
        assert [name for name, _, _ in checkpoint.signatures].count(ORIGIN) == 3
        right = 0
        for line in checkpoint.signatures:
            alone = Checkpoint(ORIGIN, checkpoint.size, checkpoint.root, (line,))
            try:
                signatures.verify_tree_head(key, tree_head(alone, key.id))
            except Malformed:
                continue
            right += 1
        assert right == 1

    def test_without_a_log_id_the_line_is_found_by_its_structure(
        self, checkpoint: Checkpoint, key: signatures.LogKey
    ) -> None:
        assert tree_head(checkpoint) == tree_head(checkpoint, key.id)

    def test_another_log(self, checkpoint: Checkpoint, key: signatures.LogKey) -> None:
        with pytest.raises(Malformed, match="no RFC 6962 signature"):
            tree_head(checkpoint, sha256(b"another key").digest())
        with pytest.raises(Malformed, match=r"is for another origin than 'sun\.test/2027'"):
            tree_head(checkpoint, key.id, "sun.test/2027")

    @pytest.mark.parametrize("field", ["size", "root", "timestamp"])
    def test_anything_else_is_not_signed(
        self, checkpoint: Checkpoint, key: signatures.LogKey, field: str
    ) -> None:
        signed = tree_head(checkpoint, key.id)
        other = {
            "size": TreeHead(701, signed.timestamp, signed.root, signed.signature),
            "root": TreeHead(700, signed.timestamp, b"\0" * 32, signed.signature),
            "timestamp": TreeHead(700, 1, signed.root, signed.signature),
        }[field]
        with pytest.raises(signatures.BadSignature, match="tree head of size"):
            signatures.verify_tree_head(key, other)


class TestTile:
    def test_an_entry_at_another_index_is_rejected(self, sunlight: Path) -> None:
        decoded = decode_tile(tile(sunlight, 2), 256)
        assert len(decoded) == WIDTHS[2]
        reasons = [entry.reason for entry in decoded if isinstance(entry, Rejected)]
        assert len(reasons) == len(decoded)
        assert reasons[0] == "leaf_index is 512 at the position of entry 256"

    def test_a_rejected_entry_does_not_lose_the_others(self, sunlight: Path) -> None:
        whole = tile(sunlight, 0)
        spoiled = bytearray(whole)
        second = len(one_entry(whole, 0))
        at = whole.index(b"\0\x08\0\0\x05" + (1).to_bytes(5), second)
        spoiled[at + 9] = 77
        decoded = decode_tile(bytes(spoiled), 0)
        assert len(decoded) == 256
        assert [entry.index for entry in decoded if isinstance(entry, Rejected)] == [1]

    @pytest.mark.parametrize(
        ("extensions", "reason"),
        [
            (b"", "expected one leaf_index"),
            (b"\0\0\x04\0\0\0\7", "expected one leaf_index"),
            (b"\0\0\x05\0\0\0\0\7" * 2, "expected one leaf_index"),
            (b"\0\0\x09\0\0\0\0\7", "too long"),
            (b"\0", "too long"),
        ],
    )
    def test_bad_extensions_are_rejected(self, extensions: bytes, reason: str) -> None:
        (bad,) = decode_tile(tile_leaf(extensions), 7)
        assert isinstance(bad, Rejected)
        assert reason in bad.reason

    def test_other_extensions_are_ignored(self) -> None:
        index = b"\0\0\x05\0\0\0\0\7"
        for extensions in (index + b"\x09\0\0", b"\xff\0\2ab" + index):
            (entry,) = decode_tile(tile_leaf(extensions), 7)
            assert isinstance(entry, Entry)
            assert entry.leaf.endswith(extensions)

    @pytest.mark.parametrize(
        ("size", "problem"),
        [
            (33, "certificate_chain of 33 bytes, not a multiple of 32"),
            (101 * 32, "chain of more than 100 certificates"),
        ],
    )
    def test_a_bad_chain_costs_nothing_but_itself(self, size: int, problem: str) -> None:
        index = b"\0\0\x05\0\0\0\0\7"
        (good,) = decode_tile(tile_leaf(index, chain=bytes(100 * 32)), 7)
        (bad,) = decode_tile(tile_leaf(index, chain=bytes(size)), 7)
        assert isinstance(good, Entry)
        assert good.problem == ""
        assert bad == msgspec.structs.replace(good, chain=b"", problem=problem)

    def test_a_tile_that_ends_inside_an_entry_is_malformed(self, sunlight: Path) -> None:
        whole = tile(sunlight, 0)
        first = len(one_entry(whole, 0))
        for end in (*range(1, first), first + 5, len(whole) - 1):
            with pytest.raises(Malformed, match=r"data tile: entry \d+: "):
                decode_tile(whole[:end], 0)

    def test_an_unknown_type_is_malformed(self, sunlight: Path) -> None:
        with pytest.raises(Malformed, match="entry 0: unknown type 7"):
            decode_tile(bytes(8) + b"\0\7" + tile(sunlight, 0), 0)

    def test_the_empty_tile(self) -> None:
        assert decode_tile(b"", 0) == []


def one_entry(whole: bytes, first: int) -> bytes:
    """The first entry of a tile."""
    for end in range(len(whole)):
        try:
            decode_tile(whole[:end], first)
        except Malformed:
            continue
        if end:
            return whole[:end]
    raise AssertionError("no entry in the tile")


def tile_leaf(extensions: bytes, chain: bytes = b"") -> bytes:
    certificate = b"\0\0\1x"
    lengths = len(extensions).to_bytes(2), len(chain).to_bytes(2)
    return bytes(10) + certificate + lengths[0] + extensions + lengths[1] + chain


class TestCheckpoint:
    root = base64.b64encode(bytes(32)).decode()
    line = "— log.example/2026 " + base64.b64encode(b"hash" + b"signature").decode() + "\n"

    def test_good(self) -> None:
        found = parse_checkpoint(f"log.example/2026\n0\n{self.root}\n\n{self.line}".encode())
        assert found == Checkpoint(
            "log.example/2026", 0, bytes(32), (("log.example/2026", b"hash", b"signature"),)
        )

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "log.example/2026\n12\n{root}\n",
            "log.example/2026\n12\n{root}\n\n",
            "log.example/2026\n12\n{root}\n{line}",
            "log.example/2026\n012\n{root}\n\n{line}",
            "log.example/2026\n-1\n{root}\n\n{line}",
            "log.example/2026\n" + "9" * 5000 + "\n{root}\n\n{line}",
            "\n12\n{root}\n\n{line}",
            "log.example/2026\n12\nAAAA\n\n{line}",
            "log.example/2026\n12\nA=A\n\n{line}",
            "log.example/2026\n12\n{root}\nextension\n\n{line}",
            "log.example/2026\n12\n{root}\n\n{line}more",
            "log.example/2026\r\n12\r\n{root}\r\n\r\n{line}",
            "log.example/2026\n12\n{root}\n\n— log.example/2026 AAAA\n",
            "log.example/2026\n12\n{root}\n\n— log.example/2026 !!!!\n",
            "log.example/2026\n12\n{root}\n\n— log.example/2026\n",
            "log.example/2026\n12\n{root}\n\n" + "{line}" * 1000,
            "<html>\n",
        ],
    )
    def test_bad(self, body: str) -> None:
        with pytest.raises(Malformed, match=r"^checkpoint"):
            parse_checkpoint(body.format(root=self.root, line=self.line).encode())

    def test_not_even_text(self) -> None:
        with pytest.raises(Malformed, match=r"^checkpoint"):
            parse_checkpoint(b"\xff\n12\n")


class TestTilePath:
    @pytest.mark.parametrize(
        ("level", "n", "width", "path"),
        [
            (0, 0, 256, "tile/0/000"),
            (1, 7, 12, "tile/1/007.p/12"),
            (5, 999, 1, "tile/5/999.p/1"),
            (0, 1000, 256, "tile/0/x001/000"),
            ("data", 1234067, 256, "tile/data/x001/x234/067"),
            ("data", 1234067, 255, "tile/data/x001/x234/067.p/255"),
            (0, 1_000_000_000, 256, "tile/0/x001/x000/x000/000"),
        ],
    )
    def test_paths(self, level: Literal["data"] | int, n: int, width: int, path: str) -> None:
        assert tile_path(level, n, width) == path

    @pytest.mark.parametrize(
        ("level", "n", "width"), [(-1, 0, 256), (6, 0, 256), (0, -1, 256), (0, 0, 0), (0, 0, 257)]
    )
    def test_there_is_no_such_tile(self, level: int, n: int, width: int) -> None:
        with pytest.raises(ValueError, match="no tile of level"):
            tile_path(level, n, width)
