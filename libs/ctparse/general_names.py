"""Extensions of a certificate -> members of the message's `extensions` object.

Most of what a CA writes into a certificate, it writes into all of them. So an extension is first
looked up by its bytes; only one not seen before is taken apart (by `extensions`). Extensions that
certstream does not show are remembered as well, as nothing.
"""

import msgspec

from ctparse import der
from ctparse.bounded import add, remember
from ctparse.extensions import EXTENSIONS, SUBJECT_ALT_NAME, subject_alt_name

# OBJECT IDENTIFIER 1.3.6.1.4.1.11129.2.4.2, SignedCertificateTimestampList.
SCT_LIST = bytes.fromhex("060a2b06010401d679020402")
# A subjectKeyIdentifier of 20 bytes, as nearly all certificates have it, up to these.
_KEY_ID = bytes.fromhex("301d0603551d0e04160414")
_KEY_ID_BYTES = 31
# Of extensions that are not shown.
_MAX_REMEMBERED_UNKNOWN = 128

# A name in the message, and the member of the JSON object: key and value. Empty if not shown.
_Member = tuple[str, str] | tuple[()]


class ExtensionReader:
    """Reads the extensions of certificates and remembers those that repeat."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Member] = {}
        self._encode = msgspec.json.Encoder().encode

    def read(
        self, data: bytes, at: int, end: int, problems: list[str]
    ) -> tuple[dict[str, str], list[str], bytes | None]:
        """Read Extensions (RFC 5280 section 4.1), the SEQUENCE at `at` that should end at `end`.

        What cannot be read is left out and named in `problems`; of an extension given twice, which
        RFC 5280 forbids, the last one counts.

        Returns:
            The members, by name; the DNS names in subjectAltName; and the extensions without lists
            of SCTs, DER, None if there is no list or not all extensions can be read.
        """
        known = self._known
        members: list[tuple[str, str]] = []
        dns_names: list[str] = []
        others: list[bytes] = []  # DER before each list of SCTs
        is_whole = False
        begin = 0  # of the extensions after the last list of SCTs
        try:
            at, last = der.expect(data, at, end, der.SEQUENCE, "Extensions")
            begin, is_whole, end = at, last == end, last
            while at < end:
                start = at + 2
                length = data[at + 1]
                stop = start + length
                if length > 0x7F or stop > end:
                    tag, start, stop = der.header(data, at, end)
                    # Lists of SCTs, which differ in all certificates, are this long.
                    if (
                        stop - start > 0x7F
                        and tag == der.SEQUENCE
                        and data.startswith(SCT_LIST, start)
                    ):
                        others.append(data[begin:at])
                        begin = at = stop
                        continue
                raw = data[at:stop]
                member = known.get(raw)
                if member is None:
                    member = self._read(raw, start - at, dns_names, problems)
                    if member is None and data[at] == der.SEQUENCE:
                        others.append(data[begin:at])
                        begin = stop
                if member:
                    members.append(member)
                at = stop
        except (der.DerError, IndexError) as error:
            add(problems, f"Extensions: {error}")
            is_whole = False
        by_name = dict(members)
        if len(by_name) != len(members):
            add(problems, "Extensions: one of them is given twice")
        others.append(data[begin:end])
        return by_name, dns_names, b"".join(others) if is_whole and len(others) > 1 else None

    def _read(
        self, raw: bytes, at: int, dns_names: list[str], problems: list[str]
    ) -> _Member | None:
        """Read the Extension `raw`, whose contents begin at `at`; None for a list of SCTs."""
        if len(raw) == _KEY_ID_BYTES and raw.startswith(_KEY_ID):
            name = "subjectKeyIdentifier"
            return name, f'"{name}":"keyid:{raw[len(_KEY_ID) :].hex(":")}"'
        name = "extension"
        shown: str | bool | None
        try:
            value = at + 2 + raw[at + 1]
            oid = raw[at:value]
            extension = EXTENSIONS.get(oid)
            if extension is None:
                if oid == SCT_LIST:
                    return None
                if len(raw) <= _MAX_REMEMBERED_UNKNOWN:
                    remember(self._known, raw, ())
                return ()
            name = extension.name
            if extension is SUBJECT_ALT_NAME:
                names, shown = subject_alt_name(_contents(raw, value), problems)
                dns_names += names
            else:
                shown = extension.read(_contents(raw, value))
        except (der.DerError, IndexError) as error:
            add(problems, f"{name}: {error}")
            return ()
        member = () if shown is None else (name, f'"{name}":{self._encode(shown).decode()}')
        if extension.repeats:
            remember(self._known, raw, member)
        return member


def _contents(raw: bytes, at: int) -> bytes:
    """Step over `critical`, which is optional, to the contents of extnValue, an OCTET STRING."""
    size = len(raw) - at - 2
    if raw[at] == der.OCTET_STRING and raw[at + 1] == size < 0x80:
        return raw[at + 2 :]
    tag, start, stop = der.header(raw, at, len(raw))
    if tag == der.BOOLEAN:
        tag, start, stop = der.header(raw, stop, len(raw))
    if tag != der.OCTET_STRING:
        raise der.DerError(f"extnValue has tag {tag:#04x}")
    return raw[start:stop]
