"""A certificate's DER -> what certstream shows of it, in one tolerant walk.

There is one reader, and it is lenient field by field. Of the outline, the fields that every
certificate has up to its public key, it needs the framing; without that, the certificate is
`Unreadable`. Everything else that cannot be read (an extension, a name's attribute, a date) is left
out or null, and told in `Certificate.problems`: one odd field does not lose a certificate.

It is fast because CAs repeat themselves. Names, algorithms and most extensions are looked up by
their bytes, and only what was not seen before is taken apart; what a certificate has for itself
(serial number, dates, subject, DNS names, key id) is read in place. The caches belong to the
reader, are bounded, and start over when they are full. A reader may serve many logs.
"""

from typing import TypeVar

import msgspec

from ctparse import der
from ctparse.algorithms import signature_algorithm
from ctparse.entry import Unreadable
from ctparse.extensions import EXTENSIONS, SUBJECT_ALT_NAME, subject_alt_name
from ctparse.names import Name, is_dns_name, read_name
from ctparse.times import read_time

_T = TypeVar("_T")

_CACHE_ENTRIES = 8192
_MAX_CACHED_BYTES = 512

_VERSION = 0xA0
_EXTENSIONS = 0xA3
_IS_CA = '"basicConstraints":"CA:TRUE"'
_SECONDS = {b"%02dZ" % second: second for second in range(60)}


class Certificate(msgspec.Struct, frozen=True, gc=False):
    """What a message says of a certificate, except for its bytes and their hashes.

    Attributes:
        subject: the subject, as the JSON object of a message.
        issuer: the issuer, likewise.
        serial_number: its octets in hex, without leading zero octets. A negative one appears as
            the two's complement it is written in.
        not_before: start of validity in Unix seconds, None when it cannot be read.
        not_after: end of validity, likewise.
        signature_algorithm: like "sha256, rsa"; the OID when it has no name here, None when there
            is not even that.
        is_ca: whether basicConstraints says so.
        domains: the CN first if it is a DNS name and not a CA's, then the DNS names of
            subjectAltName; no repeats.
        extensions: name in a message -> member of a JSON object, key and value.
        problems: what could not be read, a line each.
    """

    subject: str
    issuer: str
    serial_number: str
    not_before: int | None
    not_after: int | None
    signature_algorithm: str | None
    is_ca: bool
    domains: list[str]
    extensions: dict[str, str]
    problems: list[str]


