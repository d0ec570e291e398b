"""Extensions of a certificate -> members of the message's `extensions` object.

Most of what a CA writes into a certificate, it writes into all of them. So an extension is first
looked up by its bytes; only one not seen before is taken apart (by `extensions`). Extensions that
certstream does not show are remembered as well, as nothing.
"""

import msgspec

from ctparse import der
from ctparse.bounded import add, remember
from ctparse.extensions import EXTENSIONS, SUBJECT_ALT_NAME, subject_alt_name

# Of extensions that are not shown. Lists of SCTs, which never come again, are longer.
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
    ) -> tuple[dict[str, str], list[str]]:
        """Read Extensions (RFC 5280 section 4.1), the SEQUENCE at `at`.

        What cannot be read is left out and named in `problems`; of an extension given twice, which
        RFC 5280 forbids, the last one counts.

        Returns:
            The members, by name; and the DNS names in subjectAltName.
        """
        known = self._known
        members: list[tuple[str, str]] = []
        dns_names: list[str] = []
        try:
            at, end = der.expect(data, at, end, der.SEQUENCE, "Extensions")
            while at < end:
                start = at + 2
                stop = start + data[at + 1]
                if data[at + 1] > 0x7F or stop > end:
                    _, start, stop = der.header(data, at, end)
                raw = data[at:stop]
                member = known.get(raw)
                if member is None:
                    member = self._read(raw, start - at, dns_names, problems)
                if member:
                    members.append(member)
                at = stop
        except (der.DerError, IndexError) as error:
            add(problems, f"Extensions: {error}")
        by_name = dict(members)
        if len(by_name) != len(members):
            add(problems, "Extensions: one of them is given twice")
        return by_name, dns_names

    def _read(self, raw: bytes, at: int, dns_names: list[str], problems: list[str]) -> _Member:
        """Read the Extension `raw`, whose contents begin at `at`."""
        name = "extension"
        shown: str | bool | None
        try:
            value = at + 2 + raw[at + 1]
            extension = EXTENSIONS.get(raw[at:value])
            if extension is None:
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
