"""The certificate authorities of a world: who issues, in which style, with which chain.

The styles are those of the authorities that issue most certificates today: which key and
signature, which subject, which extensions. Names, keys and extensions are real
ASN.1; the signatures on certificates are of the right shape only. No reader of a log verifies
them, and making certificates at thousands a second on one core depends on it.
"""

from collections.abc import Sequence
from hashlib import sha1, sha256

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    CertificatePoliciesOID,
    ExtendedKeyUsageOID,
    NameOID,
)

from simlog.pki import der_writer
from simlog.seeded import choose

SHA256_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
SHA384_RSA = bytes.fromhex("300d06092a864886f70d01010c0500")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")

DOMAIN_VALIDATED = x509.ObjectIdentifier("2.23.140.1.2.1")
ORGANIZATION_VALIDATED = x509.ObjectIdentifier("2.23.140.1.2.2")

DAY = 86_400


class Style(msgspec.Struct, frozen=True):
    """The style of one authority's certificates.

    Attributes:
        name, organization, country: the issuer's name; `root` is the common name of its root.
        algorithm: of the signatures it makes, which determines the kind of its key.
        root_algorithm: the same of its root.
        days: validity of what it issues.
        weight: how often it issues, against the others.
        subject: attributes in the subject of what it issues.
        ocsp, crl: whether certificates contain the address.
    """

    name: str
    root: str
    organization: str
    country: str
    algorithm: bytes
    root_algorithm: bytes
    days: int
    weight: int
    subject: str = "common name"
    ocsp: bool = False
    crl: bool = True


STYLES = (
    Style("SR12", "Simulated Root X1", "Simulated Encrypt", "US", SHA256_RSA, SHA256_RSA, 90, 5),
    Style("SE8", "Simulated Root X2", "Simulated Encrypt", "US", ECDSA_SHA384, SHA256_RSA, 90, 3),
    Style(
        "SIM ECC DV SSL CA 2",
        "Simulated Root E46",
        "SimSSL GmbH",
        "AT",
        ECDSA_SHA256,
        ECDSA_SHA384,
        90,
        2,
        subject="empty",
        ocsp=True,
        crl=False,
    ),
    Style(
        "SWR1",
        "STS Root R1",
        "Simulated Trust Services",
        "US",
        SHA256_RSA,
        SHA384_RSA,
        90,
        3,
        ocsp=True,
    ),
    Style(
        "SimCert TLS RSA SHA384 2026 CA1",
        "SimCert Global Root G2",
        "SimCert, Inc.",
        "DE",
        SHA384_RSA,
        SHA384_RSA,
        199,
        2,
        subject="organization",
        ocsp=True,
    ),
)


class Authority(msgspec.Struct, frozen=True):
    """One issuer, ready to issue.

    Attributes:
        style: that of its certificates.
        name: its Name in DER.
        key_hash: SHA-256 of its SubjectPublicKeyInfo, the issuer_key_hash of RFC 6962.
        chain: its own certificate and its root's, DER.
        extensions: those of every certificate it issues, before the ones that differ.
    """

    style: Style
    name: bytes
    key_hash: bytes
    chain: tuple[bytes, bytes]
    extensions: tuple[bytes, ...]


def create_authorities(
    seed: int, now: int, styles: Sequence[Style] = STYLES
) -> tuple[Authority, ...]:
    """Set up the authorities of a world whose time zero is `now`, in seconds since the epoch."""
    return tuple(_establish(seed, number, style, now) for number, style in enumerate(styles))


