"""X.509 extensions -> the text certstream shows for them (RFC 5280 section 4.2).

`EXTENSIONS` is the whole catalogue: by OID, the name an extension has in a message, the function
that reads its value, and whether the same bytes come again in other certificates. Those that do
(everything a CA writes into each certificate it issues) are worth remembering by their bytes; those
that do not (the key id) would only fill a cache.

Each reader takes the extension's value, DER as the OCTET STRING holds it, and gives the text: ""
where there is a value with nothing in it, None where certstream shows nothing. It raises
`der.DerError` when the value cannot be read. The texts' small print (a newline after each policy,
"Content Commitment", dotted OIDs only for what has no name) is the seed's, which clients parse.
"""

from collections.abc import Callable

import msgspec

from ctparse import der, names
from ctparse.bounded import add

_KEY_USAGES = (
    "Digital Signature",
    "Content Commitment",
    "Key Encipherment",
    "Data Encipherment",
    "Key Agreement",
    "Certificate Signing",
    "CRL Signing",
    "Encipher Only",
    "Decipher Only",
)

# In the order of a message, which is not that of the certificate.
_EXTENDED_KEY_USAGES = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.5.5.7.3.8": "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}


def authority_info_access(value: bytes) -> str | None:
    """Spell the URIs: "URI:http://ocsp.example, URI:http://ca.example/ca.crt"."""
    uris = []
    for _, start, stop in der.sequence(value, "AuthorityInfoAccessSyntax"):
        _, _, method_stop = der.header(value, start, stop)
        tag, name, name_stop = der.header(value, method_stop, stop)
        if tag == names.URI:
            uris.append(names.general_name(value, tag, name, name_stop))
    return ", ".join(uris) or None


def authority_key_identifier(value: bytes) -> str | None:
    """Spell the key id: "keyid:00:b5:…"; None when the issuer is named in another way."""
    for tag, start, stop in der.sequence(value, "AuthorityKeyIdentifier"):
        if tag == 0x80:
            return f"keyid:{value[start:stop].hex(':')}"
    return None


def subject_key_identifier(value: bytes) -> str:
    """Spell the key id: "keyid:51:b7:…"."""
    start, stop = der.only(value, der.OCTET_STRING, "SubjectKeyIdentifier")
    return f"keyid:{value[start:stop].hex(':')}"


def basic_constraints(value: bytes) -> str:
    """Spell whether the subject is a CA: "CA:TRUE" or "CA:FALSE"."""
    for tag, start, stop in der.sequence(value, "BasicConstraints"):
        if tag == der.BOOLEAN and any(value[start:stop]):
            return "CA:TRUE"
    return "CA:FALSE"


def certificate_policies(value: bytes) -> str | None:
    """Spell the policies, a line each: "Policy: 2.23.140.1.2.1" and a newline."""
    lines = []
    for _, start, stop in der.sequence(value, "CertificatePolicies"):
        oid, oid_stop = der.expect(value, start, stop, der.OBJECT_IDENTIFIER, "policyIdentifier")
        lines.append(f"Policy: {der.dotted(value[oid:oid_stop])}\n")
    return "".join(lines) or None


def extended_key_usage(value: bytes) -> str:
    """Spell the purposes, those without a name as their OID, last: "serverAuth, 1.3.6.1.4.1.5"."""
    oids = [
        der.dotted(value[start:stop]) for _, start, stop in der.sequence(value, "ExtKeyUsageSyntax")
    ]
    named = [name for oid, name in _EXTENDED_KEY_USAGES.items() if oid in oids]
    return ", ".join(named + [oid for oid in oids if oid not in _EXTENDED_KEY_USAGES])


def key_usage(value: bytes) -> str:
    """Spell the bits that are set: "Digital Signature, Key Encipherment"."""
    start, stop = der.only(value, der.BIT_STRING, "KeyUsage")
    unused = value[start] if start < stop else 8
    size = 8 * (stop - start - 1) - unused
    if unused > 7 or size < 0:
        raise der.DerError(f"KeyUsage: {stop - start} octets with {unused} unused bits")
    bits = value[start + 1 : stop]
    return ", ".join(
        usage
        for bit, usage in enumerate(_KEY_USAGES)
        if bit < size and bits[bit // 8] & 0x80 >> bit % 8
    )


def subject_alt_name(value: bytes, problems: list[str]) -> tuple[list[str], str | None]:
    """Read the names: the DNS names as a list, and the text for all: "DNS:a.example, email:x@y".

    A name that cannot be read is left out and named in `problems`.
    """
    start, stop = der.only(value, der.SEQUENCE, "SubjectAltName")
    if dns_names := _plain_dns_names(value, start, stop):
        return dns_names, "DNS:" + ", DNS:".join(dns_names)
    found, at = der.children(value, start, stop)
    if at != stop:
        add(problems, f"subjectAltName: no value at byte {at}")
    texts = []
    for tag, start, stop in found:
        try:
            texts.append(names.general_name(value, tag, start, stop))
        except der.DerError as error:
            add(problems, f"subjectAltName: {error}")
        if tag == names.DNS_NAME:
            dns_names.append(der.ascii_text(value[start:stop]))
    return dns_names, ", ".join(texts) or None


def _plain_dns_names(value: bytes, at: int, end: int) -> list[str]:
    """Read what nearly all certificates have: DNS names only, short and ASCII. Else nothing."""
    dns_names = []
    text = value.decode("latin-1")  # a character for each byte
    try:
        while at < end:
            length = value[at + 1]
            stop = at + 2 + length
            if value[at] != names.DNS_NAME or length > 0x7F or stop > end:
                return []
            dns_names.append(text[at + 2 : stop])
            at = stop
    except IndexError:
        return []
    return dns_names if "".join(dns_names).isascii() else []


def ct_poison(_value: bytes) -> bool:
    """Return True: the extension marks a precertificate (RFC 6962 section 3.1)."""
    return True


class Extension(msgspec.Struct, frozen=True):
    """How one kind of extension is read.

    Attributes:
        name: its key in a message.
        read: returns its value for a message; None: certstream has none.
        repeats: whether the same bytes come in many certificates.
    """

    name: str
    read: Callable[[bytes], str | bool | None]
    repeats: bool = True


# A caller needs its DNS names too, so it calls `subject_alt_name` directly.
SUBJECT_ALT_NAME = Extension(
    "subjectAltName", lambda value: subject_alt_name(value, [])[1], repeats=False
)

# By OID, as encoded in a certificate, with its header.
EXTENSIONS = {
    bytes.fromhex("0603551d0e"): Extension(
        "subjectKeyIdentifier", subject_key_identifier, repeats=False
    ),
    bytes.fromhex("0603551d0f"): Extension("keyUsage", key_usage),
    bytes.fromhex("0603551d11"): SUBJECT_ALT_NAME,
    bytes.fromhex("0603551d13"): Extension("basicConstraints", basic_constraints),
    bytes.fromhex("0603551d20"): Extension("certificatePolicies", certificate_policies),
    bytes.fromhex("0603551d23"): Extension("authorityKeyIdentifier", authority_key_identifier),
    bytes.fromhex("0603551d25"): Extension("extendedKeyUsage", extended_key_usage),
    bytes.fromhex("06082b06010505070101"): Extension("authorityInfoAccess", authority_info_access),
    bytes.fromhex("060a2b06010401d679020403"): Extension("ctlPoisonByte", ct_poison),
}
