"""A message as lines to print: names, JSON, or a template."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from string import Formatter as TemplateParser
from typing import Final

import msgspec

from ctfilter import Certificate, Filter, Index, Line
from ctfilter.grammar import CERTIFICATE_KEYS
from launcher.terminal import escape_control_chars

NAMES: Final = "names"
JSON: Final = "json"


class _Matched(msgspec.Struct, frozen=True):
    """What matched the filter of a client: a name, or None for the whole certificate."""

    name: str | None = None


class Message(msgspec.Struct, frozen=True):
    """The fields of every message; `data` is decoded only when it is needed.

    Attributes:
        version: 2 on the stream v2.
        matched: by a server that filtered; at most 10.
    """

    message_type: str
    version: int = 1
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")
    matched: list[_Matched] | None = None

    @property
    def is_certificate(self) -> bool:
        """Whether it has a certificate, of any stream."""
        return self.message_type in {"certificate_update", "dns_entries"}


class _Name(msgspec.Struct, frozen=True):
    CN: str | None = None
    O: str | None = None  # noqa: E741  (X.509's own name)


class _Leaf(msgspec.Struct, frozen=True):
    all_domains: list[str] = []
    subject: _Name = _Name()
    issuer: _Name = _Name()
    not_before: int | None = None
    not_after: int | None = None
    serial_number: str = ""
    sha256: str = ""
    sha1: str = ""


class _Source(msgspec.Struct, frozen=True):
    name: str = ""
    operator: str = ""


class _Certificate(msgspec.Struct, frozen=True):
    leaf_cert: _Leaf
    seen: float = 0.0
    update_type: str = ""
    cert_index: int = 0
    cert_link: str = ""
    source: _Source = _Source()


class _Entry(msgspec.Struct, frozen=True):
    type: str
    index: int
    observed_at: datetime
    link: str = ""


class _CertificateV2(msgspec.Struct, frozen=True):
    cert: _Leaf
    entry: _Entry
    source: _Source = _Source()


Formatter = Callable[[bytes, Message], Sequence[str] | None]
"""A message's JSON, and the message -> its lines; None if it does not match."""

decode = msgspec.json.Decoder(Message).decode
_names = msgspec.json.Decoder(list[str]).decode
_version_1 = msgspec.json.Decoder(_Certificate).decode
_version_2 = msgspec.json.Decoder(_CertificateV2).decode

_MIN_TIME: Final = datetime(1000, 1, 1, tzinfo=UTC).timestamp()
_MAX_TIME: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp() + 1

#: Field of a template -> returns its value.
FIELDS: Final[Mapping[str, Callable[[str, _Certificate], str]]] = {
    "id": lambda number, _: number,
    "seen": lambda _, data: _time(data.seen),
    "cn": lambda _, data: data.leaf_cert.subject.CN or "",
    "domains": lambda _, data: " ".join(data.leaf_cert.all_domains),
    "issuer": lambda _, data: data.leaf_cert.issuer.O or data.leaf_cert.issuer.CN or "",
    "not_before": lambda _, data: _time(data.leaf_cert.not_before),
    "not_after": lambda _, data: _time(data.leaf_cert.not_after),
    "serial": lambda _, data: data.leaf_cert.serial_number,
    "sha256": lambda _, data: data.leaf_cert.sha256.replace(":", "").lower(),
    "sha1": lambda _, data: data.leaf_cert.sha1.replace(":", "").lower(),
    "type": lambda _, data: data.update_type,
    "log": lambda _, data: data.source.name,
    "index": lambda _, data: str(data.cert_index),
    "link": lambda _, data: data.cert_link,
}


