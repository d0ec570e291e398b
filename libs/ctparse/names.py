"""Names: the distinguished names of subject and issuer, and the general names of extensions.

A distinguished name becomes the JSON object certstream shows: one field for each of seven
attributes (null when absent; of several values the last), and `aggregated`, which strings the
values of the six classical ones together, ordered by attribute: "/C=US/CN=a.example/O=Example".
Attributes beyond these are left out, as every certstream server leaves them out.

A general name becomes the text certstream shows: "DNS:a.example", "IP Address:192.0.2.1", ...
"""

import ipaddress
import re

import msgspec

from ctparse import der
from ctparse.bounded import add

# Attribute type (contents of its OID) -> field.
_ATTRIBUTES = {
    b"\x55\x04\x03": "CN",
    b"\x55\x04\x06": "C",
    b"\x55\x04\x07": "L",
    b"\x55\x04\x08": "ST",
    b"\x55\x04\x0a": "O",
    b"\x55\x04\x0b": "OU",
    b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01": "email_address",
}
# The type of a CN as encoded in a certificate, and the string types that can only mean ASCII.
_COMMON_NAME = b"\x06\x03\x55\x04\x03"
_ASCII_STRINGS = frozenset({0x0C, 0x13, 0x16})
_AGGREGATED = ("C", "CN", "L", "O", "OU", "ST")

# Tags of the general names that other modules read.
DNS_NAME = 0x82
URI = 0x86

_TEXT_NAMES = {0x81: "email:", DNS_NAME: "DNS:", URI: "URI:"}

_DNS_NAME = re.compile(r"(?:\*\.)?(?:[\w-]{1,63}\.)+(?!\d+\.?$)[\w-]{1,63}\.?")
_MAX_DNS_NAME = 254


class Name(msgspec.Struct, frozen=True, gc=False):
    """A distinguished name, read.

    Attributes:
        json: the JSON object of a message for it.
        common_name: the last CN, if there is one.
        problems: what was left out, and why.
    """

    json: str
    common_name: str | None
    problems: tuple[str, ...] = ()


class _Fields(msgspec.Struct, gc=False):
    """The JSON object of a name; absent attributes are null."""

    C: str | None = None
    CN: str | None = None
    L: str | None = None
    O: str | None = None  # noqa: E741  (the attribute's name)
    OU: str | None = None
    ST: str | None = None
    aggregated: str = ""
    email_address: str | None = None


def read_name(data: bytes, start: int, stop: int) -> Name:
    """Read the contents of a Name (RFC 5280 section 4.1.2.4): a sequence of RDNs.

    Several attributes in one RDN count like one attribute in each of several RDNs. What cannot
    be read is left out.
    """
    if common_name := _only_common_name(data, start, stop):
        text = msgspec.json.encode(common_name).decode()
        return Name(
            f'{{"C":null,"CN":{text},"L":null,"O":null,"OU":null,"ST":null,'
            f'"aggregated":"/CN={text[1:]},"email_address":null}}',
            common_name,
        )
    problems: list[str] = []
    values = _attributes(data, start, stop, problems)
    fields = _Fields(aggregated=_aggregated(values))
    for field, several in values.items():
        setattr(fields, field, several[-1])
    return Name(msgspec.json.encode(fields).decode(), fields.CN, tuple(problems))


def _only_common_name(data: bytes, start: int, stop: int) -> str | None:
    """Read the commonest subject in one go: a single RDN, with nothing but a CN of plain ASCII."""
    size = stop - start
    if (
        11 < size < 0x80
        and data[start + 4 : start + 9] == _COMMON_NAME
        and data[start + 1] == size - 2
        and data[start + 3] == size - 4
        and data[start + 10] == size - 11
        and data[start + 9] in _ASCII_STRINGS
    ):
        value = data[start + 11 : stop]
        if value.isascii():
            return value.decode()
    return None


def _attributes(data: bytes, start: int, stop: int, problems: list[str]) -> dict[str, list[str]]:
    """Collect the values of the attributes of a message, in their order in the certificate."""
    values: dict[str, list[str]] = {}
    rdns, at = der.children(data, start, stop)
    if at != stop:
        add(problems, f"no value at byte {at}")
    for _, rdn, rdn_stop in rdns:
        for _, attribute, attribute_stop in der.children(data, rdn, rdn_stop)[0]:
            try:
                _, oid, value = der.header(data, attribute, attribute_stop)
                if field := _ATTRIBUTES.get(data[oid:value]):
                    tag, value, value_stop = der.header(data, value, attribute_stop)
                    text = der.text(tag, data[value:value_stop])
                    values.setdefault(field, []).append(text)
            except der.DerError as error:
                add(problems, str(error))
    return values


def _aggregated(values: dict[str, list[str]]) -> str:
    return "".join(
        [f"/{field}={value}" for field in _AGGREGATED for value in values.get(field, ())]
    )


def is_dns_name(text: str) -> bool:
    """Return whether a CN is meant as a DNS name: two labels at least, a wildcard, no address."""
    return len(text) <= _MAX_DNS_NAME and _DNS_NAME.fullmatch(text) is not None


def general_name(data: bytes, tag: int, start: int, stop: int) -> str:
    """Spell a GeneralName (RFC 5280 section 4.2.1.6) the way certstream does.

    Args:
        data: what contains it.
        tag: its tag, which is the kind of name.
        start: where its contents begin in `data`.
        stop: where they end.

    Raises:
        der.DerError: it cannot be read, or is of a kind that certificates do not use
            (x400Address, ediPartyName).
    """
    if prefix := _TEXT_NAMES.get(tag):
        return prefix + der.ascii_text(data[start:stop])
    match tag:
        case 0x87:
            return "IP Address:" + _address(data[start:stop])
        case 0x88:
            return "Registered ID:" + der.dotted(data[start:stop])
        case 0xA0:
            oid, oid_stop = der.expect(data, start, stop, der.OBJECT_IDENTIFIER, "otherName")
            return "othername:" + der.dotted(data[oid:oid_stop])
        case 0xA4:
            name, name_stop = der.expect(data, start, stop, der.SEQUENCE, "directoryName")
            return "DirName:" + _aggregated(_attributes(data, name, name_stop, []))
    raise der.DerError(f"general name with tag {tag:#04x}")


def _address(octets: bytes) -> str:
    if len(octets) not in {4, 16}:
        raise der.DerError(f"IP address of {len(octets)} octets")
    return str(ipaddress.ip_address(octets))
