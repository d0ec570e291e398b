"""The reference: what a message should state of a certificate, according to `cryptography`.

Written from the wire format alone, independently of the reader under test. `read` gives the
leaf_cert of a certificate that `cryptography` accepts in every part, and None for any other:
there, the reader is free to be as lenient as it likes.
"""

import re
import warnings
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

_FIELDS = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.COMMON_NAME: "CN",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.EMAIL_ADDRESS: "email_address",
}
_PURPOSES = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.3": "codeSigning",
    "1.3.6.1.5.5.7.3.4": "emailProtection",
    "1.3.6.1.5.5.7.3.8": "timeStamping",
    "1.3.6.1.5.5.7.3.9": "OCSPSigning",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}


_REFUSALS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    Warning,
    x509.InvalidVersion,
    x509.DuplicateExtension,
)


def read(der: bytes) -> dict[str, Any] | None:
    """Read a certificate strictly; None if any part of it is not as it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what cryptography only warns of, it does not accept,
        warnings.filterwarnings("ignore", message="Attribute's length")  # but for long countries
        try:
            return _leaf_cert(x509.load_der_x509_certificate(der))
        except _REFUSALS:
            return None


def _leaf_cert(certificate: x509.Certificate) -> dict[str, Any]:
    subject = name(certificate.subject)
    shown, dns_names = extensions(certificate.extensions)
    is_ca = shown.get("basicConstraints") == "CA:TRUE"
    domains = [subject["CN"]] if subject["CN"] and not is_ca else []
    domains = [cn for cn in domains if cn in dns_names or is_dns_name(cn)] + dns_names
    serial = f"{certificate.serial_number:X}"
    return {
        "subject": subject,
        "issuer": name(certificate.issuer),
        "serial_number": serial.zfill(len(serial) + len(serial) % 2),
        "not_before": int(certificate.not_valid_before_utc.timestamp()),
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
        "signature_algorithm": algorithm(certificate.signature_algorithm_oid),
        "is_ca": is_ca,
        "all_domains": [domain for domain in dict.fromkeys(domains) if domain],
        "extensions": shown,
    }


def name(given: x509.Name) -> dict[str, str | None]:
    fields: dict[str, str | None] = dict.fromkeys(_FIELDS.values())
    several: dict[str, list[str]] = {field: [] for field in _FIELDS.values()}
    for attribute in given:
        field = _FIELDS.get(attribute.oid)
        if field:
            assert isinstance(attribute.value, str)
            fields[field] = attribute.value
            several[field].append(attribute.value)
    fields["aggregated"] = aggregated(several)
    return fields


def aggregated(several: dict[str, list[str]]) -> str:
    return "".join(
        f"/{field}={value}"
        for field in sorted(set(several) - {"email_address"})
        for value in several[field]
    )


def is_dns_name(text: str) -> bool:
    labels = text.removeprefix("*.").removesuffix(".").split(".")
    return (
        len(text) <= 254
        and len(labels) > 1
        and all(0 < len(label) < 64 for label in labels)
        and all(c.isalnum() or c in "-_" for label in labels for c in label)
        and not re.fullmatch(r"\d+", labels[-1])
    )


def algorithm(oid: x509.ObjectIdentifier) -> str:
    known = oid._name
    if match := re.fullmatch(r"(md5|sha1|sha224|sha256|sha384|sha512)WithRSAEncryption", known):
        return f"{match[1]}, rsa"
    if match := re.fullmatch(r"ecdsa-with-SHA(1|224|256|384|512)", known):
        return f"ecdsa, sha{match[1]}"
    if match := re.fullmatch(r"dsa-with-(sha1|sha224|sha256)", known):
        return f"dsa, {match[1]}"
    return known if known in {"ed25519", "ed448"} else oid.dotted_string


def extensions(given: x509.Extensions) -> tuple[dict[str, Any], list[str]]:
    shown: dict[str, Any] = {}
    dns_names: list[str] = []
    for extension in given:
        value = extension.value
        match value:
            case x509.AuthorityInformationAccess():
                places = [description.access_location for description in value]
                uris = [
                    f"URI:{p.value}"
                    for p in places
                    if isinstance(p, x509.UniformResourceIdentifier)
                ]
                shown["authorityInfoAccess"] = ", ".join(uris) or None
            case x509.AuthorityKeyIdentifier():
                key_id = value.key_identifier
                shown["authorityKeyIdentifier"] = None if key_id is None else _keyid(key_id)
            case x509.SubjectKeyIdentifier():
                shown["subjectKeyIdentifier"] = _keyid(value.digest)
            case x509.BasicConstraints():
                shown["basicConstraints"] = "CA:TRUE" if value.ca else "CA:FALSE"
            case x509.CertificatePolicies():
                oids = [policy.policy_identifier.dotted_string for policy in value]
                shown["certificatePolicies"] = "".join(f"Policy: {oid}\n" for oid in oids) or None
            case x509.ExtendedKeyUsage():
                oids = [oid.dotted_string for oid in value]
                named = [text for oid, text in _PURPOSES.items() if oid in oids]
                others = [oid for oid in oids if oid not in _PURPOSES]
                shown["extendedKeyUsage"] = ", ".join(named + others)
            case x509.KeyUsage():
                shown["keyUsage"] = ", ".join(_key_usages(value))
            case x509.SubjectAlternativeName():
                shown["subjectAltName"] = ", ".join(map(general_name, value)) or None
                dns_names = value.get_values_for_type(x509.DNSName)
            case x509.PrecertPoison():
                shown["ctlPoisonByte"] = True
    return {key: text for key, text in shown.items() if text is not None}, dns_names


def _keyid(octets: bytes) -> str:
    return "keyid:" + ":".join(f"{octet:02x}" for octet in octets)


def _key_usages(usage: x509.KeyUsage) -> list[str]:
    usages = {
        "Digital Signature": usage.digital_signature,
        "Content Commitment": usage.content_commitment,
        "Key Encipherment": usage.key_encipherment,
        "Data Encipherment": usage.data_encipherment,
        "Key Agreement": usage.key_agreement,
        "Certificate Signing": usage.key_cert_sign,
        "CRL Signing": usage.crl_sign,
        "Encipher Only": usage._encipher_only,
        "Decipher Only": usage._decipher_only,
    }
    return [text for text, is_set in usages.items() if is_set]


def general_name(given: x509.GeneralName) -> str:
    match given:
        case x509.DNSName():
            return f"DNS:{given.value}"
        case x509.RFC822Name():
            return f"email:{given.value}"
        case x509.UniformResourceIdentifier():
            return f"URI:{given.value}"
        case x509.IPAddress():
            return f"IP Address:{given.value}"
        case x509.RegisteredID():
            return f"Registered ID:{given.value.dotted_string}"
        case x509.OtherName():
            return f"othername:{given.type_id.dotted_string}"
        case x509.DirectoryName():
            several: dict[str, list[str]] = {field: [] for field in _FIELDS.values()}
            for attribute in given.value:
                if field := _FIELDS.get(attribute.oid):
                    assert isinstance(attribute.value, str)
                    several[field].append(attribute.value)
            return f"DirName:{aggregated(several)}"
    raise ValueError(f"{given!r} has no text")
