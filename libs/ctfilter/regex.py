"""Regular expressions of RE2, and the literals that each match contains.

RE2 matches in time linear in the text and in the program of the pattern, at worst; a pattern with a
larger program than `MAX_PROGRAM` is an error. RE2 holds the GIL while it compiles, so what makes
that slow is found before: classes of Unicode, and large counts.
"""

import re
from collections.abc import Callable
from typing import Final

import re2

MIN_LITERAL: Final = 3
"""Characters of a literal that an index finds."""

MAX_LITERALS: Final = 16
"""Alternative literals of one pattern."""

MAX_MEMORY_BYTES: Final = 64 * 1024
"""Memory of one compiled pattern, with the states that RE2 keeps of it."""

MAX_PROGRAM: Final = 256
"""Instructions of one compiled pattern; about one for each character, after counts are expanded."""

_TOO_LARGE: Final = "the pattern is too large"
_SHORTER: Final = "; use +, * or smaller counts, or several lines"
_TRIAL_BYTES: Final = 24 * 1024  # in which patterns of `MAX_PROGRAM` and little more compile
_MAX_DEPTH: Final = 20
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_COUNTS: Final = re.compile(r"\{(\d*),?(\d*)\}")


def compile_regex(pattern: str) -> tuple[Callable[[bytes], bool], int]:
    """Return a function that searches a pattern in an ASCII text, without case.

    Returns:
        It, and the number of instructions of the program.

    Raises:
        ValueError: RE2 does not accept the pattern, or it has a class of Unicode, or is too large.
    """
    if any(escaped in "pP" for escaped in _ESCAPED.findall(pattern)):
        raise ValueError(r"\p and \P are not possible: names are ASCII; use [a-z]")
    counts = [count for pair in _COUNTS.findall(pattern) for count in pair if count]
    if any(len(count) > 3 or int(count) > MAX_PROGRAM for count in counts):
        raise ValueError(f"a count above {MAX_PROGRAM}")
    if counts:  # a nested one may be large, which takes RE2 a while
        _compile(pattern, _TRIAL_BYTES)
    compiled = _compile(pattern, MAX_MEMORY_BYTES)
    if compiled.programsize > MAX_PROGRAM:
        size = f"{compiled.programsize} instructions of at most {MAX_PROGRAM}"
        raise ValueError(f"{_TOO_LARGE}: {size}{_SHORTER}")
    search = compiled.search
    return (lambda text: search(text) is not None), compiled.programsize


def _compile(pattern: str, max_bytes: int) -> "re2._Regexp[bytes]":
    """Compile a pattern.

    Raises:
        ValueError: RE2 does not accept the pattern, or it needs more memory.
    """
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = max_bytes
    options.encoding = re2.Options.Encoding.LATIN1  # the texts are ASCII
    options.never_capture = True
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        if "pattern too large" in text:
            raise ValueError(f"{_TOO_LARGE}{_SHORTER}") from None
        raise ValueError(f"RE2 does not accept the pattern: {text}") from None


def required_literals(pattern: str) -> tuple[str, ...]:
    """Return literals of which each match contains at least one; () if none are found.

    Each has `MIN_LITERAL` characters or more, in lower case. The pattern is one that RE2 accepts.
    What this function does not know ends a literal, so that it finds too few rather than wrong
    ones.
    """
    if "\\Q" in pattern or not pattern.isascii():
        return ()
    parser = _Parser(pattern)
    try:
        literals = parser.alternatives(0)
    except (IndexError, RecursionError):
        return ()
    if not parser.is_at_end or len(literals) > MAX_LITERALS:
        return ()
    return tuple(sorted(set(literals)))


class _Parser:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        """Whether the whole pattern was read."""
        return self._at == len(self._pattern)

    def alternatives(self, depth: int) -> list[str]:
        """Read alternatives up to the end of their group, and return their literals."""
        every: list[str] | None = []
        while True:
            one = self._sequence(depth)
            every = every + one if every is not None and one else None
            if not self._next_is("|"):
                return every or []
            self._at += 1

    def _sequence(self, depth: int) -> list[str]:
        """Read a concatenation; return the literals of its most selective part."""
        best: list[str] = []
        run = ""
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            literal, found = self._atom(depth)
            least, single = self._repetition()
            if least == 0:
                literal, found = None, []
            if literal is None or not single:
                if literal is not None:
                    run += literal  # at least once, and then something else
                best = max(best, self._useful(run), found, key=_selectivity)
                run = literal if literal is not None else ""
            else:
                run += literal
        return max(best, self._useful(run), key=_selectivity)

    @staticmethod
    def _useful(run: str) -> list[str]:
        return [run.lower()] if len(run) >= MIN_LITERAL else []

    def _atom(self, depth: int) -> tuple[str | None, list[str]]:
        """Read one atom: its character, or None and the literals of a group."""
        character = self._take()
        match character:
            case "\\":
                return self._escape(), []
            case "[":
                self._skip_class()
                return None, []
            case "(":
                return None, self._group(depth + 1)
            case "." | "^" | "$":
                return None, []
            case _:
                return character, []

    def _escape(self) -> str | None:
        character = self._take()
        if not character.isalnum():
            return character
        if character == "x":
            if self._next_is("{"):
                while self._take() != "}":
                    pass
            else:
                self._at += 2
        elif character.isdigit():
            while self._at < len(self._pattern) and self._pattern[self._at].isdigit():
                self._at += 1
        return None

    def _skip_class(self) -> None:
        """Skip a bracket expression; a `]` at its start is one of its characters."""
        if self._next_is("^"):
            self._at += 1
        if self._next_is("]"):
            self._at += 1
        while (character := self._take()) != "]":
            if character == "\\":
                self._at += 1
            elif character == "[" and self._next_is(":"):
                end = self._pattern.find(":]", self._at + 1)
                if end >= 0:
                    self._at = end + 2

    def _group(self, depth: int) -> list[str]:
        if self._next_is("?"):
            while self._take() not in ":>)":
                pass
            if self._pattern[self._at - 1] == ")":  # (?i): only flags
                return []
        if depth > _MAX_DEPTH:
            raise RecursionError
        found = self.alternatives(depth)
        self._at += 1
        return found

    def _repetition(self) -> tuple[int, bool]:
        """Read the repetition of an atom: its least number, and whether it is exactly once."""
        least, single = 1, True
        while self._at < len(self._pattern) and self._pattern[self._at] in "*+?{":
            character = self._pattern[self._at]
            if character == "{":
                end = self._pattern.find("}", self._at)
                bounds = self._pattern[self._at + 1 : end] if end > 0 else ""
                if not bounds or not bounds.replace(",", "", 1).isdigit() or bounds[0] == ",":
                    break  # a literal brace
                least = min(least, int(bounds.partition(",")[0]))
                self._at = end
            elif character in "*?":
                least = 0
            single = False
            self._at += 1
        return least, single

    def _take(self) -> str:
        character = self._pattern[self._at]
        self._at += 1
        return character

    def _next_is(self, character: str) -> bool:
        return self._pattern.startswith(character, self._at)


def _selectivity(literals: list[str]) -> tuple[int, int]:
    """Order literals by how few names contain one of them."""
    return (min(map(len, literals)), -len(literals)) if literals else (0, 0)
