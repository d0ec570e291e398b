"""A certificate's DER -> what certstream shows of it, in one tolerant walk.

There is one reader, and it is lenient field by field. Of the outline, the fields that every
certificate has up to its public key, it needs the framing; without that, the certificate is
`Unreadable`. Everything else that cannot be read (an extension, a name's attribute, a date) is left
out or null, and named in `Certificate.problems`: one odd field does not lose a certificate.

It is fast because CAs repeat themselves. Names, algorithms and most extensions are looked up by
their bytes, and only what was not seen before is taken apart; what a certificate has for itself
(serial number, dates, subject, DNS names, key id) is read in place. The caches belong to the
reader, are bounded, and start over when they are full. A reader may serve many logs.
"""

from struct import Struct

import msgspec

from ctparse import der
from ctparse.algorithms import signature_algorithm
from ctparse.bounded import add, remember
from ctparse.entry import Unreadable
from ctparse.general_names import ExtensionReader
from ctparse.names import Name, is_dns_name, read_name
from ctparse.times import read_time

MAX_BYTES = 512 * 1024
"""A certificate with 10,000 DNS names has about 300 KB of DER. A larger one than this is rejected:
parsing takes about 1 s a megabyte."""
# How certificates of more than 255 bytes begin: two SEQUENCEs with lengths of two bytes.
_FRAMES = Struct(">HHHH")
_LONG_SEQUENCE = 0x3082
_VERSION = 0xA0
_EXTENSIONS = 0xA3
# Serial number, signature, issuer, validity, subject, key.
_OUTLINE_FIELDS = 6
_IS_CA = '"basicConstraints":"CA:TRUE"'
# A UTCTime of the form RFC 5280 prescribes: its header, ten digits, and one of these.
_UTC_TIME = b"\x17\x0d"
_SECONDS = {b"%02dZ" % second: second for second in range(60)}


class Certificate(msgspec.Struct, frozen=True, gc=False):
    """The content of a message for one certificate, except its bytes and their hashes.

    Attributes:
        subject: the subject, as the JSON object of a message.
        issuer: the issuer, as such an object.
        serial_number: its octets in hex, without leading zero octets. A negative one appears as
            the two's complement it is written in.
        not_before: start of validity in Unix seconds, None when it cannot be read.
        not_after: end of validity, in the same form.
        signature_algorithm: as JSON: a string like "sha256, rsa", null when there is none.
        is_ca: the cA field of basicConstraints.
        domains: the CN first if it is a DNS name and not a CA's, then the DNS names of
            subjectAltName; no repeats.
        extensions: name in a message -> member of a JSON object, key and value.
        problems: what could not be read, a line each.
        tbs: where the contents of TBSCertificate begin and end.
        fields: tag, begin and end of the contents of its fields, from the serial number on.
        other_extensions: DER of its extensions without lists of SCTs; None if there is no list, or
            TBSCertificate cannot be read to its end.
    """

    subject: str
    issuer: str
    serial_number: str
    not_before: int | None
    not_after: int | None
    signature_algorithm: str
    is_ca: bool
    domains: list[str]
    extensions: dict[str, str]
    problems: list[str]
    tbs: tuple[int, int]
    fields: list[tuple[int, int, int]]
    other_extensions: bytes | None


