"""Join the metrics of several processes: each family once, each sample with its process.

The texts are joined without parsing samples: parsing those of fifty logs and writing them again
would block the event loop for a tenth of a second.
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
    """The metrics of one process.

    Attributes:
        kind: "gateway" or "ingestor": name of the label of its samples.
        name: value of that label.
        text: in the Prometheus text format; None if the process returned none.
    """

    kind: str
    name: str
    text: bytes | None


def merge_scrapes(scrapes: Sequence[Scrape]) -> bytes:
    """Join the metrics of processes.

    Returns:
        Text in the Prometheus format. A malformed text counts as none.
    """
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for each in scrapes:
        up = f"certstream_{each.kind}_up"
        about = "Whether the process returned its metrics. Needs an admin address."
        heads.setdefault(up, f"# HELP {up} {about}\n# TYPE {up} gauge\n")
        samples.setdefault(up, [])
    for each in scrapes:
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
    """Split a text: family name -> (its HELP and TYPE lines, its samples); None if malformed."""
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
    """Add a label to each sample, before its other labels."""
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
