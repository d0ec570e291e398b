"""The forms of a DNS name that terms compare.

text     as in the certificate, in lower case, with A-labels, without a dot at the end
host     `text` without a leading `*.`
unicode  `host` with the A-labels decoded
folded   `unicode` with confusable characters folded, see `lookalike`
"""

import codecs
from collections.abc import Mapping
from functools import cached_property
from typing import Final

import idna
import idna.uts46data

from ctfilter.lookalike import compact, fold
from ctfilter.public_suffix_table import RULES

MAX_NAME: Final = 253
"""Characters of a DNS name (RFC 1035 section 2.3.4). Longer names have no terms that hold."""

# Loaded here, as `idna.uts46data` is: when a name first needs them, no descriptor may be left.
codecs.lookup("punycode")

_MAX_LABEL: Final = 63
_EXACT, _WILDCARD, _EXCEPTION = 1, 2, 4


def _suffix_rules() -> Mapping[str, int]:
    """Return the kinds of rule of each suffix; `*.` and `!` removed."""
    rules: dict[str, int] = {}
    for rule in RULES.split():
        kind = {"*": _WILDCARD, "!": _EXCEPTION}.get(rule[0], _EXACT)
        suffix = rule.removeprefix("*.").removeprefix("!")
        rules[suffix] = rules.get(suffix, 0) | kind
    return rules


SUFFIX_RULES: Final = _suffix_rules()


class Name:
    """A name of a certificate.

    Args:
        raw: as in the certificate.
    """

    def __init__(self, raw: str) -> None:
        self.text = normalize(raw)
        self.host = self.text.removeprefix("*.")

    @property
    def is_wildcard(self) -> bool:
        """Whether the name begins with `*.`."""
        return self.text.startswith("*.")

    @property
    def is_idn(self) -> bool:
        """Whether the name has an A-label."""
        return has_a_label(self.host)

    @cached_property
    def unicode(self) -> str:
        """The host with its A-labels decoded."""
        return to_unicode(self.host) if self.is_idn else self.host

    @cached_property
    def folded(self) -> str:
        """The host with confusable characters folded."""
        return fold(self.unicode)

    @cached_property
    def registrable(self) -> str | None:
        """The folded, compact label before the public suffix; None: the host is a suffix."""
        label = registrable_label(self.host)
        if label is None:
            return None
        return compact(fold(to_unicode(label) if has_a_label(label) else label))


def normalize(raw: str) -> str:
    """Return a name in lower case, with A-labels, without a dot at the end.

    Returns:
        "" for a text that is too long for a DNS name, or has a line break.
    """
    text = raw.lower().rstrip(".")
    if len(text) > MAX_NAME or "\n" in text:
        return ""
    return text if text.isascii() else to_ascii(text)


def has_a_label(host: str) -> bool:
    """Whether a host has a label that begins with `xn--`."""
    return "xn--" in host and (host.startswith("xn--") or ".xn--" in host)


def to_ascii(text: str) -> str:
    """Return a name with its Unicode labels as A-labels; labels that have none remain."""
    return ".".join(map(_a_label, text.split(".")))


def _a_label(label: str) -> str:
    if not label.isascii() and len(label) <= _MAX_LABEL:
        try:
            return idna.encode(label, uts46=True).decode()
        except idna.IDNAError:
            pass
    return label


def to_unicode(host: str) -> str:
    """Return a host with its A-labels decoded; labels that are not valid remain."""
    return ".".join(map(_u_label, host.split(".")))


def _u_label(label: str) -> str:
    if not label.startswith("xn--") or len(label) > _MAX_LABEL:
        return label
    try:
        decoded = label[4:].encode("ascii").decode("punycode").lower()
        decoded.encode()  # Punycode can encode surrogates, which are no characters
    except UnicodeError:
        return label
    return decoded


def registrable_label(host: str) -> str | None:
    """Return the label before the public suffix; None if the host is a public suffix.

    The longest rule decides; a top-level domain without a rule is a public suffix.
    """
    before: str | None = None  # label before `suffix`
    further: str | None = None  # label before that
    suffix = host
    while True:
        kind = SUFFIX_RULES.get(suffix)
        label, dot, rest = suffix.partition(".")
        if kind is not None:
            if kind & _EXCEPTION:
                return label
            if kind & _WILDCARD and before is not None:
                return further
            if kind & _EXACT:
                return before
        if not dot:
            return before
        further, before, suffix = before, label, rest