def validate_template(text: str) -> str:
    r"""Validate a template: `{field}` for each of `FIELDS`, `\t` for a tab, `{{` for a brace.

    Raises:
        ValueError: it has another field, or none.
    """
    text = text.replace(r"\t", "\t")
    known = ", ".join(FIELDS)
    fields = [field for _, field, _, _ in TemplateParser().parse(text) if field is not None]
    if unknown := [field for field in fields if field not in FIELDS]:
        raise ValueError(f"unknown field {{{unknown[0]}}}: expected one of {known}")
    if not fields:
        raise ValueError(
            f"invalid format {text!r}: expected names, json or fields in braces: {known}"
        )
    return text


class Matcher:
    """Filter lines, one of which must match.

    The server filters if it can: its messages then have `matched`. All others are matched here.

    Args:
        lines: the lines.

    Attributes:
        lines: the lines.
        needs_certificate: whether they compare more than names.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.needs_certificate = any(
            term.key in CERTIFICATE_KEYS for line in lines for term in line.terms
        )
        self._filter = Filter([lines])
        self._index = Index()
        self._index.add(self._filter)

    def names(self, message: Message) -> Sequence[str] | None:
        """Return the names that match, all if the whole certificate does; None if it does not."""
        certificate = _to_filter(message)
        found = self._index.lookup(certificate).get(self._filter, ())
        names = [name for name, _ in found]
        if message.matched is not None and not names:
            names = [each.name for each in message.matched]
        elif not names:
            return None
        if None in names:
            return certificate.names
        return list(dict.fromkeys(name for name in names if name is not None))

    def passes(self, message: Message) -> bool:
        """Return whether a message matches."""
        return message.matched is not None or self.names(message) is not None


def make_formatter(form: str, match: Matcher | None, *, only_names: bool = False) -> Formatter:
    """Return a function that turns messages into lines.

    Args:
        form: `NAMES`, `JSON` or a template.
        match: what certificates must match; `NAMES` prints only the names that do.
        only_names: whether JSON is that of the domains stream, also of other messages.
    """

    def print_names(_: bytes, message: Message) -> Sequence[str] | None:
        names = _domains(message) if match is None else match.names(message)
        return None if names is None else [escape_control_chars(name) for name in names]

    def print_json(text: bytes, message: Message) -> Sequence[str] | None:
        if match is not None and not match.passes(message):
            return None
        if only_names and message.message_type != "dns_entries":
            text = msgspec.json.encode(
                {"id": message.id, "message_type": "dns_entries", "data": _domains(message)}
            )
        return [text.decode()]

    def print_template(_: bytes, message: Message) -> Sequence[str] | None:
        if match is not None and not match.passes(message):
            return None
        data = _certificate(message)
        values = {
            name: escape_control_chars(value(message.id or "", data))
            for name, value in FIELDS.items()
        }
        return [form.format_map(values)]

    return {NAMES: print_names, JSON: print_json}.get(form, print_template)


def _domains(message: Message) -> list[str]:
    if message.message_type == "dns_entries":
        return _names(message.data)
    return _certificate(message).leaf_cert.all_domains


def _certificate(message: Message) -> _Certificate:
    """Return the certificate of a message of full, lite or v2."""
    if message.version == 1:
        return _version_1(message.data)
    data = _version_2(message.data)
    entry = data.entry
    kind = "PrecertLogEntry" if entry.type == "precert" else "X509LogEntry"
    seen = entry.observed_at.timestamp()
    return _Certificate(data.cert, seen, kind, entry.index, entry.link, data.source)


def _to_filter(message: Message) -> Certificate:
    """Return what filter lines compare of a message."""
    if message.message_type == "dns_entries":
        return Certificate(_names(message.data))
    data = _certificate(message)
    issuer = data.leaf_cert.issuer
    return Certificate(
        data.leaf_cert.all_domains,
        issuer.CN or "",
        issuer.O or "",
        data.source.operator,
        precertificate=data.update_type == "PrecertLogEntry",
    )


def _time(seconds: float | None) -> str:
    """Return a time as in RFC 3339; nothing without one, or if its year has not four digits."""
    if seconds is None or not _MIN_TIME <= seconds < _MAX_TIME:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
