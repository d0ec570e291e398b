"""The text of filters: normal forms, errors and limits."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctfilter import FilterError, grammar, parse_filter, parse_line, parse_named_filter
from ctfilter.grammar import (
    ALL_TERMS,
    MAX_FIELD_TERMS,
    MAX_INSTRUCTIONS,
    MAX_LINE,
    MAX_LINE_REGEXES,
    MAX_LINES,
    MAX_REGEXES,
    MAX_TERMS,
    MAX_VALUE,
    parse_field,
)
from ctfilter.regex import compile_regex, required_literals
from tests.paths import ROOT

NORMAL = {
    "contains:acme -domain:acme.com": "-domain:acme.com contains:acme",
    "  contains:Acme\tcontains:acme ": "contains:acme",
    "domain:*.Example.COM.": "domain:example.com",
    "domain:..example.com": "domain:example.com",
    "domain:münchen.de": "domain:xn--mnchen-3ya.de",
    "domain:_dmarc.example.com": "domain:_dmarc.example.com",
    'name:"a.example"': "name:a.example",
    "contains:MÜNCHEN": "contains:münchen",
    "contains:u\u0308ber": "contains:über",
    "like:PayPal": "like:paypal",
    'issuer:"Let\'s  Encrypt"': 'issuer:"let\'s encrypt"',
    'issuer:"a \\"b\\" \\\\c"': 'issuer:"a \\"b\\" \\\\c"',
    'operator:"Cloudflare, Inc."': 'operator:"cloudflare inc"',
    "type:PRECERT": "type:precert",
    r"regex:^pay\.pal\d+$": r"regex:^pay\.pal\d+$",
    r'regex:"a \\d b"': r'regex:"a \\d b"',
    "-idn:no wildcard:yes": "-idn:no wildcard:yes",
}


@pytest.mark.parametrize("text", NORMAL)
def test_normal_form(text: str) -> None:
    line = parse_line(text)
    assert line.text == NORMAL[text]
    assert parse_line(line.text).text == line.text


ERRORS = [
    # line, part that is wrong, its position, reason, suggestion
    ("", "", 0, "needs a term", "contains:…"),
    ("acme", "acme", 0, "key:value", "contains:acme"),
    ("domain:a.com acme.com", "acme.com", 13, "key:value", "domain:acme.com"),
    ("*.acme.com", "*.acme.com", 0, "key:value", "domain:acme.com"),
    ("a", "a", 0, "key:value", ""),
    ("-", "-", 0, "key:value", ""),
    ("contains: acme", "contains:", 0, "empty value", ""),
    ('contains:""', 'contains:""', 0, "empty value", ""),
    ("-contains:acme", "-contains:acme", 0, "not negated", ""),
    ("domian:acme.com", "domian:acme.com", 0, "unknown key 'domian'", "domain:acme.com"),
    ("Domain:acme.com", "Domain:acme.com", 0, "unknown key 'Domain'", "domain:acme.com"),
    ("contians:acme", "contians:acme", 0, "unknown key", "contains:acme"),
    ("  host:acme.com", "host:acme.com", 2, "unknown key", "name:acme.com"),
    ("ca:acme", "ca:acme", 0, "unknown key", "issuer:acme"),
    ("zzz:acme", "zzz:acme", 0, "known: name, domain, contains", ""),
    ("domain:https://acme.com/login", "domain:https://acme.com/login", 0, "DNS name",
     "domain:acme.com"),
    ("domain:a..b", "domain:a..b", 0, "DNS name", ""),
    ("domain:a,b", "domain:a,b", 0, "DNS name", ""),
    ("name:*.acme.com", "name:*.acme.com", 0, "no wildcard", "domain:acme.com"),
    ("contains:ab", "contains:ab", 0, "shorter than 3", ""),
    ("contains:acme*", "contains:acme*", 0, "only letters", "contains:acme"),
    ('contains:"acme inc"', 'contains:"acme inc"', 0, "only letters", ""),
    ("like:o2", "like:o2", 0, "shorter than 3", ""),
    ("like:a-b", "like:a-b", 0, "shorter than 3", ""),
    ("like:paypal.com", "like:paypal.com", 0, "no dot", "like:paypal"),
    ("regex:(a", "regex:(a", 0, "RE2 does not accept", ""),
    (r"regex:a\pLb", r"regex:a\pLb", 0, "use [a-z]", ""),
    (r"regex:[^\P{Any}]", r"regex:[^\P{Any}]", 0, "use [a-z]", ""),
    ("regex:a.{257}b", "regex:a.{257}b", 0, "a count above 256", ""),
    ("regex:a.{0,99999999999}b", "regex:a.{0,99999999999}b", 0, "a count above 256", ""),
    ("regex:(.{99}){99}", "regex:(.{99}){99}", 0, "invalid repetition size", ""),
    ("regex:(.{9}){90}", "regex:(.{9}){90}", 0, "the pattern is too large", ""),
    ("regex:[a-z0-9-]{1,90}x", "regex:[a-z0-9-]{1,90}x", 0, "instructions of at most 256", ""),
    ("like:" + "m" * 64, "like:" + "m" * 64, 0, "longer than 63", ""),
    (r"regex:(a)\1", r"regex:(a)\1", 0, "RE2 does not accept", ""),
    ("regex:a(?=b)", "regex:a(?=b)", 0, "RE2 does not accept", ""),
    ("regex:münchen", "regex:münchen", 0, "A-labels", ""),
    ("idn:true", "idn:true", 0, "expected yes or no", ""),
    ("wildcard:y", "wildcard:y", 0, "expected yes or no", "wildcard:yes"),
    ("type:precertificate", "type:precertificate", 0, "precert or final", "type:precert"),
    ("operator:...", "operator:...", 0, "without letters", ""),
    ('issuer:"abc', '"abc', 7, "not closed", '"abc"'),
    ('issuer:"a"b', '"a"b', 7, "blank must follow", ""),
    ("issuer:a\x00b", "issuer:a\x00b", 0, "control character", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "term", "position", "reason", "suggestion"), ERRORS)
def test_errors(text: str, term: str, position: int, reason: str, suggestion: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_line(text)
    error = caught.value
    assert reason in error.reason
    assert (error.term, error.position, error.suggestion) == (term, position, suggestion)
    assert text[position:].startswith(term)
    assert error.value == text
    assert str(error).startswith("match: ")
    if suggestion and "…" not in suggestion and ":" in suggestion:
        parse_line(suggestion)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("domain", "", []),
        ("domain", "  ", []),
        ("domain", "a.com", ["domain:a.com"]),
        ("domain", " a.com , *.B.com,c.com. ", ["domain:a.com", "domain:b.com", "domain:c.com"]),
        ("domain", "ü.de", ["domain:xn--tda.de"]),
        ("issuer", "Let's Encrypt, DigiCert", ['issuer:"let\'s encrypt"', "issuer:digicert"]),
    ],
)
def test_fields(key: str, text: str, expected: list[str]) -> None:
    assert [line.text for line in parse_field(key, text)] == expected


@pytest.mark.parametrize(
    ("text", "term", "position", "suggestion"),
    [
        ("a.com,", "", 6, ""),
        (",", "", 0, ""),
        (".", ".", 0, ""),
        ("a.com, https://b.com/", "https://b.com/", 7, "b.com"),
        ("a.com,b c", "b c", 6, ""),
        (",".join(["a.com"] * (MAX_FIELD_TERMS + 1)), "a.com," * 6 + "a.co", 0, ""),
    ],
)
def test_errors_of_fields(text: str, term: str, position: int, suggestion: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(domain=text)
    error = caught.value
    assert (error.term, error.position, error.suggestion) == (term, position, suggestion)
    assert error.parameter == "domain"


def test_filters_are_equal_however_they_are_written() -> None:
    one = parse_filter("b.com, A.com", "", ["contains:acme idn:yes", "like:acme"])
    two = parse_filter("a.com,b.com.,a.com", "", ["like:ACME", "idn:yes  contains:acme"])
    assert one == two
    assert hash(one) == hash(two)
    assert one != parse_filter("a.com", "", ["like:ACME", "idn:yes  contains:acme"])
    assert parse_filter(match=["domain:a.com"]) == parse_filter("a.com")
    assert parse_filter() is None
    assert parse_filter("  ", "") is None


@pytest.mark.parametrize(
    "text",
    [
        "contains:" + "a" * (MAX_VALUE + 1),
        " ".join(f"contains:abc{n}" for n in range(MAX_TERMS + 1)),
        "a" * (MAX_LINE + 1),
        "regex:" + "(" * 2000 + ")" * 2000,
        "regex:(x{1000}){1000}",
        "regex:" + "x{1000}" * 30,
        'issuer:"' + '\\"' * 2000,
        "-" * MAX_LINE,
        "domain:" + "ü" * 253,
        "domain:" + "a." * 126 + "a" * 9,
    ],
)
def test_hostile_lines_are_errors(text: str) -> None:
    with pytest.raises(FilterError):
        parse_line(text)


def test_ten_thousand_lines_are_the_limit() -> None:
    lines = [f"contains:word{number}" for number in range(MAX_LINES)]
    made = parse_filter(match=lines)
    assert made is not None
    assert len(made.groups[0]) == MAX_LINES
    with pytest.raises(FilterError, match="10000 lines"):
        parse_filter(match=[*lines, "contains:more"])


def test_regexes_are_counted_before_they_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_one(pattern: str) -> tuple[Callable[[bytes], bool], int]:
        compiled.append(pattern)
        return bool, 1

    monkeypatch.setattr(grammar, "compile_regex", compile_one)
    terms = [f"regex:abc{number}" for number in range(MAX_LINE_REGEXES + 1)]
    assert len(parse_line(" ".join(terms[1:])).terms) == MAX_LINE_REGEXES
    with pytest.raises(FilterError, match="4 regexes in a line") as caught:
        parse_line(" ".join(terms))
    assert (caught.value.term, caught.value.position) == (terms[-1], 4 * len("regex:abc0 "))
    lines = [f"regex:abc{number}" for number in range(MAX_LINES)]
    assert parse_filter(match=lines[:MAX_REGEXES]) is not None
    compiled.clear()
    with pytest.raises(FilterError, match="more than 100 regexes") as caught:
        parse_filter(match=lines)
    assert len(compiled) == MAX_REGEXES + 1
    assert caught.value.value == lines[MAX_REGEXES]
    with pytest.raises(FilterError, match="more than 3 regexes"):
        parse_filter(match=lines[:4], max_regexes=3)


def test_the_regexes_of_a_filter_are_limited_together() -> None:
    lines = [f"regex:{letter}[a-z]{{120}}[0-9]" for letter in "abcdefghijklmnopqrstuvwxyz"]
    sizes = [parse_line(line).terms[0].instructions for line in lines]
    assert set(sizes) == {sizes[0]}
    fitting = MAX_INSTRUCTIONS // sizes[0]
    assert parse_filter(match=lines[:fitting]) is not None
    with pytest.raises(FilterError, match="2048 instructions together") as caught:
        parse_filter(match=lines)
    assert caught.value.value == lines[fitting]


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(login|signin|secure|account|verify)-[a-z0-9-]+\.(top|xyz|icu|click|shop)$",
        r"p[a4@]y[-_.]?p[a4]l",
        r"^[a-z0-9]{20,60}\.(com|net)$",
        "|".join(f"{letter}brandnumber" for letter in "abcdefghijklmnop"),
        r"[a-z0-9-]+\.duckdns\.org$",
        r"^[0-9a-f]{32}\.|^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.",
    ],
)
def test_patterns_of_brands_are_within_the_limits(pattern: str) -> None:
    compile_regex(pattern)


@given(
    st.text(max_size=60)
    | st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(["", "-"]),
            st.sampled_from([f"{key}:" for key in ALL_TERMS] + ["", ":", '"']),
            st.text('ab."\\ (*[é\u200d\u0130-', max_size=6),
        )
    ).map(" ".join)
)
def test_any_text_is_a_line_or_an_error(text: str) -> None:
    try:
        line = parse_line(text)
    except FilterError as error:
        caught = error
    else:
        assert parse_line(line.text).text == line.text
        return
    assert 0 <= caught.position <= len(text)
    assert text[caught.position :].startswith(caught.term)
    assert str(caught)


LITERALS = {
    "paypal": ("paypal",),
    "(paypal|amazon)-login": ("-login",),
    "pay.*login": ("login",),
    "a|b": (),
    "paypal|amazon": ("amazon", "paypal"),
    "paypal|a": (),
    r"pay\.pal+x": ("pay.pal",),
    "(?i)PayPal": ("paypal",),
    "(?P<name>secure)x*": ("secure",),
    "x{3}yz": ("xyz",),
    "(abc)?def": ("def",),
    "(abc){0,2}": (),
    "(abc)+": ("abc",),
    "^www\\d+\\.secure$": (".secure",),
    "ab+": (),
    "abc?": (),
    "abcd?": ("abc",),
    "[]abc]def": ("def",),
    "[^]abc]def": ("def",),
    "[[:alpha:]]abc": ("abc",),
    r"[\]abc]def": ("def",),
    r"\x41bcd": ("bcd",),
    r"\x{41}bcd": ("bcd",),
    r"\\pabc": ("\\pabc",),
    r"\101abc": ("abc",),
    r"\Qa|b\Ecde": (),
    r"\bfoo\b": ("foo",),
    "a{,2}bc": ("a{,2}bc",),
    "(((abc)))": ("abc",),
    "((((((((((((((((((((((abc))))))))))))))))))))))": (),
}


@pytest.mark.parametrize("pattern", LITERALS)
def test_literals_of_a_pattern(pattern: str) -> None:
    compile_regex(pattern)
    assert required_literals(pattern) == LITERALS[pattern]


PARTS = r"a b c abc ( ) | * + ? {2} {0,1} [ab] [^c] . ^ $ \. \w \d (?i) (?: - \x61 \b".split()  # noqa: SIM905


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(PARTS),
        max_size=10,
    ).map("".join),
    st.lists(st.text("abcx.-", max_size=12), max_size=6),
)  # fmt: skip
def test_a_match_contains_a_literal(pattern: str, texts: list[str]) -> None:
    try:
        search, _ = compile_regex(pattern)
    except ValueError:
        return
    literals = required_literals(pattern)
    if literals:
        for text in [*texts, "abcabc", "abc-abc", "aabbcc", "cab", "bca"]:
            if search(text.encode()):
                assert any(literal in text for literal in literals), (pattern, text, literals)


def test_the_list_to_begin_with_has_valid_lines() -> None:
    lines = (ROOT / "docs" / "filters-phishing.txt").read_text().splitlines()
    assert len(lines) > 10
    assert parse_filter(match=lines) is not None


def test_a_filter_of_the_configuration_may_have_more_regexes() -> None:
    lines = [f"regex:abc{number}[a-z]{{100}}" for number in range(101)]
    with pytest.raises(FilterError, match="instructions together"):
        parse_filter(match=lines)
    assert parse_named_filter(lines) is not None
    with pytest.raises(FilterError, match="20480 instructions together"):
        parse_named_filter(lines * 2)
