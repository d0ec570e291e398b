"""When a name is a lookalike of a brand.

A name is like a brand if

1. the folded brand occurs in a folded label of the name, or
2. the folded registrable label is at most one edit from the folded brand, and the brand has
   `MIN_EDITED` characters or more. An edit inserts, removes or replaces a character, or swaps two
   neighbours. The registrable label is the one before the public suffix.

To fold is, on the Unicode form in lower case: replace each character by its prototype of UTS 39,
remove combining marks and hyphens. UTS 39 reads m as rn; in the same way w is read as vv here. An
edit counts rn and vv as one character. The test of this rule is a table: tests/ctfilter.
"""

from typing import Final
from unicodedata import combining
from unicodedata import normalize as unicode_form

from ctfilter.confusables_table import PAIRS

MIN_EDITED: Final = 6
"""Characters of a brand from which one edit is allowed. Words of five letters with one edit are
mostly other words."""

_PROTOTYPES: Final = str.maketrans({pair[0]: pair[1:] for pair in PAIRS.split()})


def fold(text: str) -> str:
    """Return a text with confusable characters folded; dots remain."""
    return fold_ascii(text.lower() if text.isascii() else _skeleton(text))


def fold_ascii(text: str) -> str:
    """Fold a text of ASCII characters in lower case."""
    return (
        text.replace("-", "")
        .replace("0", "o")
        .replace("1", "l")
        .replace("m", "rn")
        .replace("w", "vv")
    )


def _skeleton(text: str) -> str:
    """Return the skeleton of UTS 39 section 4, in lower case, without combining marks."""
    skeleton = unicode_form("NFD", text.lower()).translate(_PROTOTYPES)
    return "".join([c for c in unicode_form("NFD", skeleton).lower() if not combining(c)])


def compact(folded: str) -> str:
    """Return a folded text with one character for each that is read as two."""
    return folded.replace("rn", "m").replace("vv", "w")


def within_one_edit(a: str, b: str) -> bool:
    """Whether one insertion, removal, replacement or swap of neighbours at most makes a of b."""
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1:
        return False
    at = 0
    while at < len(a) and a[at] == b[at]:
        at += 1
    if len(a) < len(b):
        return a[at:] == b[at + 1 :]
    if a[at + 1 :] == b[at + 1 :]:
        return True
    return a[at + 2 :] == b[at + 2 :] and a[at] == b[at + 1] and a[at + 1] == b[at]
