"""A message as lines to print: names, JSON, or a template."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from string import Formatter as TemplateParser
from typing import Final

import msgspec

from launcher.terminal import escape_control_chars

NAMES: Final = "names"
JSON: Final = "json"


class Message(msgspec.Struct, frozen=True):
    """The fields of every message; `data` is decoded only when it is needed."""

    message_type: str
    id: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")

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


class _Certificate(msgspec.Struct, frozen=True):
    leaf_cert: _Leaf
    seen: float = 0.0
    update_type: str = ""
    cert_index: int = 0
    cert_link: str = ""
    source: _Source = _Source()


Formatter = Callable[[bytes, Message], Sequence[str] | None]
"""A message's JSON, and the message -> its lines; None if it does not match."""

decode = msgspec.json.Decoder(Message).decode
_names = msgspec.json.Decoder(list[str]).decode
_certificate = msgspec.json.Decoder(_Certificate).decode

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


def make_formatter(form: str, match: re.Pattern[str] | None) -> Formatter:
    """Return a function that turns messages into lines.

    Args:
        form: `NAMES`, `JSON` or a template.
        match: pattern that a name of the certificate contains; `NAMES` prints only such names.
    """

    def matching(names: Sequence[str]) -> Sequence[str]:
        return names if match is None else [name for name in names if match.search(name)]

    def print_names(_: bytes, message: Message) -> Sequence[str] | None:
        found = matching(_domains(message))
        return [escape_control_chars(name) for name in found] if found or match is None else None

    def print_json(text: bytes, message: Message) -> Sequence[str] | None:
        return [text.decode()] if match is None or matching(_domains(message)) else None

    def print_template(_: bytes, message: Message) -> Sequence[str] | None:
        data = _certificate(message.data)
        if match is not None and not matching(data.leaf_cert.all_domains):
            return None
        values = {
            name: escape_control_chars(value(message.id or "", data))
            for name, value in FIELDS.items()
        }
        return [form.format_map(values)]

    return {NAMES: print_names, JSON: print_json}.get(form, print_template)


def _domains(message: Message) -> list[str]:
    if message.message_type == "dns_entries":
        return _names(message.data)
    return _certificate(message.data).leaf_cert.all_domains


def _time(seconds: float | None) -> str:
    """Return a time as in RFC 3339; nothing without one, or if its year has not four digits."""
    if seconds is None or not _MIN_TIME <= seconds < _MAX_TIME:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
