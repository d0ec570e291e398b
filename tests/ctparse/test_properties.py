"""The reader against the reference, on certificates made up and on real ones spoiled.

Two promises. Whatever `cryptography` accepts in every part, our reader reads to the same fields and
finds no problem in. Whatever bytes come, nothing but `Unreadable` and `Malformed` comes out.
"""

import base64
import contextlib
import datetime as dt
import gzip
import json
import warnings
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctparse.entry import Entry, Malformed, Rejected, Unreadable
from ctparse.rfc6962 import decode_entries, decode_sth
from ctparse.static_ct import decode_tile, parse_checkpoint, tree_head
from tests.ctparse import reference
from tests.ctparse.reading import leaf_cert, new_writer, write
from tests.paths import FIXTURES

KEY = ec.derive_private_key(2026, ec.SECP256R1())
REAL: list[dict[str, Any]] = json.loads((FIXTURES / "ct_entries.json").read_bytes())
REAL_DER = [base64.b64decode(real["expected_full"]["data"]["leaf_cert"]["as_der"]) for real in REAL]

# A shared writer, so that what one example leaves in the caches meets the next.
WRITER = new_writer()

prompt = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
ascii_texts = st.text(st.characters(max_codepoint=0x7F), min_size=1, max_size=20)
labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_*", min_size=1, max_size=12)
dns_names = st.lists(labels, min_size=1, max_size=4).map(".".join) | ascii_texts
oids = st.lists(st.integers(0, 2**40), max_size=4).map(
    lambda rest: x509.ObjectIdentifier(".".join(map(str, [1, 3, 6, 1, *rest])))
)

SHOWN = [
    NameOID.COMMON_NAME,
    NameOID.COUNTRY_NAME,
    NameOID.LOCALITY_NAME,
    NameOID.STATE_OR_PROVINCE_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.EMAIL_ADDRESS,
]
NOT_SHOWN = [NameOID.SERIAL_NUMBER, NameOID.STREET_ADDRESS, NameOID.DOMAIN_COMPONENT]
plain_texts = st.text("ABCxyz 019'()+,-./:=?", min_size=1, max_size=20)
strings = st.one_of(
    st.tuples(
        texts | dns_names,
        st.sampled_from(
            [
                _ASN1Type.UTF8String,
                _ASN1Type.T61String,
                _ASN1Type.BMPString,
                _ASN1Type.UniversalString,
            ]
        ),
    ),
    st.tuples(
        plain_texts | st.lists(labels, max_size=3).map(lambda some: ".".join(["a", *some])),
        st.sampled_from([_ASN1Type.IA5String, _ASN1Type.VisibleString]),
    ),
    st.tuples(plain_texts, st.just(_ASN1Type.PrintableString)),
)


