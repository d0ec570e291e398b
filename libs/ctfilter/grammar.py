"""The text of filters: parameters, lines and terms, and what is wrong with them.

A line is terms, separated by blanks. A term is `key:value` or `key:"value"`; in quotes, a backslash
escapes a quote or a backslash. `-` before a term negates it. `Line.text` is the normal form: the
same for every way to write the line, and itself a valid line.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Final

from ctfilter.lookalike import compact, fold
from ctfilter.names import MAX_NAME, to_ascii
from ctfilter.regex import MIN_LITERAL, compile_regex, required_literals

MIN_WORD: Final = MIN_LITERAL
"""Characters of the value of `contains` and `like`."""

MAX_LINE: Final = 4096
"""Characters of one line."""

MAX_VALUE: Final = 253
"""Characters of one value."""

MAX_TERMS: Final = 64
"""Terms of one line."""

MAX_LINES: Final = 10_000
"""Lines of one filter."""

MAX_REGEXES: Final = 100
"""Regexes of one filter."""

MAX_LINE_REGEXES: Final = 4
"""Regexes of one line."""

MAX_INSTRUCTIONS: Final = 2048
"""Instructions of the regexes of one filter."""

MAX_NAMED_REGEXES: Final = 1000
"""Regexes of one filter of the configuration."""

MAX_NAMED_INSTRUCTIONS: Final = 20 * 1024
"""Instructions of the regexes of one filter of the configuration."""

MAX_BRAND: Final = 63
"""Characters of a brand after folding, as of a label (RFC 1035 section 2.3.4)."""

MAX_FIELD_TERMS: Final = 20
"""Terms of `domain=` and of `issuer=`."""

NAME_KEYS: Final = ("name", "domain", "contains", "like", "regex", "idn", "wildcard")
CERTIFICATE_KEYS: Final = ("issuer", "operator", "type")
ALL_TERMS: Final = NAME_KEYS + CERTIFICATE_KEYS

_MEANT: Final = {
    "host": "name", "hostname": "name", "dns": "name", "san": "name", "cn": "name",
    "domains": "domain", "tld": "domain", "suffix": "domain", "zone": "domain",
    "word": "contains", "keyword": "contains", "substring": "contains", "text": "contains",
    "brand": "like", "similar": "like", "lookalike": "like", "fuzzy": "like",
    "re": "regex", "regexp": "regex", "pattern": "regex",
    "org": "issuer", "ca": "issuer", "o": "issuer", "log": "operator",
}  # fmt: skip
"""Keys of other search languages -> the key here."""

_KEY: Final = re.compile(r"([A-Za-z0-9_]+):")
_LABELS: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_WORD: Final = re.compile(r"(?:[a-z0-9._-]|[^\x00-\x7f])+")
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")
_IN_URL: Final = re.compile(r"(?:[a-z]+://)?(?:[^/@]*@)?([^/:@?#]+)", re.IGNORECASE)


class FilterError(ValueError):
    """A filter that is not valid.

    Attributes:
        reason: what is wrong.
        value: the text of the parameter, as the client sent it.
        term: the part of `value` that is wrong.
        position: of `term` in `value`, in characters.
        suggestion: what the client may have meant; "" if that is unknown.
        parameter: the parameter: "domain", "issuer" or "match".
    """

    def __init__(
        self,
        reason: str,
        value: str,
        term: str,
        position: int,
        suggestion: str = "",
        parameter: str = "match",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = value
        self.term = term
        self.position = position
        self.suggestion = suggestion
        self.parameter = parameter

    def __str__(self) -> str:
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        term = self.term if len(self.term) <= 80 else f"{self.term[:80]}…"
        return f"{self.parameter}: {term!r} at character {self.position}: {self.reason}{hint}"


class Term:
    """One term of a line.

    Attributes:
        key: one of `ALL_TERMS`.
        value: in its normal form.
        negated: whether it begins with `-`.
        literals: of a regex, of which each match contains one; () without any.
        instructions: of the program of a regex.
    """

    __slots__ = ("instructions", "key", "literals", "negated", "search", "value")

    def __init__(self, key: str, value: str, *, negated: bool = False) -> None:
        self.key = key
        self.value = value
        self.negated = negated
        self.literals: tuple[str, ...] = ()
        self.instructions = 0
        self.search: Callable[[bytes], bool] | None = None

    @property
    def text(self) -> str:
        """The term as text."""
        quoted = re.search(r'[\s"]', self.value) is not None
        escaped = self.value.replace("\\", "\\\\").replace('"', '\\"')
        return f"{'-' * self.negated}{self.key}:" + (f'"{escaped}"' if quoted else self.value)

    @property
    def order(self) -> tuple[int, bool, str]:
        """Sorts the terms of a line."""
        return ALL_TERMS.index(self.key), self.negated, self.value


class Line:
    """The terms of one line.

    Attributes:
        text: the normal form.
        terms: without repeats, in the order of the normal form.
    """

    __slots__ = ("terms", "text")

    def __init__(self, terms: Iterable[Term]) -> None:
        distinct = {term.text: term for term in terms}
        self.terms = tuple(sorted(distinct.values(), key=lambda term: term.order))
        self.text = " ".join(term.text for term in self.terms)


def parse_line(text: str) -> Line:
    """Parse one line.

    Raises:
        FilterError: the line is not valid.
    """
    if len(text) > MAX_LINE:
        raise FilterError(f"longer than {MAX_LINE} characters", text, text[:40], 0)
    terms: list[Term] = []
    regexes = 0
    for negated, key, value, position, end in _tokens(text):
        if len(terms) == MAX_TERMS:
            raise FilterError(f"more than {MAX_TERMS} terms", text, text[position:end], position)
        regexes += key == "regex"
        if regexes > MAX_LINE_REGEXES:  # before it is compiled
            reason = f"more than {MAX_LINE_REGEXES} regexes in a line"
            raise FilterError(reason, text, text[position:end], position)
        terms.append(_term(text, negated, key, value, position, end))
    if not terms:
        raise FilterError("a line needs a term", text, text[:40], 0, "contains:…")
    if all(term.negated for term in terms):
        raise FilterError(
            "a line needs a term that is not negated", text, text.strip(), _start(text)
        )
    return Line(terms)


def parse_field(key: str, text: str) -> list[Line]:
    """Parse the value of `domain=` or `issuer=`: alternatives, separated by commas.

    Returns:
        One line for each; [] for an empty value.

    Raises:
        FilterError: the value is not valid.
    """
    lines: list[Line] = []
    if not text.strip():
        return lines
    position = 0
    parts = text.split(",")
    if len(parts) > MAX_FIELD_TERMS:
        raise FilterError(f"more than {MAX_FIELD_TERMS} terms", text, text[:40], 0, parameter=key)
    for part in parts:
        value, start = part.strip(), position + _start(part)
        position += len(part) + 1
        try:
            lines.append(Line([_term(text, False, key, value, start, start + len(value))]))
        except FilterError as error:
            error.parameter = key
            error.suggestion = error.suggestion.removeprefix(f"{key}:")
            raise
    return lines


def _start(text: str) -> int:
    """Return the position of the first character that is no blank."""
    return len(text) - len(text.lstrip())


def _tokens(text: str) -> Iterator[tuple[bool, str, str, int, int]]:
    """Yield negation, key, value, start and end of each term."""
    at = 0
    while True:
        at += _start(text[at:])
        if at == len(text):
            return
        start = at
        negated = text[at] == "-"
        at += negated
        key = _KEY.match(text, at)
        end = at + len(text[at:].split(maxsplit=1)[0]) if text[at:].strip() else at
        if key is None or key.end() > end:
            raise FilterError("a term is key:value", text, text[start:end], start,
                              _meant_term(text[at:end]))  # fmt: skip
        at = key.end()
        if text.startswith('"', at):
            value, end = _quoted(text, at)
        else:
            value = text[at:end]
        yield negated, key[1], value, start, end
        at = end


def _quoted(text: str, start: int) -> tuple[str, int]:
    """Read a value in quotes; return it, and the position after it."""
    value, at = "", start + 1
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and text[at + 1 : at + 2] in ("\\", '"'):
            at += 1
        value += text[at]
        at += 1
    if at == len(text):
        raise FilterError("the quote is not closed", text, text[start:], start, f'{text[start:]}"')
    if not text[at + 1 : at + 2].isspace() and at + 1 < len(text):
        raise FilterError("a blank must follow the quote", text, text[start : at + 2], start)
    return value, at + 1


def _meant_term(text: str) -> str:
    """Return a term for a text that is none."""
    word = text.strip('"*.:').lower()
    if _LABELS.fullmatch(word):
        if "." in word:
            return f"domain:{word}"
        if len(word) >= MIN_WORD:
            return f"contains:{word}"
    return ""


def _term(text: str, negated: bool, key: str, value: str, start: int, end: int) -> Term:
    """Return a term with its value in normal form."""

    def wrong(reason: str, suggestion: str = "") -> FilterError:
        return FilterError(reason, text, text[start:end], start, suggestion)

    if key not in ALL_TERMS:
        near = [_MEANT[key.lower()]] if key.lower() in _MEANT else []
        near = near or get_close_matches(key.lower(), ALL_TERMS, 1, 0.6)
        known = ", ".join(ALL_TERMS)
        raise wrong(f"unknown key {key!r}; known: {known}", f"{near[0]}:{value}" if near else "")
    if not value.strip():
        raise wrong("an empty value")
    if len(value) > MAX_VALUE:
        raise wrong(f"a value longer than {MAX_VALUE} characters")
    if not value.isprintable():
        raise wrong("a value with a control character")
    term = Term(key, value, negated=negated)
    try:
        _NORMALIZE[key](term)
    except _ValueError as error:
        raise wrong(*error.args) from None
    return term


class _ValueError(Exception):
    """Reason, and suggestion if there is one."""


def _domain(term: Term) -> None:
    host = _host(term, term.value.rstrip(".").lstrip("."))
    term.value = host


def _name(term: Term) -> None:
    if term.value.startswith("*."):
        raise _ValueError("a host name has no wildcard", f"domain:{term.value[2:]}")
    term.value = _host(term, term.value.rstrip("."))


def _host(term: Term, text: str) -> str:
    """Return a DNS name with A-labels."""
    host = to_ascii(text.removeprefix("*.").lower())
    if not _LABELS.fullmatch(host) or len(host) > MAX_NAME:
        inner = _IN_URL.match(text)
        guess = to_ascii(inner[1].lower()) if inner else ""
        found = _LABELS.fullmatch(guess) is not None and len(guess) <= MAX_NAME
        raise _ValueError("not a DNS name", f"{term.key}:{guess}" if found else "")
    return host


def _contains(term: Term) -> None:
    term.value = unicodedata.normalize("NFC", term.value.lower())
    if not _WORD.fullmatch(term.value):
        inner = term.value.strip("*")
        suggestion = f"contains:{inner}" if _WORD.fullmatch(inner) else ""
        raise _ValueError("only letters, digits, '-', '.' and '_' occur in names", suggestion)
    if len(term.value) < MIN_WORD:
        raise _ValueError(f"shorter than {MIN_WORD} characters")


def _like(term: Term) -> None:
    term.value = unicodedata.normalize("NFC", term.value.lower())
    if "." in term.value:
        label = max(term.value.split("."), key=len)
        raise _ValueError("a brand has no dot", f"like:{label}" if len(label) >= MIN_WORD else "")
    if not _WORD.fullmatch(term.value):
        raise _ValueError("only letters, digits, '-' and '_' occur in a brand")
    folded = fold(term.value)
    if len(compact(folded)) < MIN_WORD:
        raise _ValueError(f"shorter than {MIN_WORD} characters without hyphens")
    if len(compact(folded)) > MAX_BRAND:
        raise _ValueError(f"longer than {MAX_BRAND} characters, as many as a label has")
    if "." in folded or not folded.isprintable() or " " in folded:
        raise _ValueError("a brand that is read as punctuation")


def _regex(term: Term) -> None:
    if not term.value.isascii():
        raise _ValueError("names are compared as A-labels, which are ASCII")
    try:
        term.search, term.instructions = compile_regex(term.value)
    except ValueError as error:
        raise _ValueError(str(error)) from None
    term.literals = required_literals(term.value)


def _choice(*choices: str) -> Callable[[Term], None]:
    def check(term: Term) -> None:
        value = term.value.lower()
        if value not in choices:
            near = get_close_matches(value, choices, 1, 0.5)
            expected = " or ".join(choices)
            raise _ValueError(f"expected {expected}", f"{term.key}:{near[0]}" if near else "")
        term.value = value

    return check


def _issuer(term: Term) -> None:
    term.value = " ".join(term.value.split()).casefold()


def _operator(term: Term) -> None:
    term.value = normal_operator(term.value)
    if not term.value:
        raise _ValueError("a name without letters")


def normal_operator(name: str) -> str:
    """Return an operator's name without case, punctuation and repeated blanks."""
    return _NOT_ALPHANUMERIC.sub(" ", name.casefold()).strip()