class CertificateReader:
    """Reads certificates and remembers the parts that repeat."""

    def __init__(self) -> None:
        self._names: dict[bytes, Name] = {}
        self._algorithms: dict[bytes, str] = {}
        self._members: dict[bytes, str] = {}
        self._minutes: dict[bytes, int] = {}
        self._encode = msgspec.json.Encoder().encode

    def read(self, data: bytes) -> Certificate:
        """Read a certificate or precertificate.

        Raises:
            Unreadable: its outline cannot be read.
        """
        try:
            return self._outline(data)
        except der.DerError as error:
            raise Unreadable(str(error)) from error

    def _outline(self, data: bytes) -> Certificate:
        """Walk Certificate and TBSCertificate (RFC 5280 section 4.1)."""
        problems: list[str] = []
        size = len(data)
        at, end = der.expect(data, 0, size, der.SEQUENCE, "certificate")
        if end < size:
            problems.append(f"certificate: {size - end} bytes follow it")
        at, tbs_end = der.expect(data, at, end, der.SEQUENCE, "tbsCertificate")
        tag, serial, at = der.header(data, at, tbs_end)
        if tag == _VERSION:  # version 1 has none
            tag, serial, at = der.header(data, at, tbs_end)
        if tag != der.INTEGER:
            raise der.DerError(f"serialNumber has tag {tag:#04x}")
        serial_number = data[serial:at].lstrip(b"\0").hex().upper() or "00"
        _, issuer_at = der.expect(data, at, tbs_end, der.SEQUENCE, "signature")
        issuer_start, at = der.expect(data, issuer_at, tbs_end, der.SEQUENCE, "issuer")
        issuer = self._issuer(data, issuer_at, issuer_start, at, problems)
        validity, at = der.expect(data, at, tbs_end, der.SEQUENCE, "validity")
        not_before, validity = self._time(data, validity, at, problems)
        not_after, _ = self._time(data, validity, at, problems)
        start, at = der.expect(data, at, tbs_end, der.SEQUENCE, "subject")
        subject = read_name(data, start, at)
        if subject.problems:
            problems += [f"subject: {problem}" for problem in subject.problems]
        _, at = der.expect(data, at, tbs_end, der.SEQUENCE, "subjectPublicKeyInfo")
        # From here on nothing is needed.
        members: dict[str, str] = {}
        dns_names: list[str] = []
        try:
            while at < tbs_end:
                tag, start, at = der.header(data, at, tbs_end)
                if tag == _EXTENSIONS:
                    start, stop = der.expect(data, start, at, der.SEQUENCE, "extensions")
                    dns_names = self._extensions(data, start, stop, members, problems)
        except (der.DerError, IndexError) as error:
            problems.append(f"extensions: {error}")
        is_ca = members.get("basicConstraints") == _IS_CA
        return Certificate(
            subject.json,
            issuer.json,
            serial_number,
            not_before,
            not_after,
            self._algorithm(data, tbs_end, end, problems),
            is_ca,
            _domains(subject.common_name, dns_names, is_ca=is_ca),
            members,
            problems,
        )

    def _issuer(self, data: bytes, at: int, start: int, stop: int, problems: list[str]) -> Name:
        raw = data[at:stop]
        name = self._names.get(raw)
        if name is None:
            name = read_name(data, start, stop)
            _remember(self._names, raw, name)
        if name.problems:
            problems += [f"issuer: {problem}" for problem in name.problems]
        return name

    def _algorithm(self, data: bytes, at: int, end: int, problems: list[str]) -> str | None:
        try:
            start, stop = der.expect(data, at, end, der.SEQUENCE, "AlgorithmIdentifier")
            raw = data[start:stop]
            name = self._algorithms.get(raw)
            if name is None:
                name = signature_algorithm(data, start, stop)
                _remember(self._algorithms, raw, name)
        except der.DerError as error:
            problems.append(f"signatureAlgorithm: {error}")
            return None
        return name

    def _time(self, data: bytes, at: int, end: int, problems: list[str]) -> tuple[int | None, int]:
        """Read a Time and say where it stops. A minute seen before saves parsing its date."""
        tag, start, stop = der.header(data, at, end)
        contents = data[start:stop]
        minute = self._minutes.get(contents[:10])
        second = _SECONDS.get(contents[10:])
        if minute is not None and second is not None and tag == der.UTC_TIME:
            return minute + second, stop
        try:
            moment = read_time(tag, contents)
        except der.DerError as error:
            problems.append(f"validity: {error}")
            return None, stop
        if tag == der.UTC_TIME and second is not None:
            _remember(self._minutes, contents[:10], moment - second)
        return moment, stop

    def _extensions(
        self, data: bytes, at: int, end: int, members: dict[str, str], problems: list[str]
    ) -> list[str]:
        """Read a SEQUENCE OF Extension into `members`; returns the DNS names of subjectAltName."""
        dns_names: list[str] = []
        while at < end:
            first = at
            _, oid, at = der.header(data, at, end)
            critical = oid + 2 + data[oid + 1]
            kind = data[oid:critical]
            try:
                if kind == SUBJECT_ALT_NAME:
                    name = "subjectAltName"
                    names, text = subject_alt_name(_value(data, critical, at), problems)
                    member = self._member(name, text)
                    dns_names += names
                elif extension := EXTENSIONS.get(kind):
                    name = extension.name
                    raw = data[first:at] if extension.repeats else b""
                    member = self._members.get(raw, "")
                    if not member:
                        member = self._member(name, extension.read(_value(data, critical, at)))
                        if extension.repeats:
                            _remember(self._members, raw, member)
                else:
                    continue
            except der.DerError as error:
                problems.append(f"extension {data[first:critical].hex()}: {error}")
                continue
            if name in members:
                problems.append(f"{name}: given twice")
            elif member:
                members[name] = member
        return dns_names

    def _member(self, name: str, shown: str | bool | None) -> str:
        """Write one member of the JSON object `extensions`; nothing when nothing is shown."""
        return "" if shown is None else f'"{name}":{self._encode(shown).decode()}'


def _value(data: bytes, at: int, end: int) -> bytes:
    """Step over `critical BOOLEAN DEFAULT FALSE` to the contents of extnValue."""
    tag, start, stop = der.header(data, at, end)
    if tag == der.BOOLEAN:
        tag, start, stop = der.header(data, stop, end)
    if tag != der.OCTET_STRING:
        raise der.DerError(f"extnValue has tag {tag:#04x}")
    return data[start:stop]


def _domains(common_name: str | None, dns_names: list[str], *, is_ca: bool) -> list[str]:
    if common_name is not None and not is_ca:
        if dns_names == [common_name]:
            return dns_names
        if common_name in dns_names or is_dns_name(common_name):
            dns_names = [common_name, *dns_names]
    return list(dict.fromkeys(dns_names))


def _remember(cache: dict[bytes, _T], raw: bytes, value: _T) -> None:
    """Keep what was read, within bounds. Long values are rare, so never worth their memory."""
    if len(raw) <= _MAX_CACHED_BYTES:
        if len(cache) >= _CACHE_ENTRIES:
            cache.clear()
        cache[raw] = value
