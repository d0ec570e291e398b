"""get-sth and get-entries: what is served well, and what is not."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from ctparse.entry import Entry, Malformed, Rejected
from ctparse.rfc6962 import chain_certificates, decode_entries, decode_sth

CERTIFICATE = b"\x30\x03\x02\x01\x01"
CHAIN = b"\0\0\x03one" + b"\0\0\x03two"


def vector(contents: bytes, length_bytes: int = 3) -> bytes:
    return len(contents).to_bytes(length_bytes) + contents


def x509_leaf(certificate: bytes = CERTIFICATE, extensions: bytes = b"") -> bytes:
    head = b"\0\0" + (1700).to_bytes(8) + b"\0\0"
    return head + vector(certificate) + vector(extensions, 2)


def precert_leaf(tbs: bytes = b"tbs") -> bytes:
    return b"\0\0" + (1700).to_bytes(8) + b"\0\1" + b"h" * 32 + vector(tbs) + b"\0\0"


def body(*pairs: tuple[bytes, bytes]) -> bytes:
    entries = [
        {
            "leaf_input": base64.b64encode(leaf).decode(),
            "extra_data": base64.b64encode(extra).decode(),
        }
        for leaf, extra in pairs
    ]
    return json.dumps({"entries": entries}).encode()


class TestEntries:
    def test_x509(self) -> None:
        leaf = x509_leaf()
        assert decode_entries(body((leaf, vector(CHAIN))), 5) == [
            Entry(5, 1700, False, CERTIFICATE, CHAIN, leaf)
        ]

    def test_precert_is_the_submitted_one(self) -> None:
        leaf = precert_leaf()
        extra = vector(b"submitted") + vector(CHAIN)
        assert decode_entries(body((leaf, extra)), 5) == [
            Entry(5, 1700, True, b"submitted", CHAIN, leaf)
        ]

    def test_extensions_of_the_leaf_are_allowed(self) -> None:
        leaf = x509_leaf(extensions=b"\0\0\x05\0\0\0\0\x07")
        (entry,) = decode_entries(body((leaf, vector(b""))), 0)
        assert isinstance(entry, Entry)
        assert (entry.leaf, entry.chain) == (leaf, b"")

    def test_equal_chains_are_one_object(self) -> None:
        entries = decode_entries(body(*[(x509_leaf(), vector(CHAIN))] * 3), 0)
        chains = [entry.chain for entry in entries if isinstance(entry, Entry)]
        assert len(chains) == 3
        assert chains[0] is chains[1] is chains[2]

    def test_chains_that_begin_alike_are_distinguished(self) -> None:
        common = vector(b"x" * 100)
        extras = [vector(common + vector(b"one")), vector(common + vector(b"two"))]
        entries = decode_entries(body(*((x509_leaf(), extra) for extra in extras * 2)), 0)
        assert [entry.chain for entry in entries if isinstance(entry, Entry)] == [
            extra[3:] for extra in extras * 2
        ]

    def test_none(self) -> None:
        assert decode_entries(b'{"entries":[]}', 3) == []

    @pytest.mark.parametrize(
        ("leaf", "extra"),
        [
            (b"", vector(CHAIN)),
            (x509_leaf()[:14], vector(CHAIN)),
            (x509_leaf()[:-3], vector(CHAIN)),
            (x509_leaf() + b"!", vector(CHAIN)),
            (b"\1" + x509_leaf()[1:], vector(CHAIN)),
            (b"\0\1" + x509_leaf()[2:], vector(CHAIN)),
            (x509_leaf().replace(b"\0\0\0\0\x05\x30", b"\0\2\0\0\x05\x30"), vector(CHAIN)),
            (precert_leaf(), b""),
            (precert_leaf(), vector(b"submitted")[:-1]),
            (precert_leaf(), b"\0\xff\xff" + CHAIN),
            (precert_leaf()[:40], vector(b"submitted") + vector(CHAIN)),
            (precert_leaf() + b"!", vector(b"submitted") + vector(CHAIN)),
        ],
    )
    def test_bad_framing_rejects_that_entry_alone(self, leaf: bytes, extra: bytes) -> None:
        good = (x509_leaf(), vector(CHAIN))
        before, bad, after = decode_entries(body(good, (leaf, extra), good), 5)
        assert isinstance(before, Entry)
        assert isinstance(bad, Rejected)
        assert (bad.index, bad.raw) == (6, leaf)
        assert bad.reason.startswith("get-entries: ")
        assert isinstance(after, Entry)
        assert after.index == 7

    @pytest.mark.parametrize(
        "extra",
        [
            b"",
            vector(CHAIN) + b"!",
            vector(CHAIN)[:-1],
            vector(CHAIN[:-1]),
            vector(CHAIN + b"\0\0"),
            vector(b"\0\0\0" * 101),
        ],
    )
    def test_a_bad_chain_costs_nothing_but_itself(self, extra: bytes) -> None:
        submitted = vector(b"submitted")
        x509, precert = decode_entries(
            body((x509_leaf(), extra), (precert_leaf(), submitted + extra)), 5
        )
        for entry, leaf, certificate in (
            (x509, x509_leaf(), CERTIFICATE),
            (precert, precert_leaf(), b"submitted"),
        ):
            assert isinstance(entry, Entry)
            assert (entry.leaf, entry.certificate, entry.chain) == (leaf, certificate, b"")
            assert entry.problem.startswith("extra_data: ")

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda entry: entry.pop("extra_data"),
            lambda entry: entry.update(extra_data=None),
            lambda entry: entry.update(extra_data=7),
            lambda entry: entry.update(extra_data="!!!"),
        ],
    )
    def test_without_extra_data_the_leaf_counts(
        self, spoil: Callable[[dict[str, Any]], Any]
    ) -> None:
        served = json.loads(
            body(
                (x509_leaf(), vector(CHAIN)),
                (precert_leaf(), vector(b"submitted") + vector(CHAIN)),
                (x509_leaf(), vector(CHAIN)),
            )
        )
        for entry in served["entries"][:2]:
            spoil(entry)
        x509, precert, after = decode_entries(json.dumps(served).encode(), 5)
        assert isinstance(x509, Entry)
        assert (x509.leaf, x509.certificate, x509.chain) == (x509_leaf(), CERTIFICATE, b"")
        assert x509.problem.startswith("extra_data: ")
        # Only extra_data contains the precertificate itself.
        assert isinstance(precert, Rejected)
        assert (precert.index, precert.leaf) == (6, precert_leaf())
        assert "extra_data" in precert.reason
        assert isinstance(after, Entry)
        assert after.problem == ""

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda entry: entry.update(leaf_input="not base64!"),
            lambda entry: entry.update(leaf_input=7),
            lambda entry: entry.update(leaf_input=None),
        ],
    )
    def test_bad_json_in_an_entry_rejects_it_alone(
        self, spoil: Callable[[dict[str, Any]], Any]
    ) -> None:
        served = json.loads(body(*[(x509_leaf(), vector(CHAIN))] * 3))
        spoil(served["entries"][1])
        before, bad, after = decode_entries(json.dumps(served).encode(), 5)
        assert isinstance(before, Entry)
        assert isinstance(bad, Rejected)
        assert bad.index == 6
        assert json.loads(bad.raw) == served["entries"][1]
        assert isinstance(after, Entry)

    def test_no_more_entries_are_decoded_than_requested(self) -> None:
        served = body(*[(x509_leaf(), vector(CHAIN))] * 3)
        assert [entry.index for entry in decode_entries(served, 5, 2)] == [5, 6]
        assert len(decode_entries(served, 5, 4)) == 3
        assert [entry.index for entry in decode_entries(b'{"entries":[0,1,2,3]}', 5, 2)] == [5, 6]
        with pytest.raises(Malformed, match="values"):
            decode_entries(b'{"entries":[' + b"0," * 1000 + b"0]}", 5, 2)

    def test_a_byte_order_mark_is_no_part_of_an_answer(self) -> None:
        marked = b"\xef\xbb\xbf"
        for served in (body((x509_leaf(), vector(CHAIN))), b'{"entries":["what"]}'):
            assert decode_entries(marked + served, 0) == decode_entries(served, 0)
        with pytest.raises(Malformed, match="get-entries: "):
            decode_entries(marked + marked + b'{"entries":[]}', 0)

    def test_an_entry_that_is_no_object(self) -> None:
        (bad,) = decode_entries(b'{"entries":["what"]}', 5)
        assert isinstance(bad, Rejected)

    @pytest.mark.parametrize(
        "served",
        [
            b"",
            b"<html>",
            b"[]",
            b"{}",
            b'{"entries":null}',
            b'{"entries":[',
            b'{"entries":[]}{}',
            b'{"entries":["\xff"]}',
            b'{"entries":' + b"[" * 100_000,
            b'{"more":' + b"[" * 100_000,
        ],
    )
    def test_another_body_is_malformed(self, served: bytes) -> None:
        with pytest.raises(Malformed, match="get-entries: "):
            decode_entries(served, 0)


class TestChain:
    def test_split(self) -> None:
        assert chain_certificates(CHAIN) == (b"one", b"two")
        assert chain_certificates(b"") == ()

    @pytest.mark.parametrize("chain", [b"\0", b"\0\0\1", CHAIN + b"\0\0\x04six"])
    def test_malformed(self, chain: bytes) -> None:
        with pytest.raises(Malformed, match=r"certificate \d of the chain"):
            chain_certificates(chain)

    def test_too_long(self) -> None:
        assert len(chain_certificates(b"\0\0\0" * 100)) == 100
        with pytest.raises(Malformed, match="more than 100 certificates"):
            chain_certificates(b"\0\0\0" * 101)


GOOD_STH = {
    "tree_size": 12,
    "timestamp": 1700,
    "sha256_root_hash": base64.b64encode(b"r" * 32).decode(),
    "tree_head_signature": base64.b64encode(b"\4\3\0\1s").decode(),
}


class TestTreeHead:
    def test_good(self) -> None:
        tree_head = decode_sth(json.dumps(GOOD_STH | {"more": "of it"}).encode())
        assert (tree_head.size, tree_head.timestamp) == (12, 1700)
        assert (tree_head.root, tree_head.signature) == (b"r" * 32, b"\4\3\0\1s")

    def test_a_byte_order_mark(self) -> None:
        served = json.dumps(GOOD_STH).encode()
        assert decode_sth(b"\xef\xbb\xbf" + served) == decode_sth(served)

    @pytest.mark.parametrize(
        "bad",
        [
            {"tree_size": -1},
            {"tree_size": 1 << 63},
            {"tree_size": 10**400},
            {"tree_size": "12"},
            {"timestamp": -1},
            {"timestamp": 1.5},
            {"sha256_root_hash": "AAAA"},
            {"sha256_root_hash": "?"},
            {"tree_head_signature": None},
        ],
    )
    def test_bad(self, bad: dict[str, Any]) -> None:
        with pytest.raises(Malformed, match="get-sth: "):
            decode_sth(json.dumps(GOOD_STH | bad).encode())

    @pytest.mark.parametrize("served", [b"", b"{}", b"null", b"\xff", b"[" * 100_000])
    def test_no_tree_head(self, served: bytes) -> None:
        with pytest.raises(Malformed, match="get-sth: "):
            decode_sth(served)