_NORMALIZE: Final[dict[str, Callable[[Term], None]]] = {
    "domain": _domain,
    "name": _name,
    "contains": _contains,
    "like": _like,
    "regex": _regex,
    "idn": _choice("yes", "no"),
    "wildcard": _choice("yes", "no"),
    "issuer": _issuer,
    "operator": _operator,
    "type": _choice("precert", "final"),
}


class Filter:
    """Groups of alternative lines; a certificate passes if a line of each group holds.

    Attributes:
        groups: in normal form, without repeats.
        key: equal for equal filters.
    """

    __slots__ = ("groups", "key")

    def __init__(self, groups: Iterable[Iterable[Line]]) -> None:
        distinct: dict[frozenset[str], tuple[Line, ...]] = {}
        for group in groups:
            lines = {line.text: line for line in group}
            distinct[frozenset(lines)] = tuple(lines[text] for text in sorted(lines))
        self.groups = tuple(distinct.values())
        self.key = frozenset(distinct)

    @property
    def has_scans(self) -> bool:
        """Whether a term is a regex without a literal part."""
        return any(
            term.key == "regex" and not term.literals
            for group in self.groups
            for line in group
            for term in line.terms
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def parse_filter(
    domain: str = "",
    issuer: str = "",
    match: Sequence[str] = (),
    *,
    also: Sequence[Filter] = (),
    max_regexes: int = MAX_REGEXES,
    max_instructions: int = MAX_INSTRUCTIONS,
) -> Filter | None:
    """Parse the parameters of a request.

    Args:
        domain: names, separated by commas; "" for none.
        issuer: parts of issuers' names, separated by commas; "" for none.
        match: alternative lines.
        also: further filters that must hold.
        max_regexes: in `match`.
        max_instructions: of these regexes.

    Returns:
        None if no parameter has a term.

    Raises:
        FilterError: a parameter is not valid.
    """
    groups: list[Sequence[Line]] = [group for given in also for group in given.groups]
    for key, value in (("domain", domain), ("issuer", issuer)):
        if lines := parse_field(key, value):
            groups.append(lines)
    if len(match) > MAX_LINES:
        raise FilterError(f"more than {MAX_LINES} lines", match[MAX_LINES], match[MAX_LINES], 0)
    if match:
        groups.append(_parse_lines(match, max_regexes, max_instructions))
    return Filter(groups) if groups else None


def parse_named_filter(lines: Sequence[str]) -> Filter | None:
    """Parse the lines of a filter of the configuration, which may have more regexes.

    Raises:
        FilterError: a line is not valid, or there are too many.
    """
    return parse_filter(
        match=lines, max_regexes=MAX_NAMED_REGEXES, max_instructions=MAX_NAMED_INSTRUCTIONS
    )


def _parse_lines(texts: Sequence[str], max_regexes: int, max_instructions: int) -> list[Line]:
    """Parse lines; not further than to the limit of regexes, which take memory and time."""
    lines: list[Line] = []
    regexes = instructions = 0
    for text in texts:
        line = parse_line(text)
        regexes += sum(term.key == "regex" for term in line.terms)
        if regexes > max_regexes:
            raise FilterError(f"more than {max_regexes} regexes", text, text.strip(), _start(text))
        instructions += sum(term.instructions for term in line.terms)
        if instructions > max_instructions:
            reason = f"the regexes have more than {max_instructions} instructions together"
            raise FilterError(reason, text, text.strip(), _start(text))
        lines.append(line)
    return lines
