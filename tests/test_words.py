"""The words of the documents, docstrings, comments, log events and error texts.

Each entry of `WORDS` is a word that is not written here, with what to write instead. Text in
backticks is exempt: Redis fields, settings, metrics, label values, identifiers and quoted messages.
So are string literals of one word, which are such values too. Log events have a form of their own.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest

from tests.paths import ROOT

WORDS: Mapping[str, str] = {
    r"told": "reported, logged, sent, notified",
    r"tell(s|ing)?": "report, log, send, notify, distinguish",
    r"sa(y|ys|id|ying)": "state, report, contain, describe",
    r"(go|goes|going|went|gone) on": "continue, resume",
    r"g(ive|ives|iving|ave|iven) up": "stop, abandon, close, retire, drop",
    r"(be|been|is|are) had|had any more": "available, obtained",
    r"who(m|so)?ever": "each client, any process, all",
    r"what there is": "the available …, a list of …",
    r"as may be": "the limit, the maximum",
    r"so (many|long)(?! (as|that))": "a number, with its unit",
    r"lies?|lying|liars?": "misbehaves, misbehaviour, violation; is (of a place)",
    r"behind (it|them|this|that|these|those|any|one|everything)": "after",
    r"(is|are|was|were) over(?=[\s.,;:)]*($|[.,;:)]|\b(and|or|when|since|once|then|if)\b))":
        "has ended, is retired, is complete",
    r"let(s|ting)? in": "admit",
    r"turn(s|ed|ing)? away": "reject",
    r"harm(s|ed|less|ful|ing)?": "damage, safe, has no effect",
    r"(stand|stands|stood|standing)(?!-)": "is, represents, position",
    r"likewise": "the same, also",
    r"meanwhile": "since, during this time",
    r"patien(ce|t)": "timeout",
    r"look(s|ed|ing)?(?![ -]ups?\b)": "poll, read, collect, check, resemble",
    r"ask(s|ed|ing)?": "request, query, read",
    r"(some|any|no|every)body(?!')": "a client, no process, each reader",
    r"by itself": "automatically, alone",
}  # fmt: skip
"""Regular expression of a word or phrase -> what to write instead."""

NAMES: Mapping[str, str] = {
    r"(MOST|LARGEST)": "MAX_…",
    r"LEAST": "MIN_…",
    r"LIFE": "TTL",
    r"PATIENCE": "TIMEOUT_SECS",
    r"(BEAT|LOOKS?|TURNS?|BETWEEN|FRESH)": "…_INTERVAL_SECS, …_SECS",
    r"AT_ONCE": "MAX_…, …_BATCH",
    r"told": "events",
    r"said": "fields",
    r"patience": "timeout",
    r"asked": "requested",
    r"mine": "own",
    r"who": "the role: client, owner, key",
}
"""Regular expression of a constant's part or of a variable -> what to call it instead."""

EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("services/simlog/api/log_list.py", "lie"): "a field of the control API",
    ("tests/simlog/api/test_control.py", "lie"): "the same",
}
"""File and word -> why it is right there."""

EVENT_RULE = "write a literal `<object> <past participle>` of 2 to 6 words, values as fields"
"""The form of log events: stable identifiers, for alerts."""

_LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}
_EVENT = re.compile(
    r"(?!.*\b(is|are|was|were|has|have|had|does|do|the|an?|it|again|until|that|cannot)\b)"
    r"[a-z0-9]+([ -][a-z0-9]+){1,5}"
)
_FLAGS = re.IGNORECASE
_WORDS = {re.compile(rf"(?<![\w-])(?:{word})(?![\w-])", _FLAGS): to for word, to in WORDS.items()}
_NAMES = {re.compile(rf"_?(?:.*_)?{name}(?:_.*)?|_?{name}"): to for name, to in NAMES.items()}
_CODE = re.compile(r"``.+?``|`[^`]+`|https?://\S+|\]\([^)]*\)|<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def files() -> list[Path]:
    python = (
        path
        for folder in ("libs", "services", "bench", "docs", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "test_words.py"
    )
    return sorted(
        chain(
            [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "Makefile"],
            (ROOT / "docs").glob("*.md"),
            (ROOT / "libs").rglob("*.lua"),
            (ROOT / "deploy/prometheus").glob("*.y*ml"),
            python,
        )
    )


def blanked(text: str, pattern: re.Pattern[str]) -> str:
    """Replace what matches by a dot and its line breaks: no mark that could begin code."""
    return pattern.sub(lambda match: "·" + "\n" * match[0].count("\n"), text)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Each piece of prose in a file, with its first line."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        yield from python_prose(text)
    elif path.suffix == ".md":
        yield 1, blanked(text, _FENCE)
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.match(r"\$ .*? # (.*)", line):
                yield number, match[1]
    else:
        comment = {".lua": r"--(.*)", ".yml": r"#(.*)|(?:summary|description): (.*)"}
        pattern = re.compile(comment.get(path.suffix, r"#(.*)"))
        for number, line in enumerate(text.splitlines(), 1):
            if match := pattern.search(line):
                yield number, next(filter(None, match.groups()), "")


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings, comments and string literals of several words."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    inside = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            inside |= set(node.values)
            parts = (str(getattr(value, "value", "…")) if isinstance(value, ast.Constant) else "…"
                     for value in node.values)  # fmt: skip
            yield node.lineno, "".join(parts)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node not in inside
            and " " in node.value.strip()
        ):
            yield node.lineno, node.value


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Variables, arguments and constants of a Python file."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.lineno, node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.lineno, node.attr
            elif isinstance(node, ast.arg):
                yield node.lineno, node.arg


def log_events(path: Path) -> Iterator[tuple[int, ast.expr]]:
    """Line and first argument of each call that logs."""
    if path.suffix == ".py" and not path.is_relative_to(ROOT / "tests"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log" | "_log"), attr=level),
                    args=[event, *_],
                ) if level in _LEVELS:
                    yield node.lineno, event


def findings(path: Path) -> list[str]:
    name = str(path.relative_to(ROOT))
    found = []
    for first, text in prose(path):
        plain = blanked(text, _CODE)
        for word, to in _WORDS.items():
            for match in word.finditer(plain):
                line = first + plain.count("\n", 0, match.start())
                if (name, match[0].lower()) not in EXCEPTIONS:
                    found.append(f"{name}:{line}: {match[0]!r}: write {to}")
    for line, variable in names(path):
        for pattern, to in _NAMES.items():
            if pattern.fullmatch(variable):
                found.append(f"{name}:{line}: {variable}: call it {to}")
    for line, event in log_events(path):
        if not (isinstance(event, ast.Constant) and _EVENT.fullmatch(str(event.value))):
            found.append(f"{name}:{line}: log event {ast.unparse(event)}: {EVENT_RULE}")
    return sorted(set(found))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_words(path: Path) -> None:
    found = findings(path)
    assert found == [], "\n".join(found)


def test_the_check_finds_a_word_and_spares_code(tmp_path: Path) -> None:
    source = 'X = f"{1} goes on"\n\n\ndef f() -> str:\n    """Say `told`."""\n    return "lying"\n'
    assert [text for _, text in python_prose(source)] == ["… goes on", "Say `told`."]
    hits = [word.pattern for word in _WORDS for _, text in python_prose(source)
            if word.search(blanked(text, _CODE))]  # fmt: skip
    assert len(hits) == 2


def test_a_block_of_code_hides_no_span_after_it() -> None:
    plain = blanked(blanked("```\nX\n```\n`lying` told `b`\n", _FENCE), _CODE)
    assert [match[0] for word in _WORDS for match in word.finditer(plain)] == ["told"]


if __name__ == "__main__":
    for path in files():
        for finding in findings(path):
            print(finding)
