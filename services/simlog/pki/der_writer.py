"""The little DER that making certificates by the thousand needs (X.690, RFC 5280 section 4.1).

`cryptography` encodes what repeats (names, extensions, keys); these functions join such pieces
with what is new in each certificate, a few microseconds each, which a real builder and a real
signature would not allow.
"""

from functools import lru_cache
from time import gmtime, strftime

SEQUENCE = 0x30
SET = 0x31
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
OCTET_STRING = 0x04
BOOLEAN_TRUE = bytes.fromhex("0101ff")


def tlv(tag: int, *parts: bytes) -> bytes:
    """Encode one element: tag, definite length, contents."""
    contents = b"".join(parts)
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + contents


def integer(magnitude: bytes) -> bytes:
    """Encode a non-negative INTEGER from its big-endian bytes."""
    digits = magnitude.lstrip(b"\0") or b"\0"
    return tlv(0x02, b"\0" if digits[0] & 0x80 else b"", digits)


def bit_string(contents: bytes) -> bytes:
    """Encode a BIT STRING of whole bytes."""
    return tlv(0x03, b"\0", contents)


def ecdsa_signature(chance: bytes) -> bytes:
    """The shape of an ECDSA signature (RFC 3279 section 2.2.3) from the bytes of r and s."""
    half = len(chance) // 2
    return tlv(SEQUENCE, integer(chance[:half]), integer(chance[half:]))


def attribute(oid: bytes, value: str, string: int = UTF8_STRING) -> bytes:
    """One RelativeDistinguishedName of one attribute."""
    return tlv(SET, tlv(SEQUENCE, oid, tlv(string, value.encode())))


def extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """One Extension around its DER value."""
    return tlv(SEQUENCE, oid, BOOLEAN_TRUE if critical else b"", tlv(OCTET_STRING, value))


@lru_cache(maxsize=4096)
def validity(not_before: int, not_after: int) -> bytes:
    """Validity from two times in seconds since the epoch."""
    return tlv(SEQUENCE, _time(not_before), _time(not_after))


def _time(seconds: int) -> bytes:
    """UTCTime until 2049, GeneralizedTime from 2050 on (RFC 5280 section 4.1.2.5)."""
    moment = gmtime(seconds)
    if moment.tm_year < 2050:
        return tlv(0x17, strftime("%y%m%d%H%M%SZ", moment).encode())
    return tlv(0x18, strftime("%Y%m%d%H%M%SZ", moment).encode())


def to_be_signed(
    serial: bytes,
    algorithm: bytes,
    issuer: bytes,
    period: bytes,
    subject: bytes,
    key: bytes,
    *extensions: bytes,
) -> bytes:
    """A version 3 TBSCertificate from its encoded fields; `serial` is the bare number."""
    version = bytes.fromhex("a003020102")
    return tlv(
        SEQUENCE,
        version,
        integer(serial),
        algorithm,
        issuer,
        period,
        subject,
        key,
        tlv(0xA3, tlv(SEQUENCE, *extensions)),
    )


def certificate(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """A Certificate from its encoded parts and the bare signature."""
    return tlv(SEQUENCE, tbs, algorithm, bit_string(signature))