def _establish(seed: int, number: int, style: Style, now: int) -> Authority:
    root_name = _name(style.root, style)
    name = _name(style.name, style)
    root_key = public_key(style.root_algorithm, choose(seed, "root key", number, 256))
    key = public_key(style.algorithm, choose(seed, "issuer key", number, 256))
    path = style.name.split()[0].lower()
    from_root = _chain_links(root_key) + _information(f"root-{path}", crl=True, ocsp=False)
    root = _authority_certificate(
        choose(seed, "root certificate", number, 600),
        style.root_algorithm,
        issuer=root_name,
        subject=root_name,
        key=root_key,
        years=(now - 3650 * DAY, now + 5475 * DAY),
        extensions=(),
    )
    intermediate = _authority_certificate(
        choose(seed, "issuer certificate", number, 600),
        style.root_algorithm,
        issuer=root_name,
        subject=name,
        key=key,
        years=(now - 700 * DAY, now + 1100 * DAY),
        extensions=from_root,
    )
    organization = style.subject == "organization"
    policy = ORGANIZATION_VALIDATED if organization else DOMAIN_VALIDATED
    qualifiers = ["https://www.simcert.example/CPS"] if organization else None
    issued = (
        encode(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        encode(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        *_chain_links(key),
        *_information(path, crl=style.crl, ocsp=style.ocsp),
        encode(x509.CertificatePolicies([x509.PolicyInformation(policy, qualifiers)])),
    )
    return Authority(style, name, sha256(key).digest(), (intermediate, root), issued)


def encode(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    """One Extension in DER."""
    return der_writer.extension(encode_oid(value.oid), value.public_bytes(), critical=critical)


def encode_oid(oid: x509.ObjectIdentifier) -> bytes:
    """An OBJECT IDENTIFIER in DER."""
    first, second, *rest = (int(arc) for arc in oid.dotted_string.split("."))
    contents = bytearray()
    for arc in (40 * first + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        contents += bytes(reversed(septets))
    return der_writer.tlv(0x06, bytes(contents))


def public_key(algorithm: bytes, chance: bytes) -> bytes:
    """A SubjectPublicKeyInfo for a key that makes signatures of that algorithm.

    For RSA the modulus is any odd number of 2048 bits: there is no private key.
    """
    if algorithm in (SHA256_RSA, SHA384_RSA):
        return rsa_key(chance[:256])
    curve = ec.SECP256R1() if algorithm == ECDSA_SHA256 else ec.SECP384R1()
    key = ec.derive_private_key(int.from_bytes(chance[:31]), curve).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_key(chance: bytes) -> bytes:
    """A SubjectPublicKeyInfo for RSA of 2048 bits from 256 bytes of chance."""
    modulus = bytes((chance[0] | 0x80,)) + chance[1:255] + bytes((chance[255] | 1,))
    return _RSA_BEFORE + modulus + _RSA_AFTER


def signature(algorithm: bytes, chance: bytes) -> bytes:
    """Random bytes in the shape of a signature of that algorithm, from at least 256 bytes."""
    if algorithm == ECDSA_SHA256:
        return der_writer.ecdsa_signature(chance[:64])
    if algorithm == ECDSA_SHA384:
        return der_writer.ecdsa_signature(chance[:96])
    return b"\x7f" + chance[1:256]


def _name(common_name: str, style: Style) -> bytes:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, style.country),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, style.organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    ).public_bytes()


def _chain_links(issuer_key: bytes) -> tuple[bytes, ...]:
    """What ties a certificate to the key that issued it."""
    identifier = sha1(issuer_key, usedforsecurity=False).digest()
    return (encode(x509.AuthorityKeyIdentifier(identifier, None, None)),)


def _information(path: str, *, crl: bool, ocsp: bool) -> tuple[bytes, ...]:
    """The addresses of the issuer, the status and the revocation list, as extensions."""
    methods = [(AuthorityInformationAccessOID.OCSP, f"http://o.{path}.example")] if ocsp else []
    methods.append((AuthorityInformationAccessOID.CA_ISSUERS, f"http://i.{path}.example/ca.crt"))
    access = x509.AuthorityInformationAccess(
        [x509.AccessDescription(method, _uri(location)) for method, location in methods]
    )
    if not crl:
        return (encode(access),)
    point = x509.DistributionPoint([_uri(f"http://c.{path}.example/104.crl")], None, None, None)
    return encode(access), encode(x509.CRLDistributionPoints([point]))


def _uri(location: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(location)


def _authority_certificate(
    chance: bytes,
    algorithm: bytes,
    *,
    issuer: bytes,
    subject: bytes,
    key: bytes,
    years: tuple[int, int],
    extensions: Sequence[bytes],
) -> bytes:
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    any_policy = x509.PolicyInformation(CertificatePoliciesOID.ANY_POLICY, None)
    identifier = sha1(key, usedforsecurity=False).digest()
    tbs = der_writer.to_be_signed(
        chance[:16],
        algorithm,
        issuer,
        der_writer.validity(*years),
        subject,
        key,
        encode(key_usage(signs_certificates=True), critical=True),
        *([encode(x509.ExtendedKeyUsage(usages))] if extensions else []),
        encode(x509.BasicConstraints(ca=True, path_length=None), critical=True),
        encode(x509.SubjectKeyIdentifier(identifier)),
        *extensions,
        *([encode(x509.CertificatePolicies([any_policy]))] if extensions else []),
    )
    return der_writer.certificate(tbs, algorithm, signature(algorithm, chance[16:]))


def key_usage(*, signs_certificates: bool = False, enciphers_keys: bool = False) -> x509.KeyUsage:
    """Key usage of an authority, or of a server with an RSA key, or with an ECDSA key."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=enciphers_keys,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _around_rsa_modulus() -> tuple[bytes, bytes]:
    """The bytes before and after the modulus in the SubjectPublicKeyInfo of a 2048-bit key."""
    modulus = b"\xff" * 256
    key = rsa.RSAPublicNumbers(65537, int.from_bytes(modulus)).public_key()
    before, after = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).split(modulus)
    return before, after


_RSA_BEFORE, _RSA_AFTER = _around_rsa_modulus()
