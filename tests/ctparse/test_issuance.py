"""The issuance of real, simulated and unusual entries."""

import base64
import json
from collections import defaultdict
from hashlib import sha256

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ctparse import der
from ctparse.entry import Entry, Unreadable
from ctparse.precert import is_committed, pubkey_sha256, tbs_sha256, tbs_without_scts
from ctparse.rfc6962 import chain_certificates, decode_entries
from tests.ctparse.derbuild import certificate, common_name, dns, extension, subject_alt_name
from tests.ctparse.reading import entry_of, new_writer, write
from tests.paths import FIXTURES
from tests.simlog.worlds import grown, small

SCTS = extension("1.3.6.1.4.1.11129.2.4.2", b"\x04\x02\x00\x00")
POISON = extension("1.3.6.1.4.1.11129.2.4.3", b"\x05\x00", critical=True)
SAN = subject_alt_name(dns("a.example"))
USAGE = extension("2.5.29.15", bytes.fromhex("03020780"), critical=True)


def names(count: int) -> bytes:
    return subject_alt_name(*[dns("a.example")] * count)


def real_entries() -> list[Entry]:
    entries = json.loads((FIXTURES / "ct_entries.json").read_bytes())
    body = {"entries": [{name: e[name] for name in ("leaf_input", "extra_data")} for e in entries]}
    decoded = decode_entries(json.dumps(body).encode(), 0)
    return [entry for entry in decoded if isinstance(entry, Entry)]


REAL = real_entries()


def tbs_of(certificate: bytes) -> bytes:
    start, _ = der.expect(certificate, 0, len(certificate), der.SEQUENCE, "Certificate")
    return certificate[start : der.header(certificate, start, len(certificate))[2]]


def precert_entry(submitted: bytes, logged_tbs: bytes) -> Entry:
    """An entry as a log decodes it: `logged_tbs` is in the leaf."""
    head = b"\0\0" + bytes(8) + b"\0\1" + bytes(32)
    leaf = head + len(logged_tbs).to_bytes(3) + logged_tbs + b"\0\0"
    return msgspec.structs.replace(entry_of(submitted, is_precert=True), leaf=leaf)


def test_logs_have_signed_the_issuance_of_real_certificates() -> None:
    """Each SCT in a certificate has a log's signature over the precertificate's TBSCertificate."""
    log_list = json.loads((FIXTURES / "log_list.json").read_bytes())
    listed = [each for operator in log_list["operators"] for each in operator["logs"]]
    listed += [each for operator in log_list["operators"] for each in operator["tiled_logs"]]
    keys = {base64.b64decode(log["log_id"]): base64.b64decode(log["key"]) for log in listed}
    verified = 0
    for entry in REAL:
        if entry.is_precert:
            continue
        issuer = x509.load_der_x509_certificate(chain_certificates(entry.chain)[0])
        issuer_key = issuer.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        tbs = tbs_without_scts(entry.certificate)
        found = x509.load_der_x509_certificate(entry.certificate).extensions
        scts = found.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
        for sct in scts:
            if sct.log_id not in keys:
                continue
            timestamp = int.from_bytes(sct_timestamp(entry.certificate, sct.log_id))
            header = b"\0\0" + timestamp.to_bytes(8) + b"\0\1" + sha256(issuer_key).digest()
            extensions = len(sct.extension_bytes).to_bytes(2) + sct.extension_bytes
            signed = header + len(tbs).to_bytes(3) + tbs + extensions
            key = load_der_public_key(keys[sct.log_id])
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(sct.signature, signed, ec.ECDSA(SHA256()))
            verified += 1
        assert tbs == x509.load_der_x509_certificate(entry.certificate).tbs_precertificate_bytes
        assert tbs_sha256(entry) == sha256(tbs).digest()
    assert verified >= 10


def sct_timestamp(certificate: bytes, log_id: bytes) -> bytes:
    """The eight bytes after the log's id; `cryptography` has them only as a naive datetime."""
    at = certificate.index(b"\0" + log_id) + 33
    return certificate[at : at + 8]


def test_the_issuance_of_a_real_precertificate_is_in_its_leaf() -> None:
    for entry in REAL:
        if entry.is_precert:
            assert entry.leaf[-2:] == b"\0\0"  # no extensions
            assert tbs_sha256(entry) == sha256(tbs_of_leaf(entry)).digest()


def real_pair() -> tuple[Entry, Entry]:
    """A precertificate of Let's Encrypt and the certificate issued for it, of June 2023.

    The two are public; the leaf is made here, and the precertificate commits to it.
    """
    blocks = (FIXTURES / "issuance_pair.pem").read_bytes().split(b"-----END CERTIFICATE-----\n")
    submitted, final = (
        base64.b64decode(b"".join(block.splitlines()[1:])) for block in blocks if block
    )
    logged = x509.load_der_x509_certificate(final).tbs_precertificate_bytes
    return precert_entry(submitted, logged), entry_of(final)


def test_a_real_pair_has_one_issuance() -> None:
    precert, final = real_pair()
    assert is_committed(precert, lambda _: ())
    assert tbs_sha256(precert) == tbs_sha256(final) == sha256(tbs_of_leaf(precert)).digest()
    assert pubkey_sha256(precert.certificate) == pubkey_sha256(final.certificate)
    assert precert.certificate != final.certificate


def tbs_of_leaf(entry: Entry) -> bytes:
    return entry.leaf[47:-2]


