"""Precertificates against the leaves that commit to them: real ones, and what is made of them."""

import gzip
import itertools
import json

import msgspec
import pytest

from ctparse.entry import Entry
from ctparse.precert import is_committed
from ctparse.rfc6962 import chain_certificates, decode_entries
from ctparse.static_ct import decode_tile
from tests.paths import FIXTURES


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
def test_bytes_that_are_no_certificate_are_not_committed_to(certificate: bytes) -> None:
    forged = msgspec.structs.replace(PRECERTS[0], certificate=certificate)
    assert not is_committed(forged, chain_certificates)


def test_a_precertificate_signing_certificate_is_not_checked() -> None:
    signer = bytes.fromhex("300c060a2b06010401d679020404")
    forged = msgspec.structs.replace(PRECERTS[0], certificate=PRECERTS[1].certificate)
    assert is_committed(forged, lambda _: [signer])


def reencoded(entry: Entry, old: str, new: str) -> Entry:
    """The entry, its precertificate with other bytes somewhere and lengths to match."""
    certificate, old_bytes, new_bytes = entry.certificate, bytes.fromhex(old), bytes.fromhex(new)
    assert certificate.count(old_bytes) == 1
    at = certificate.index(old_bytes)
    changed = certificate.replace(old_bytes, new_bytes)
    more = len(new_bytes) - len(old_bytes)
    # Every definite length around the place, in the two-byte form that certificates have there.
    for start in range(at):
        if changed[start + 1 : start + 2] != b"\x82":
            continue
        length = int.from_bytes(changed[start + 2 : start + 4])
        if start + 4 <= at < start + 4 + length <= len(certificate):
            grown = (length + more).to_bytes(2)
            changed = changed[: start + 2] + grown + changed[start + 4 :]
    return msgspec.structs.replace(entry, certificate=changed)


def test_other_encodings_forbidden_by_der_are_the_same_precertificate() -> None:
    # subjectKeyIdentifier, with the octets of its value's header after it: without critical, and
    # with an explicit FALSE.
    identifier, criticality = "0603551d0e0416", "0603551d0e0101000416"
    entry = next(each for each in PRECERTS if bytes.fromhex(identifier) in each.certificate)
    at = entry.certificate.index(bytes.fromhex(identifier))
    length = entry.certificate[at - 1]
    odd = reencoded(entry, f"30{length:02x}{identifier}", f"30{length + 3:02x}{criticality}")
    assert odd.certificate != entry.certificate
    assert is_committed(odd, chain_certificates)
    # An explicit TRUE has another meaning.
    true = reencoded(
        entry,
        f"30{length:02x}{identifier}",
        f"30{length + 3:02x}{criticality.replace('010100', '0101ff')}",
    )
    assert not is_committed(true, chain_certificates)


ODD = (FIXTURES / "precert_utctime_without_seconds.json").read_bytes()


def odd_precert(old: bytes = b"", new: bytes = b"") -> Entry:
    """A precertificate whose notBefore has no seconds; `old` in it replaced by `new`."""
    (entry,) = decode_entries(ODD, 0)
    assert isinstance(entry, Entry)
    assert old in entry.certificate
    return msgspec.structs.replace(entry, certificate=entry.certificate.replace(old, new, 1))


def test_a_log_may_add_the_seconds_of_a_utctime() -> None:
    assert is_committed(odd_precert(), chain_certificates)
    for other in (b"2401010001Z", b"2401010000+", b"240101000Z0", b"24010100 0Z"):
        forged = odd_precert(b"\x17\x0b2401010000Z", b"\x17\x0b" + other)
        assert not is_committed(forged, chain_certificates), other


def test_a_log_may_leave_out_an_explicit_version_1() -> None:
    entry = odd_precert()
    submitted, leaf = entry.certificate, entry.leaf
    version_3 = bytes.fromhex("a003020102")
    version_1 = bytes.fromhex("a003020100")
    tbs = bytes.fromhex("3081e0")  # of the leaf: its header, then version and the rest
    assert tbs + version_3 in leaf
    without = leaf.replace(tbs + version_3, bytes.fromhex("3081db"))
    at = without.index(bytes.fromhex("3081db"))
    without = without[: at - 1] + bytes((without[at - 1] - 5,)) + without[at:]
    explicit = msgspec.structs.replace(
        entry, certificate=submitted.replace(version_3, version_1, 1), leaf=without
    )
    assert is_committed(explicit, chain_certificates)
    # Version 3, or the same bytes at another place, are another certificate.
    assert not is_committed(
        msgspec.structs.replace(explicit, certificate=submitted), chain_certificates
    )
