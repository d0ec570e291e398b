"""Certificate number n of a world: precertificates and certificates as the real logs hold them.

Even numbers are precertificates; the odd number after each is the certificate that was issued
for it: same serial, names and key, with the SCT list where the poison was (RFC 6962 section 3.1).
The number decides every byte, so a certificate that was dropped can be made again.
"""

from functools import lru_cache
from hashlib import sha1, sha256
from io import BytesIO

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from simlog.pki import authorities, der_writer
from simlog.pki.authorities import DAY, Authority
from simlog.schedule import issued_at
from simlog.seeded import choose, generator
from simlog.spec import Spec

WORDS = (
    "account", "acme", "api", "atlas", "bank", "beacon", "blue", "cedar", "cloud", "coral",
    "delta", "dev", "ember", "falcon", "garden", "harbor", "house", "iris", "juniper", "kettle",
    "lab", "lantern", "login", "lotus", "mail", "maple", "market", "mirror", "north", "oak",
    "online", "orbit", "paper", "pay", "pine", "portal", "quartz", "river", "secure", "shop",
    "silver", "sky", "stone", "store", "studio", "summit", "support", "tiger", "travel", "update",
    "valley", "violet", "vpn", "water", "web", "willow", "wind", "xn--bcher-kva", "zen", "zephyr",
)  # fmt: skip
SUFFIXES = ("example", "test", "shop.example", "co.test", "cloud.example", "sites.test")

MAX_CACHED_CERTIFICATES = 32768
"""About 5 KB each. To make one again takes longer than all else of an entry in an answer."""

KEYS = 64

