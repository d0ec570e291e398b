"""The metrics of many processes as one text: each family once, each sample with its process.

Texts are put together as they are: reading fifty logs' samples into objects and writing them again
would hold up the event loop for a tenth of a second.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

_NAME: Final = "[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABELS: Final = r"\{[^\n]*\}"
_NUMBER: Final = r"(?:[+-]?[0-9.]+(?:e[+-]?[0-9]+)?|[+-]Inf|NaN)"

_FAMILY: Final = re.compile(
    rf"# HELP (?P<name>{_NAME}) [^\n]*\n# TYPE (?P=name) [a-z]+\n"
    rf"(?P<samples>(?:(?P=name)(?:_bucket|_count|_sum)?(?:{_LABELS})? {_NUMBER}\n)*)"
)
"""One family in the text format, as `generate_latest` writes it."""


class Scrape(msgspec.Struct, frozen=True):
    """What a process says.

    Attributes:
        kind: "gateway" or "ingestor": the label that its samples get.
        name: the value of that label.
        text: in Prometheus' text format; None if it gave none.
    """

    kind: str
    name: str
    text: bytes | None


def merge_scrapes(told: Sequence[Scrape]) -> bytes:
    """Put the metrics of processes together.

    Returns:
        Text, where what cannot be read counts as not given.
    """
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for each in told:
        up = f"certstream_{each.kind}_up"
        about = "Whether it told its metrics. Needs an admin address."
        heads.setdefault(up, f"# HELP {up} {about}\n# TYPE {up} gauge\n")
        samples.setdefault(up, [])
    for each in told:
        label = f'{each.kind}="{_escaped(each.name)}"'
        families = _read(each.text)
        samples[f"certstream_{each.kind}_up"].append(
            f"certstream_{each.kind}_up{{{label}}} {0.0 if families is None else 1.0}\n"
        )
        for name, (head, lines) in (families or {}).items():
            heads.setdefault(name, head)
            samples.setdefault(name, []).append(_labelled(lines, label))
    return "".join(head + "".join(samples[name]) for name, head in heads.items()).encode()


def _read(text: bytes | None) -> Mapping[str, tuple[str, str]] | None:
    """Take a text apart: by the family's name, the lines about it, and its samples."""
    if text is None:
        return None
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return None
    families: dict[str, tuple[str, str]] = {}
    end = 0
    while end < len(decoded):
        family = _FAMILY.match(decoded, end)
        if family is None:
            return None
        start, end = family.span()
        head = decoded[start : family.start("samples")]
        families[family["name"]] = head, family["samples"]
    return families


def _labelled(lines: str, label: str) -> str:
    """Give each sample another label, before those that it has."""
    made = []
    for line in lines.split("\n")[:-1]:
        name, brace, rest = line.partition("{")
        if brace:
            made.append(f"{name}{{{label},{rest}\n")
        else:
            name, _, value = line.partition(" ")
            made.append(f"{name}{{{label}}} {value}\n")
    return "".join(made)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
