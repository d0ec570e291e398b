"""Entries of real logs come out as certstream-server-rust writes them, from either kind of log."""

import base64
import json
from hashlib import sha256
from typing import Any

import pytest

from ctparse import rfc6962, static_ct
from ctparse.entry import Entry
from ctparse.wire_messages import Message, MessageWriter, Source
from tests.ctparse.reading import SEEN

_COUNT = 20


def assert_emitted(expected: Any, found: Any, path: str = "message") -> None:
    """Every non-null field of `expected` is in `found`, equal; lists are equal in length."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), path
        for key, value in expected.items():
            if value is not None:
                assert key in found, f"{path}.{key} is missing"
                assert_emitted(value, found[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(found), path
        for position, (value, other) in enumerate(zip(expected, found, strict=True)):
            assert_emitted(value, other, f"{path}[{position}]")
    else:
        assert expected == found, path


def write(real: dict[str, Any]) -> Message:
    body = json.dumps(
        {"entries": [{"leaf_input": real["leaf_input"], "extra_data": real["extra_data"]}]}
    )
    (entry,) = rfc6962.decode_entries(body.encode(), real["cert_index"])
    assert isinstance(entry, Entry)
    url = real["log_url"]
    writer = MessageWriter(
        Source(real["log_name"], url, "its operator", "rfc6962"),
        lambda index: f"{url}ct/v1/get-entries?start={index}&end={index}",
        rfc6962.chain_certificates,
    )
    return writer.write(entry, sha256(entry.certificate).digest(), SEEN)


@pytest.mark.parametrize("position", range(_COUNT))
def test_equals_what_the_peer_emits(ct_entries: list[dict[str, Any]], position: int) -> None:
    real = ct_entries[position]
    message = write(real)
    assert message.problems == ()
    assert_emitted(real["expected_full"], json.loads(message.full))
    assert_emitted(real["expected_lite"], json.loads(message.lite))
    assert json.loads(message.domains) == real["expected_domains_only"]


@pytest.mark.parametrize("position", range(_COUNT))
def test_lite_is_full_without_der_chain_and_hashes(
    ct_entries: list[dict[str, Any]], position: int
) -> None:
    message = write(ct_entries[position])
    full = json.loads(message.full)
    del full["data"]["chain"]
    for name in ("as_der", "tbs_sha256", "pubkey_sha256"):
        del full["data"]["leaf_cert"][name]
    assert json.loads(message.lite) == full


def test_each_form_is_one_line_and_opens_with_its_type(ct_entries: list[dict[str, Any]]) -> None:
    message = write(ct_entries[0])
    assert message.full.startswith(b'{"message_type":"certificate_update",')
    assert message.lite.startswith(b'{"message_type":"certificate_update",')
    assert message.domains.startswith(b'{"message_type":"dns_entries",')
    assert b"\n" not in message.full + message.lite + message.domains


def test_absent_attributes_are_null_and_absent_extensions_left_out(
    ct_entries: list[dict[str, Any]],
) -> None:
    leaf = json.loads(write(ct_entries[0]).lite)["data"]["leaf_cert"]
    assert leaf["subject"] == {
        "C": None,
        "CN": "portal.dragonjar.org",
        "L": None,
        "O": None,
        "OU": None,
        "ST": None,
        "aggregated": "/CN=portal.dragonjar.org",
        "email_address": None,
    }
    assert None not in leaf["extensions"].values()


def as_tile_leaf(real: dict[str, Any], index: int, issuers: dict[bytes, bytes]) -> bytes:
    """Pack an RFC 6962 entry as a TileLeaf, and put its chain among the issuers."""
    leaf = base64.b64decode(real["leaf_input"])
    extra = base64.b64decode(real["extra_data"])
    timestamped, extensions = leaf[2:-2], b"\0\x08" + b"\0\0\x05" + index.to_bytes(5)
    precert = b""
    if leaf[10:12] == b"\0\1":
        end = 3 + int.from_bytes(extra[:3])
        precert, extra = extra[:end], extra[end:]
    chain = rfc6962.chain_certificates(extra[3:])
    prints = [sha256(certificate).digest() for certificate in chain]
    issuers.update(zip(prints, chain, strict=True))
    return timestamped + extensions + precert + (32 * len(prints)).to_bytes(2) + b"".join(prints)


def test_the_same_certificates_in_a_data_tile_give_the_same(
    ct_entries: list[dict[str, Any]],
) -> None:
    issuers: dict[bytes, bytes] = {}
    first = 512
    tile = b"".join(
        as_tile_leaf(real, index, issuers) for index, real in enumerate(ct_entries, first)
    )
    writer = MessageWriter(
        Source("Static", "https://static.example/", "Example", "static-ct"),
        lambda index: f"https://static.example/{index}",
        lambda chain: [issuers[fingerprint] for fingerprint in static_ct.fingerprints(chain)],
    )
    entries = static_ct.decode_tile(tile, first)
    assert len(entries) == _COUNT
    for real, entry in zip(ct_entries, entries, strict=True):
        assert isinstance(entry, Entry)
        data = json.loads(writer.write(entry, sha256(entry.certificate).digest(), SEEN).full)[
            "data"
        ]
        expected = real["expected_full"]["data"]
        for field in ("update_type", "leaf_cert", "chain", "submission_timestamp"):
            assert_emitted(expected[field], data[field], field)
        assert data["cert_link"] == f"https://static.example/{entry.index}"
        assert data["source"]["type"] == "static-ct"