CN = authorities.encode_oid(NameOID.COMMON_NAME)
COUNTRY = authorities.encode_oid(NameOID.COUNTRY_NAME)
SAN = authorities.encode_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
SKI = authorities.encode_oid(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
SCTS = authorities.encode_oid(ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS)
POISON = authorities.encode(x509.PrecertPoison(), critical=True)
EMPTY_NAME = der_writer.tlv(der_writer.SEQUENCE)
RSA_USAGE = authorities.encode(authorities.key_usage(enciphers_keys=True), critical=True)
ECDSA_USAGE = authorities.encode(authorities.key_usage(), critical=True)


class Certificate(msgspec.Struct, frozen=True, gc=False):
    """One certificate or precertificate.

    Attributes:
        number: its number in the world.
        is_precert: whether it is a precertificate.
        der: its bytes, as they were submitted.
        tbs: of a precertificate, the TBSCertificate without the poison; else empty.
        issuer: who issued it.
        names: its DNS names, the common name first if it has one, without repeats.
        sha256: of `der`.
    """

    number: int
    is_precert: bool
    der: bytes
    tbs: bytes
    issuer: Authority
    names: tuple[str, ...]
    sha256: bytes


class Certificates:
    """All certificates of one world.

    `make(number)` keeps the newest `MAX_CACHED_CERTIFICATES` and makes any other one again, in
    about 30 µs.
    """

    def __init__(self, spec: Spec, log_ids: tuple[bytes, ...]) -> None:
        self.authorities = authorities.create_authorities(spec.seed, int(spec.start) // DAY * DAY)
        self.make = lru_cache(maxsize=MAX_CACHED_CERTIFICATES)(self._make)
        self._spec = spec
        self._log_ids = log_ids
        self._ecdsa_keys = [_ecdsa_key(spec.seed, number) for number in range(KEYS)]
        self._by_weight = [a for a in self.authorities for _ in range(a.style.weight)]

    def _make(self, number: int) -> Certificate:
        pair, is_final = divmod(number, 2)
        chance = generator(self._spec.seed, "certificate", pair, 1024)
        issued = issued_at(self._spec, 2 * pair)
        issuer = self._by_weight[chance.read(1)[0] % len(self._by_weight)]
        domain, *others = self._names(chance, pair)
        alternative_names = sorted([domain, *others])
        has_subject = issuer.style.subject != "empty"
        usage, key = self._key(issuer, chance)
        serial = bytes((chance.read(1)[0] & 0x7F | 0x40,)) + chance.read(15)
        not_before = issued // 3_600_000 * 3600 - 3600
        fields = (
            serial,
            issuer.style.algorithm,
            issuer.name,
            der_writer.validity(not_before, not_before + issuer.style.days * DAY - 1),
            _subject(issuer, domain, chance),
            key,
            usage,
            *issuer.extensions,
            der_writer.extension(
                SKI, der_writer.tlv(der_writer.OCTET_STRING, _key_identifier(key))
            ),
            _san(alternative_names, critical=not has_subject),
        )
        own = self._scts(chance, issued) if is_final else POISON
        algorithm = issuer.style.algorithm
        signature = authorities.signature(
            algorithm, choose(self._spec.seed, "signature", number, 256)
        )
        der = der_writer.certificate(der_writer.to_be_signed(*fields, own), algorithm, signature)
        return Certificate(
            number=number,
            is_precert=not is_final,
            der=der,
            tbs=b"" if is_final else der_writer.to_be_signed(*fields),
            issuer=issuer,
            names=tuple(dict.fromkeys([domain] * has_subject + alternative_names)),
            sha256=sha256(der).digest(),
        )

    def _names(self, chance: BytesIO, pair: int) -> tuple[str, ...]:
        """1 to 5 names mostly, 100 at times, first the domain that no other pair has."""
        first, second, suffix, kind, more = chance.read(5)
        domain = (
            f"{WORDS[first % len(WORDS)]}-{WORDS[second % len(WORDS)]}-{pair:x}"
            f".{SUFFIXES[suffix % len(SUFFIXES)]}"
        )
        if kind < 90:
            return (domain,)
        if kind < 150:
            return (domain, f"www.{domain}")
        if kind < 200:
            return (domain, f"*.{domain}")
        count = 100 if kind == 255 else 2 + more % 4
        labels = chance.read(count - 1)
        subdomains = (f"{WORDS[at % len(WORDS)]}{n}.{domain}" for n, at in enumerate(labels))
        return (domain, *subdomains)

    def _key(self, issuer: Authority, chance: BytesIO) -> tuple[bytes, bytes]:
        """Key usage and SubjectPublicKeyInfo: what the issuer has itself, mostly."""
        pick = chance.read(1)[0]
        issuer_has_rsa = issuer.style.algorithm in (authorities.SHA256_RSA, authorities.SHA384_RSA)
        if issuer_has_rsa == (pick > 20):
            return RSA_USAGE, authorities.rsa_key(chance.read(256))
        return ECDSA_USAGE, self._ecdsa_keys[pick % KEYS]

    def _scts(self, chance: BytesIO, issued: int) -> bytes:
        """The SignedCertificateTimestampList of two logs of the world (RFC 6962 section 3.3)."""
        first = chance.read(1)[0]
        scts = b""
        for offset in range(2):
            log_id = self._log_ids[(first + offset) % len(self._log_ids)]
            signature = der_writer.ecdsa_signature(chance.read(64))
            sct = b"".join((b"\0", log_id, issued.to_bytes(8), b"\0\0\4\3", _opaque16(signature)))
            scts += _opaque16(sct)
        return der_writer.extension(SCTS, der_writer.tlv(der_writer.OCTET_STRING, _opaque16(scts)))


def malformed_certificate(certificate: Certificate, label: str) -> Certificate:
    """Make an unparsable certificate: cut short, with noise at the end.

    Args:
        certificate: to be damaged.
        label: other labels give other bytes.
    """
    noise = choose(certificate.number, f"damage {label}", 0, 16)
    der = certificate.der[: 8 + noise[0]] + noise
    return msgspec.structs.replace(certificate, der=der, names=(), sha256=sha256(der).digest())


def _subject(issuer: Authority, name: str, chance: BytesIO) -> bytes:
    if issuer.style.subject == "empty":
        return EMPTY_NAME
    if issuer.style.subject == "organization":
        return der_writer.tlv(
            der_writer.SEQUENCE,
            *_organization(chance.read(1)[0] % 16),
            der_writer.attribute(CN, name),
        )
    return der_writer.tlv(der_writer.SEQUENCE, der_writer.attribute(CN, name))


@lru_cache(maxsize=16)
def _organization(number: int) -> tuple[bytes, ...]:
    """Country, state, locality and organization of one of a few subscribers."""
    where = number % 4
    country = ("AT", "DE", "FR", "JP")[where]
    fields = (
        (NameOID.STATE_OR_PROVINCE_NAME, ("Wien", "Bayern", "Île-de-France", "東京都")[where]),
        (NameOID.LOCALITY_NAME, ("Wien", "München", "Paris", "千代田区")[where]),
        (NameOID.ORGANIZATION_NAME, f"{WORDS[number * 3].title()} Simulated GmbH & Co. {number}"),
    )
    return (
        der_writer.attribute(COUNTRY, country, der_writer.PRINTABLE_STRING),
        *(der_writer.attribute(authorities.encode_oid(oid), value) for oid, value in fields),
    )


def _san(names: list[str], *, critical: bool) -> bytes:
    """The subjectAltName extension."""
    encoded = (der_writer.tlv(0x82, name.encode()) for name in names)
    return der_writer.extension(
        SAN, der_writer.tlv(der_writer.SEQUENCE, *encoded), critical=critical
    )


def _key_identifier(key: bytes) -> bytes:
    return sha1(key, usedforsecurity=False).digest()


def _ecdsa_key(seed: int, number: int) -> bytes:
    secret = int.from_bytes(choose(seed, "certificate key", number, 31))
    public = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _opaque16(contents: bytes) -> bytes:
    return len(contents).to_bytes(2) + contents