class CertificateReader:
    """Reads certificates and remembers the parts that repeat."""

    def __init__(self) -> None:
        self._names: dict[bytes, Name] = {}
        self._algorithms: dict[bytes, str] = {}
        self._minutes: dict[bytes, int] = {}
        self._extensions = ExtensionReader()

    def read(self, data: bytes) -> Certificate:
        """Read a certificate or precertificate.

        Raises:
            Unreadable: its outline cannot be read, or it is absurdly long.
        """
        if len(data) > MAX_BYTES:
            raise Unreadable(f"certificate of {len(data):,} bytes, more than {MAX_BYTES:,}")
        try:
            return self._outline(data)
        except der.DerError as error:
            raise Unreadable(str(error)) from error

    def _outline(self, data: bytes) -> Certificate:
        """Take Certificate and TBSCertificate apart (RFC 5280 section 4.1)."""
        problems: list[str] = []
        begin, tbs_end, end = _frames(data)
        if end != len(data):
            add(problems, f"{len(data) - end} bytes follow the certificate")
        fields, at = der.children(data, begin, tbs_end)
        is_whole = at == tbs_end
        if not is_whole:
            add(problems, f"TBSCertificate: no value at byte {at}")
        if fields and fields[0][0] == _VERSION:  # version 1 has none
            del fields[0]
        if len(fields) < _OUTLINE_FIELDS:
            raise der.DerError(f"TBSCertificate ends after {len(fields)} of its fields")
        serial_tag, at, stop = fields[0]
        issuer_tag, issuer_at, issuer_stop = fields[2]
        validity_tag, validity_at, validity_stop = fields[3]
        subject_tag, subject_at, subject_stop = fields[4]
        if serial_tag != der.INTEGER or not (
            issuer_tag == validity_tag == subject_tag == der.SEQUENCE
        ):
            raise der.DerError("TBSCertificate has other fields than a certificate has")
        serial_number = data[at:stop].lstrip(b"\0").hex().upper() or "00"
        not_before, not_after = self._validity(data, validity_at, validity_stop, problems)
        raw = data[issuer_at:issuer_stop]
        issuer = self._names.get(raw) or self._new_issuer(raw)
        subject = read_name(data, subject_at, subject_stop)
        if issuer.problems or subject.problems:
            add(problems, *(f"issuer: {problem}" for problem in issuer.problems))
            add(problems, *(f"subject: {problem}" for problem in subject.problems))

        members: dict[str, str] = {}
        dns_names: list[str] = []
        others: bytes | None = None
        tag, at, stop = fields[-1]
        if tag == _EXTENSIONS:
            members, dns_names, others = self._extensions.read(data, at, stop, problems)
        is_ca = members.get("basicConstraints") == _IS_CA
        return Certificate(
            subject.json,
            issuer.json,
            serial_number,
            not_before,
            not_after,
            self._algorithm(data, tbs_end, end, problems),
            is_ca,
            _domains(None if is_ca else subject.common_name, dns_names),
            members,
            problems,
            (begin, tbs_end),
            fields,
            others if is_whole else None,
        )

    def _new_issuer(self, raw: bytes) -> Name:
        name = read_name(raw, 0, len(raw))
        remember(self._names, raw, name)
        return name

    def _algorithm(self, data: bytes, at: int, end: int, problems: list[str]) -> str:
        """Read the AlgorithmIdentifier that follows the TBSCertificate, into JSON."""
        try:
            _, start, stop = der.header(data, at, end)
            raw = data[start:stop]
            name = self._algorithms.get(raw)
            if name is None:
                name = msgspec.json.encode(signature_algorithm(raw)).decode()
                remember(self._algorithms, raw, name)
        except der.DerError as error:
            add(problems, f"signatureAlgorithm: {error}")
            return "null"
        return name

    def _validity(
        self, data: bytes, at: int, end: int, problems: list[str]
    ) -> tuple[int | None, int | None]:
        """Read two Times; nearly always UTCTimes in minutes that were seen before."""
        minutes = self._minutes
        try:
            return (
                minutes[data[at : at + 12]] + _SECONDS[data[at + 12 : at + 15]],
                minutes[data[at + 15 : at + 27]] + _SECONDS[data[at + 27 : end]],
            )
        except KeyError:
            pass
        moments: list[int | None] = []
        for tag, start, stop in der.children(data, at, end)[0][:2]:
            contents = data[start:stop]
            try:
                moment = read_time(tag, contents)
            except der.DerError as error:
                add(problems, f"validity: {error}")
                moments.append(None)
                continue
            moments.append(moment)
            if tag == der.UTC_TIME and contents[10:] in _SECONDS:
                minute = _UTC_TIME + contents[:10]
                remember(minutes, minute, moment - _SECONDS[contents[10:]])
        while len(moments) < 2:
            add(problems, "validity: a time is missing")
            moments.append(None)
        return moments[0], moments[1]


def _frames(data: bytes) -> tuple[int, int, int]:
    """Find where TBSCertificate begins and ends, and where the certificate around it ends."""
    size = len(data)
    if size > _FRAMES.size:
        outer, length, inner, tbs_length = _FRAMES.unpack_from(data)
        end, tbs_end = 4 + length, 8 + tbs_length
        if outer == inner == _LONG_SEQUENCE and tbs_end <= end <= size:
            return 8, tbs_end, end
    at, end = der.expect(data, 0, size, der.SEQUENCE, "Certificate")
    at, tbs_end = der.expect(data, at, end, der.SEQUENCE, "TBSCertificate")
    return at, tbs_end, end


def _domains(common_name: str | None, dns_names: list[str]) -> list[str]:
    """Put the CN first, if it is a DNS name, and take out repeats."""
    if common_name not in dns_names[:1] and (
        common_name in dns_names or (common_name is not None and is_dns_name(common_name))
    ):
        dns_names = [common_name, *dns_names]
    if (len(dns_names) == 1 or len(set(dns_names)) == len(dns_names)) and "" not in dns_names:
        return dns_names
    unique = dict.fromkeys(dns_names)
    unique.pop("", None)
    return list(unique)
