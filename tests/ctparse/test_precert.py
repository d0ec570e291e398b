"""Precertificates against the leaves that commit to them: real ones, and what is made of them."""

import gzip
import itertools
import json
from pathlib import Path

import msgspec
import pytest

from ctparse.entry import Entry
from ctparse.precert import is_committed
from ctparse.rfc6962 import chain_certificates, decode_entries
from ctparse.static_ct import decode_tile

FIXTURES = Path(__file__).parents[1] / "fixtures"


def real_precerts() -> list[Entry]:
    entries = json.loads((FIXTURES / "ct_entries.json").read_bytes())
    body = {"entries": [{name: e[name] for name in ("leaf_input", "extra_data")} for e in entries]}
    decoded = decode_entries(json.dumps(body).encode(), 0)
    return [entry for entry in decoded if isinstance(entry, Entry) and entry.is_precert]


PRECERTS = real_precerts()


def test_real_ones_are_committed_to() -> None:
    assert len(PRECERTS) > 5
    assert all(is_committed(entry, chain_certificates) for entry in PRECERTS)


def test_those_of_a_static_ct_log_are_committed_to() -> None:
    files = sorted((FIXTURES / "sunlight/tile/data").rglob("*"))
    found = []
    for number, file in enumerate(path for path in files if path.is_file()):
        found += read_tile(file.read_bytes(), number)
    assert all(is_committed(entry, lambda _: []) for entry in found)


def read_tile(data: bytes, number: int) -> list[Entry]:
    tile = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    entries = decode_tile(tile, number * 256)
    return [entry for entry in entries if isinstance(entry, Entry) and entry.is_precert]


@pytest.mark.parametrize("entry", PRECERTS)
def test_every_byte_of_the_tbs_counts(entry: Entry) -> None:
    certificate = entry.certificate
    tbs_end = 8 + int.from_bytes(certificate[6:8])
    for at in [4, *range(8, tbs_end)]:
        changed = certificate[:at] + bytes([certificate[at] ^ 1]) + certificate[at + 1 :]
        forged = msgspec.structs.replace(entry, certificate=changed)
        assert not is_committed(forged, chain_certificates), f"byte {at}"


def test_another_precertificate_is_not_committed_to() -> None:
    for entry, other in itertools.pairwise(PRECERTS):
        forged = msgspec.structs.replace(entry, certificate=other.certificate)
        if entry.certificate != other.certificate:
            assert not is_committed(forged, chain_certificates)


@pytest.mark.parametrize("certificate", [b"", b"\x30", b"\x30\x82\xff\xff\x30", bytes(300)])
def test_what_is_no_certificate_is_not_committed_to(certificate: bytes) -> None:
    forged = msgspec.structs.replace(PRECERTS[0], certificate=certificate)
    assert not is_committed(forged, chain_certificates)


def test_of_a_precertificate_signing_certificate_nothing_is_said() -> None:
    signer = bytes.fromhex("300c060a2b06010401d679020404")
    forged = msgspec.structs.replace(PRECERTS[0], certificate=PRECERTS[1].certificate)
    assert is_committed(forged, lambda _: [signer])