def _attribute(
    oid: x509.ObjectIdentifier, string: tuple[str, _ASN1Type]
) -> x509.NameAttribute[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a country whose name is longer than two letters
        return x509.NameAttribute(oid, *string, _validate=False)


attributes = st.builds(_attribute, st.sampled_from(SHOWN + NOT_SHOWN), strings)
x509_names = st.lists(
    st.lists(attributes, min_size=1, max_size=2, unique_by=lambda a: a.oid), max_size=5
).map(lambda rdns: x509.Name([x509.RelativeDistinguishedName(rdn) for rdn in rdns]))

general_names = st.one_of(
    dns_names.map(x509.DNSName),
    ascii_texts.map(x509.RFC822Name._init_without_validation),
    ascii_texts.map(x509.UniformResourceIdentifier._init_without_validation),
    st.ip_addresses().map(x509.IPAddress),
    oids.map(x509.RegisteredID),
    x509_names.map(x509.DirectoryName),
    st.builds(x509.OtherName, oids, st.just(b"\x0c\x01x")),
)


def _key_usage(bits: list[bool]) -> x509.KeyUsage:
    usages = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    names = [*usages.split(), "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    bits[7:] = [bit and bits[4] for bit in bits[7:]]  # these two need key_agreement
    return x509.KeyUsage(**dict(zip(names, bits, strict=True)))


key_usages = st.lists(st.booleans(), min_size=9, max_size=9).map(_key_usage)
access_descriptions = st.builds(
    x509.AccessDescription,
    st.sampled_from([AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS]),
    general_names,
)
purposes = oids | st.sampled_from(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)
extension_values: st.SearchStrategy[x509.ExtensionType] = st.one_of(
    st.lists(general_names, min_size=1, max_size=8).map(x509.SubjectAlternativeName),
    key_usages,
    st.builds(lambda ca: x509.BasicConstraints(ca, 3 if ca else None), st.booleans()),
    st.lists(purposes, min_size=1, max_size=4).map(x509.ExtendedKeyUsage),
    st.lists(
        oids.map(lambda oid: x509.PolicyInformation(oid, ["https://cps.example"])),
        min_size=1,
        max_size=3,
    ).map(x509.CertificatePolicies),
    st.binary(min_size=1, max_size=140).map(x509.SubjectKeyIdentifier),
    st.none().map(lambda _: x509.AuthorityKeyIdentifier(None, [x509.DNSName("x")], 1))
    | st.binary(min_size=1, max_size=30).map(
        lambda key_id: x509.AuthorityKeyIdentifier(key_id, None, None)
    ),
    st.lists(access_descriptions, min_size=1, max_size=3).map(x509.AuthorityInformationAccess),
    st.just(x509.PrecertPoison()),
    st.builds(x509.UnrecognizedExtension, oids, st.binary(max_size=300)),
)
moments = st.integers(-631152000, 253402300799).map(  # 1950 to 9999
    lambda seconds: dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
)


@st.composite
def certificates(draw: st.DrawFn) -> bytes:
    """A certificate as `cryptography` builds it: unusual in its values, not in its encoding."""
    not_before, not_after = sorted([draw(moments), draw(moments)])
    builder = x509.CertificateBuilder(
        issuer_name=draw(x509_names),
        subject_name=draw(x509_names),
        public_key=KEY.public_key(),
        serial_number=draw(st.integers(1, 2**159 - 1)),
        not_valid_before=not_before,
        not_valid_after=not_after,
    )
    values = st.lists(extension_values, max_size=6, unique_by=lambda value: value.oid)
    for value in draw(values):
        builder = builder.add_extension(value, critical=draw(st.booleans()))
    algorithm = hashes.SHA384() if draw(st.booleans()) else hashes.SHA256()
    return builder.sign(KEY, algorithm, ecdsa_deterministic=True).public_bytes(Encoding.DER)


@st.composite
def spoiled(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of something, a few of them changed, cut out, doubled or put elsewhere."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        end = min(at + draw(st.integers(1, 40)), len(data))
        match draw(st.sampled_from(["flip", "set", "cut", "double", "insert", "end"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFF]))
            case "cut":
                del data[at:end]
            case "double":
                data[at:at] = data[at:end]
            case "insert":
                data[at:at] = draw(st.binary(max_size=10))
            case "end":
                del data[at:]
    return bytes(data)


def assert_reads_like_the_reference(der: bytes) -> bool:
    """Returns whether the reference accepts the certificate, so whether there was a judgement."""
    expected = reference.read(der)
    try:
        message = write(der, WRITER)
    except Unreadable:
        assert expected is None
        return False
    for text in (message.full, message.lite, message.domains):
        assert b"\n" not in text
        json.loads(text)
    if expected is None:
        return False
    found = leaf_cert(message)
    for hashed in ("fingerprint", "sha1", "sha256"):
        del found[hashed]
    assert found == expected
    assert json.loads(message.domains)["data"] == expected["all_domains"]
    assert message.problems == ()
    return True


@given(certificates())
@prompt
def test_well_formed_certificates_are_read_like_the_reference(der: bytes) -> None:
    assert assert_reads_like_the_reference(der)


def test_real_certificates_are_read_like_the_reference() -> None:
    assert all(assert_reads_like_the_reference(der) for der in REAL_DER)


@given(st.sampled_from(REAL_DER).flatmap(spoiled))
@settings(prompt, max_examples=600)
def test_real_certificates_spoiled(der: bytes) -> None:
    assert_reads_like_the_reference(der)


@given(certificates().flatmap(spoiled))
@prompt
def test_built_certificates_spoiled(der: bytes) -> None:
    assert_reads_like_the_reference(der)


@given(st.binary(max_size=200))
@prompt
def test_any_bytes_as_certificate(der: bytes) -> None:
    assert_reads_like_the_reference(der)


def assert_entries(decoded: list[Entry | Rejected], first: int) -> None:
    """Decoded entries are consecutive, and each can be written or is unreadable."""
    assert [entry.index for entry in decoded] == list(range(first, first + len(decoded)))
    for entry in decoded:
        if isinstance(entry, Rejected):
            assert entry.reason
            assert "\n" not in entry.reason
            continue
        with contextlib.suppress(Unreadable):
            json.loads(WRITER.write(entry, bytes(32), 0.0).full)


@given(st.data())
@settings(prompt, max_examples=150)
def test_get_entries_spoiled_below_base64(data: st.DataObject) -> None:
    real = data.draw(st.sampled_from(REAL))
    parts = {
        field: base64.b64encode(data.draw(spoiled(base64.b64decode(real[field])))).decode()
        for field in ("leaf_input", "extra_data")
    }
    decoded = decode_entries(json.dumps({"entries": [parts]}).encode(), 9)
    assert len(decoded) == 1
    assert_entries(decoded, 9)


@given(st.data())
@settings(prompt, max_examples=300)
def test_get_entries_spoiled_as_text(data: st.DataObject) -> None:
    fields = ("leaf_input", "extra_data")
    body = json.dumps({"entries": [{field: real[field] for field in fields} for real in REAL[:3]]})
    try:
        decoded = decode_entries(data.draw(spoiled(body.encode())), 9)
    except Malformed:
        return
    assert_entries(decoded, 9)


json_values = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.just("entries") | st.text(), inner),
)
SUNLIGHT = FIXTURES / "sunlight"
TILE = gzip.decompress((SUNLIGHT / "tile/data/002.p/188").read_bytes())[:20_000]


@given(spoiled(TILE))
@settings(prompt, max_examples=300)
def test_tiles_spoiled(tile: bytes) -> None:
    try:
        decoded = decode_tile(tile, 512)
    except Malformed:
        return
    assert [entry.index for entry in decoded] == list(range(512, 512 + len(decoded)))


@given(spoiled((SUNLIGHT / "checkpoint").read_bytes()))
@prompt
def test_checkpoints_spoiled(body: bytes) -> None:
    with contextlib.suppress(Malformed):
        tree_head(parse_checkpoint(body))


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
@prompt
def test_any_bytes_as_answers(body: bytes) -> None:
    for decode in (decode_sth, parse_checkpoint):
        with contextlib.suppress(Malformed):
            decode(body)
    with contextlib.suppress(Malformed):
        decode_entries(body, 0)
