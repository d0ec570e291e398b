"""DER written by hand, for certificates that no library would make."""

from ctparse import der

NULL = b"\x05\x00"


def tlv(tag: int, *contents: bytes) -> bytes:
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + body


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    contents = b""
    for number in (first * 40 + second, *rest):
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.insert(0, 0x80 | number & 0x7F)
        contents += bytes(septets)
    return tlv(der.OBJECT_IDENTIFIER, contents)


def attribute(dotted: str, value: bytes, tag: int = 0x0C) -> bytes:
    return tlv(der.SEQUENCE, oid(dotted), tlv(tag, value))


def name(*attributes: bytes) -> bytes:
    """A Name with one attribute in each RDN."""
    return tlv(der.SEQUENCE, *(tlv(der.SET, attribute) for attribute in attributes))


def common_name(text: str) -> bytes:
    return name(attribute("2.5.4.3", text.encode()))


def extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    flag = b"\x01\x01\xff" if critical else b""
    return tlv(der.SEQUENCE, oid(dotted), flag, tlv(der.OCTET_STRING, value))


def subject_alt_name(*names: bytes) -> bytes:
    return extension("2.5.29.17", tlv(der.SEQUENCE, *names))


def dns(text: str) -> bytes:
    return tlv(0x82, text.encode())


def time(text: str, tag: int = der.UTC_TIME) -> bytes:
    return tlv(tag, text.encode())


def algorithm(dotted: str, parameters: bytes = NULL) -> bytes:
    return tlv(der.SEQUENCE, oid(dotted), parameters)


SHA256_RSA = algorithm("1.2.840.113549.1.1.11")
VALIDITY = tlv(der.SEQUENCE, time("260520174812Z"), time("260818184800Z"))
KEY = tlv(der.SEQUENCE, algorithm("1.2.840.113549.1.1.1"), tlv(der.BIT_STRING, bytes(65)))


def certificate(
    *extensions: bytes,
    version: bytes = b"\xa0\x03\x02\x01\x02",
    serial: bytes = b"\x01",
    issuer: bytes = common_name("Example CA"),
    validity: bytes = VALIDITY,
    subject: bytes = common_name("a.example"),
    signature: bytes = SHA256_RSA,
    unique_ids: bytes = b"",
) -> bytes:
    fields = [
        version,
        tlv(der.INTEGER, serial),
        signature,
        issuer,
        validity,
        subject,
        KEY,
        unique_ids,
        tlv(0xA3, tlv(der.SEQUENCE, *extensions)) if extensions else b"",
    ]
    return tlv(der.SEQUENCE, tlv(der.SEQUENCE, *fields), signature, tlv(der.BIT_STRING, bytes(257)))
