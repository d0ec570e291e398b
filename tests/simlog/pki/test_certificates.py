"""Certificates are what a strict parser accepts, and all alike only in style."""

from collections import Counter
from hashlib import sha1, sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from simlog.pki.certificates import Certificate, Certificates
from tests.simlog.worlds import START, small

LOG_IDS = (b"a" * 32, b"b" * 32, b"c" * 32)
CERTIFICATES = Certificates(small(), LOG_IDS)
SAMPLE = [CERTIFICATES.make(number) for number in range(1200)]


def parse(certificate: Certificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate.der)


def test_names_are_the_common_name_and_then_the_alternative_names() -> None:
    for certificate in SAMPLE:
        parsed = parse(certificate)
        san = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = san.get_values_for_type(x509.DNSName)
        common = [str(a.value) for a in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        assert list(certificate.names) == list(dict.fromkeys(common + names))


def test_key_identifiers_and_keys_are_real() -> None:
    for certificate in SAMPLE:
        parsed = parse(certificate)
        assert isinstance(parsed.public_key(), rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
        key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ski = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert ski.digest == sha1(key, usedforsecurity=False).digest()


def test_certificates_name_their_issuer_and_the_chain_leads_to_a_root() -> None:
    for certificate in SAMPLE[:100]:
        parsed = parse(certificate)
        issuer, root = map(x509.load_der_x509_certificate, certificate.issuer.chain)
        assert (parsed.issuer, issuer.issuer, root.issuer) == (
            issuer.subject,
            root.subject,
            root.subject,
        )
        aki = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        ski = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert aki.key_identifier == ski.digest
        key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert certificate.issuer.key_hash == sha256(key).digest()


def test_a_precertificate_is_poisoned_and_its_tbs_is_that_of_the_final_one_without_scts() -> None:
    for precert, final in zip(SAMPLE[::2], SAMPLE[1::2], strict=True):
        assert (precert.is_precert, final.is_precert) == (True, False)
        poison = parse(precert).extensions.get_extension_for_class(x509.PrecertPoison)
        assert poison.critical
        parsed = parse(final)
        scts = parsed.extensions.get_extension_for_class(
            x509.PrecertificateSignedCertificateTimestamps
        )
        assert len({sct.log_id for sct in scts.value} & set(LOG_IDS)) == 2
        assert parsed.tbs_precertificate_bytes == precert.tbs
        assert final.tbs == b""


def test_they_are_distinct_and_of_the_size_and_variety_of_real_ones() -> None:
    assert len({certificate.sha256 for certificate in SAMPLE}) == len(SAMPLE)
    assert len({certificate.names for certificate in SAMPLE}) == len(SAMPLE) / 2
    assert 1000 < sum(len(certificate.der) for certificate in SAMPLE) / len(SAMPLE) < 1600
    algorithms = Counter(parse(each).signature_algorithm_oid for each in SAMPLE)
    assert len(algorithms) == 4
    sizes = Counter(len(certificate.names) for certificate in SAMPLE)
    assert {1, 2, 3, 4, 5} <= sizes.keys()
    assert sizes[100] > 0


@pytest.mark.parametrize("number", [0, 1, 77, 1199])
def test_the_number_decides_every_byte(number: int) -> None:
    again = Certificates(small(), LOG_IDS)
    assert again.make(number).der == SAMPLE[number].der
    other = Certificates(small(seed=8), LOG_IDS)
    assert other.make(number).der != SAMPLE[number].der


def test_certificates_are_valid_when_they_are_issued() -> None:
    for certificate in SAMPLE[:50]:
        parsed = parse(certificate)
        assert (
            parsed.not_valid_before_utc.timestamp() < START < parsed.not_valid_after_utc.timestamp()
        )