def test_simulated_pairs_have_one_issuance() -> None:
    kinds: defaultdict[bytes, set[bool]] = defaultdict(set)
    numbers: defaultdict[bytes, set[int]] = defaultdict(set)
    world = grown(small(preload=200))
    for number in range(200):
        made = world.certificates.make(number)
        entry = precert_entry(made.der, made.tbs) if made.is_precert else entry_of(made.der)
        issuance = tbs_sha256(entry)
        kinds[issuance].add(made.is_precert)
        numbers[issuance].add(number // 2)
    assert len(kinds) == 100
    assert all(found == {True, False} for found in kinds.values())
    assert all(len(found) == 1 for found in numbers.values())


def test_a_precertificate_signing_certificate_needs_no_surgery() -> None:
    """It signs under its own name and key id; the leaf has those of the CA (RFC 6962, 3.2)."""
    key_id = [extension("2.5.29.35", bytes.fromhex("30048002") + name) for name in (b"PS", b"CA")]
    signer, issuer = common_name("Precertificate Signing 1"), common_name("Example CA")
    submitted = certificate(SAN, key_id[0], POISON, issuer=signer)
    logged = tbs_of(certificate(SAN, key_id[1], issuer=issuer))
    final = certificate(SAN, key_id[1], SCTS, issuer=issuer)
    assert tbs_sha256(precert_entry(submitted, logged)) == tbs_sha256(entry_of(final))
    assert tbs_sha256(entry_of(final)) != sha256(tbs_of(submitted)).digest()


@pytest.mark.parametrize(
    ("with_list", "without"),
    [
        ([SCTS, SAN], [SAN]),
        ([SAN, SCTS, USAGE], [SAN, USAGE]),
        ([SAN, USAGE, SCTS], [SAN, USAGE]),
        ([SCTS, SAN, SCTS], [SAN]),
        ([SCTS], []),  # the extensions field becomes empty: left out
        ([names(12), SCTS], [names(12)]),
        ([names(6000), SCTS], [names(6000)]),
    ],
    ids=["first", "middle", "last", "twice", "alone", "two-byte lengths", "three-byte lengths"],
)
def test_the_list_is_left_out_wherever_it_is(with_list: list[bytes], without: list[bytes]) -> None:
    assert tbs_without_scts(certificate(*with_list)) == tbs_of(certificate(*without))


def test_the_list_counts_only_as_an_extension() -> None:
    inside = extension("1.2.3", SCTS)
    given = certificate(SAN, inside, subject=common_name(SCTS[2:14].decode("latin-1")))
    assert tbs_without_scts(given) == tbs_of(given)


@pytest.mark.parametrize("cut", [1, 3, len(SCTS)])
def test_extensions_that_cannot_be_read_stay(cut: int) -> None:
    whole = certificate(SAN, SCTS)
    at = whole.index(SCTS)
    odd = whole[:at] + b"\xff" * cut + whole[at + cut :]
    assert tbs_without_scts(odd) == tbs_of(odd)


def test_the_key_is_that_of_the_certificate() -> None:
    for entry in REAL:
        key = x509.load_der_x509_certificate(entry.certificate).public_key()
        expected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert pubkey_sha256(entry.certificate) == sha256(expected).digest()
    version_1 = certificate(version=b"")
    assert pubkey_sha256(version_1) == pubkey_sha256(certificate())


@pytest.mark.parametrize("given", [b"", b"\x30\x01", b"not a certificate", b"\x30\x02\x30\x00"])
def test_bytes_without_a_tbs(given: bytes) -> None:
    with pytest.raises(Unreadable):
        pubkey_sha256(given)
    if given != b"\x30\x02\x30\x00":  # an empty one is a TBSCertificate
        with pytest.raises(Unreadable):
            tbs_without_scts(given)


@pytest.mark.parametrize(
    "given",
    [
        certificate(SAN, USAGE),
        certificate(SCTS, SAN),
        certificate(SAN, SCTS, USAGE),
        certificate(SCTS, SAN, SCTS),
        certificate(SCTS),
        certificate(names(12), SCTS),
        certificate(names(6000), SCTS),
        certificate(SAN, extension("1.2.3", SCTS), SCTS),
        certificate(SAN, SCTS).replace(SCTS, b"\x31" + SCTS[1:]),
        certificate(SAN, SCTS).replace(SCTS, SCTS[:1] + b"\xff" + SCTS[2:]),
        certificate(SAN, SCTS).replace(SCTS, SCTS[:-1] + b"\x09"),
    ],
)
def test_a_message_has_the_hash_of_the_certificate_without_the_list(given: bytes) -> None:
    """`CertificateReader` finds the list as `tbs_without_scts` does, also when it has seen it."""
    writer = new_writer()
    for _ in range(2):
        assert write(given, writer).tbs_sha256 == sha256(tbs_without_scts(given)).digest()


@pytest.mark.parametrize("count", [1, 12, 13, 14, 40, 6000])
def test_the_leaf_commits_to_lengths_of_any_form(count: int) -> None:
    """Around the poison, lengths have one to three bytes, and may lose one with it."""
    submitted = certificate(names(count), POISON)
    logged = tbs_of(certificate(names(count)))
    assert is_committed(precert_entry(submitted, logged), lambda _: ())
    for at in (4, len(logged) - 1):
        other = logged[:at] + bytes([logged[at] ^ 1]) + logged[at + 1 :]
        assert not is_committed(precert_entry(submitted, other), lambda _: ())
