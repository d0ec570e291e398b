"""The index finds exactly what the naive evaluator finds."""

import random
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ctfilter import Certificate, Evaluator, Filter, Index, IndexFull, parse_filter, parse_line
from ctfilter import index as index_module
from ctfilter.index import MAX_SCANS, _chunks, selectivity, size_of
from ctfilter.matching import holds
from ctfilter.names import registrable_label, to_unicode
from ctfilter.regex import MAX_MEMORY_BYTES
from ctfilter.words import WordIndex
from tests.ctfilter import naive
from tests.ctfilter.naive import Cert, Term

FAST = settings(
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)
"""Without the phase that explains a failure, which traces every line."""

BRANDS = ("paypal", "amazon", "münchen", "dhl", "walmart", "яндекс", "b0oking", "pay-pal")
LABELS = (
    *BRANDS, "www", "login", "secure-login", "paypa1", "arnazon", "paypl", "amzaon", "vvalmart",
    "a", "xn--80ak6aa92e", "xn--mnchen-3ya", "xn--", "xn--a_b", "rnunchen", "\u0430mazon", "WWW",
    "mail_1", "m",
    "i0", "\ufb00", "x" * 63, "y" * 64,
)  # fmt: skip
SUFFIXES = (
    "com", "co.uk", "github.io", "ck", "www.ck", "foo.ck", "kobe.jp", "city.kobe.jp", "c.kobe.jp",
    "example", "xn--p1ai", "рф", "compute.amazonaws.com", "de",
)  # fmt: skip
REGEXES = (
    "paypal", "^www", r"pay\w*l", "(login|secure)-", "a|b", r"\d", "[a-c]+$", "amazon.*com",
    "(?i)PAY(pal|pl)", "secure(-login)?", r"x{3,}", "log(in)+", r"\x70aypal", ".", "^$", "[^a-z]",
)  # fmt: skip
ISSUERS = ("Let's Encrypt", "R10", "Google  Trust Services", "GTS", "", "DigiCert Inc", "\u017f CA")
OPERATORS = ("Google", "Let's Encrypt", "Cloudflare, Inc.", "")

MAKERS = {
    "contains": (*BRANDS, "aypa", "com", "zon"),
    "like": BRANDS,
    "regex": REGEXES,
    "idn": ("yes", "no"),
    "wildcard": ("yes", "no"),
    "issuer": ("let's", "R10", "inc", "s"),
    "operator": OPERATORS[:3],
    "type": ("precert", "final"),
}

labels = st.sampled_from(LABELS) | st.text("abpy01lmrnw-ä", min_size=1, max_size=8)
hosts = st.builds(
    lambda parts, suffix: ".".join([*parts, suffix]),
    st.lists(labels, max_size=3),
    st.sampled_from(SUFFIXES),
)
names = (
    hosts
    | hosts.map("*.{}".format)
    | hosts.map(str.upper)
    | hosts.map("{}.".format)
    | st.sampled_from(
        ["", ".", "*", "*.", "a..b", "*.*.com", "x\ny.com", "a b", "1.2.3.4", "l" * 254]
    )
)
certs = st.builds(
    Cert,
    st.lists(names, max_size=6).map(tuple),
    st.sampled_from(ISSUERS),
    st.sampled_from(ISSUERS),
    st.sampled_from(OPERATORS),
    st.booleans(),
)
host_values = hosts.filter(lambda host: parses("domain", host))
words = st.sampled_from(BRANDS) | st.text("abpyl.-", min_size=3, max_size=5)
terms = st.one_of(
    st.builds(Term, st.just("domain"), host_values, st.booleans()),
    st.builds(Term, st.just("name"), host_values, st.booleans()),
    st.builds(Term, st.just("contains"), words, st.booleans()),
    st.builds(Term, st.just("like"), st.sampled_from(BRANDS), st.booleans()),
    st.builds(Term, st.just("regex"), st.sampled_from(REGEXES), st.booleans()),
    st.builds(Term, st.just("idn"), st.sampled_from(["yes", "no"]), st.booleans()),
    st.builds(Term, st.just("wildcard"), st.sampled_from(["yes", "no"]), st.booleans()),
    st.builds(
        Term, st.just("issuer"), st.sampled_from(["let's", "R10", "inc", "s"]), st.booleans()
    ),
    st.builds(Term, st.just("operator"), st.sampled_from(OPERATORS[:3]), st.booleans()),
    st.builds(Term, st.just("type"), st.sampled_from(["precert", "final"]), st.booleans()),
)
lines = st.lists(terms, min_size=1, max_size=4).filter(
    lambda line: not all(term.negated for term in line)
)
groups = st.lists(st.lists(lines, min_size=1, max_size=4), min_size=1, max_size=3)


def parses(key: str, value: str) -> bool:
    try:
        parse_line(naive.quoted(Term(key, value)))
    except ValueError:
        return False
    return True


def text(line: Sequence[Term]) -> str:
    return " ".join(map(naive.quoted, line))


def filter_of(grouped: list[list[list[Term]]]) -> Filter:
    return Filter([[parse_line(text(line)) for line in group] for group in grouped])


def certificate(cert: Cert) -> Certificate:
    return Certificate(
        cert.names, cert.issuer_name, cert.issuer_organization, cert.operator,
        precertificate=cert.precertificate,
    )  # fmt: skip


@settings(FAST, max_examples=100)
@given(
    st.lists(groups, min_size=1, max_size=12), st.lists(certs, min_size=1, max_size=6), st.data()
)
def test_index_equals_the_naive_evaluator(
    filters: list[list[list[list[Term]]]], seen: list[Cert], data: st.DataObject
) -> None:
    index = Index()
    present: dict[Filter, list[list[list[Term]]]] = {}
    for grouped in filters:
        made = filter_of(grouped)
        index.add(made)
        present[made] = grouped
    for cert in seen:
        passed = index.lookup(certificate(cert))
        for made in present:
            assert Evaluator(made).matches(certificate(cert)) == passed.get(made, [])
        expected = {made for made, grouped in present.items() if naive.passes(grouped, cert)}
        assert set(passed) == expected, (set(passed) ^ expected,)
        for made, matches in passed.items():
            grouped = present[made]
            of_names = sorted(
                (name, parse_line(text(line)).text)
                for line in {parse_line(text(li)).text: li for g in grouped for li in g}.values()
                for name in naive.names_held(line, cert)
                if naive.line_holds(line, cert)
            )
            assert sorted(pair for pair in matches if pair[0] is not None) == of_names, (
                matches,
                of_names,
            )
        leaving = data.draw(st.lists(st.sampled_from(sorted(present, key=repr_of)), max_size=3))
        for made in leaving:
            index.remove(made)
            present.pop(made, None)
        if not present:
            break


def drawn_host(chance: random.Random) -> str:
    parts = chance.choices(LABELS, k=chance.randint(0, 2))
    return ".".join([*parts, chance.choice(SUFFIXES)])


def drawn_term(chance: random.Random) -> Term:
    key = chance.choice([*MAKERS, *MAKERS, "domain", "name"])
    if key not in MAKERS:
        value = drawn_host(chance)
        while not parses(key, value):
            value = drawn_host(chance)
    else:
        value = chance.choice(MAKERS[key])
    return Term(key, value, chance.random() < 0.2)


def drawn_line(chance: random.Random) -> list[Term]:
    line = [drawn_term(chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
    return line if any(not term.negated for term in line) else drawn_line(chance)


def drawn_certificate(chance: random.Random) -> Cert:
    forms = ("{}", "{}", "{}", "*.{}", "{}.")
    names = [chance.choice(forms).format(drawn_host(chance)) for _ in range(chance.randint(0, 5))]
    if chance.random() < 0.2:
        names[1:1] = [chance.choice(["", "*", "a..b", "x\ny.com", "PAYPAL.com", "l" * 254])]
    name, organization = chance.choices(ISSUERS, k=2)
    precertificate = chance.random() < 0.5
    return Cert(tuple(names), name, organization, chance.choice(OPERATORS), precertificate)


def test_many_filters_in_one_index() -> None:
    """The same without Hypothesis: in two seconds, and always with the same filters."""
    chance = random.Random(11)
    index = Index()
    present: dict[Filter, Evaluator] = {}
    for number in range(90):
        groups = range(chance.choice((1, 1, 2)))
        made = filter_of(
            [[drawn_line(chance) for _ in range(chance.randint(1, 3))] for _ in groups]
        )
        index.add(made)
        present[made] = Evaluator(made)
        if number % 3 == 2:
            leaving = chance.choice(list(present))
            index.remove(leaving)
            index.remove(leaving)
            del present[leaving]
        for cert in [drawn_certificate(chance) for _ in range(3)]:
            expected = {
                each: found
                for each, evaluator in present.items()
                if (found := evaluator.matches(certificate(cert)))
            }
            assert index.lookup(certificate(cert)) == expected
    assert set(index.filters) == set(present)
    for made in list(present):
        index.remove(made)
    assert index.lookup(certificate(Cert(("paypal.com",), "R10"))) == {}
    assert_empty(index)


@pytest.mark.parametrize(
    "line",
    [
        *("domain:co.uk", "domain:com", "name:www.example", "contains:aypa", "regex:log(in)+"),
        *("contains:.example", "like:example", "regex:www.exam"),
        *("like:paypal", "like:amazon", "idn:yes", "idn:no", "wildcard:yes", "wildcard:no"),
        *("regex:[a-c]+$", "issuer:inc", "operator:google", "type:precert", "type:final"),
        *("like:walmart -domain:com", "domain:com issuer:r10 -wildcard:yes"),
    ],
)
def test_one_filter_alone(line: str) -> None:
    """No other filter's dictionary or automaton leads to it."""
    chance = random.Random(line)
    index, made = Index(), parse_filter(match=[line])
    assert made is not None
    index.add(made)
    evaluator = Evaluator(made)
    drawn = [drawn_certificate(chance) for _ in range(250)]
    drawn += [Cert(("x.www.example", "*.example", "www.example", "WWW.EXAMPLE."))]
    drawn += [Cert((odd, "www.example", "b.com")) for odd in ("", "a\nb", "a\nb\nc", "a\nb\nc\nd")]
    found = [evaluator.matches(certificate(cert)) for cert in drawn]
    assert [index.lookup(certificate(cert)).get(made, []) for cert in drawn] == found
    assert any(found)
    index.remove(made)
    assert_empty(index)


@pytest.mark.parametrize("label", ["xn--mnchn-kva", "XN--MNCHN-KVA", "munchn", "mumchen"])
def test_a_brand_one_edit_from_a_label(label: str) -> None:
    made = parse_filter(match=["like:m\u00fcnchen"])
    assert made is not None
    index = Index()
    index.add(made)
    name = f"www.{label}.de"
    assert index.lookup(certificate(Cert((name,)))) == {made: [(name, "like:m\u00fcnchen")]}
    assert index.lookup(certificate(Cert(("www.mchen.de", "mnche.de")))) == {}


@pytest.mark.parametrize("label", ["\u0430mazon-login", "\u0430mazon_login"])
def test_a_name_that_is_not_ascii_may_look_like_a_brand(label: str) -> None:
    """With and without an A-label."""
    made = parse_filter(match=["like:amazon"])
    assert made is not None
    index = Index()
    index.add(made)
    name = f"{label}.com"
    assert index.lookup(certificate(Cert((name,)))) == {made: [(name, "like:amazon")]}


SURROGATE = "xn--bcher-kva-account-1014f"
"""Its Punycode has U+DC8E, which no UTF-8 has."""


@pytest.mark.parametrize("line", ["contains:account", "like:paypal", "regex:acc.*nt", "idn:yes"])
def test_a_label_that_decodes_to_no_characters_remains(line: str) -> None:
    name = f"www.{SURROGATE}.example"
    assert to_unicode(name) == name
    index, made = Index(), parse_filter(match=[line])
    assert made is not None
    index.add(made)
    found = index.lookup(certificate(Cert((name,))))
    assert found == {made: [(name, line)]} if line != "like:paypal" else found == {}
    assert Evaluator(made).matches(certificate(Cert((name,)))) == found.get(made, [])


def test_issuers_that_were_seen_are_bounded() -> None:
    made = parse_filter(match=["issuer:ca-"])
    assert made is not None
    index = Index()
    index.add(made)
    for number in range(5000):
        assert index.lookup(certificate(Cert(("a.example",), f"CA-{number}")))
        assert len(index._issuers_seen) == number % 4096 + 1


def test_terms_are_ordered_by_selectivity() -> None:
    terms = [
        *("name:a.example", "domain:a.example", f"contains:{'a' * 31}", f"like:{'a' * 30}"),
        *("contains:aaaa", "like:aaa", "regex:abc", "domain:co.uk", "domain:com", "issuer:inc"),
        *("idn:yes", "operator:google", "type:final", "wildcard:no", "idn:no", "regex:a|b"),
    ]
    found = [selectivity(parse_line(term).terms[0]) for term in terms]
    assert found == sorted(found, reverse=True)
    assert [first == second for first, second in pairwise(found)] == [
        *(False, False, True, False, False, False, False, True),
        *(False, False, False, False, True, False, False),
    ]


def test_the_size_of_a_filter_grows_with_its_text_and_its_regexes() -> None:
    sizes = [
        size_of(filter_of([[[Term("contains", "abcd")]]])),
        size_of(filter_of([[[Term("contains", "abcde")]]])),
        size_of(filter_of([[[Term("regex", "abcd....")]]])),
    ]
    assert sizes[0] == 3000 + 200 * len("contains:abcd")
    assert sizes[1] - sizes[0] == 200
    assert sizes[2] - sizes[0] == MAX_MEMORY_BYTES + 200
    likes = [size_of(filter_of([[[Term("like", "a" * length)]]])) for length in (10, 11)]
    assert likes[1] - likes[0] == 200 + 400


@pytest.mark.parametrize("longest", [30, 3000, 5000, 20_000])
def test_names_are_searched_in_parts_of_whole_lines(longest: int) -> None:
    chance = random.Random(longest)
    for count in (1, 2, 5, 400):
        lines = [b"a" * chance.randint(1, longest) for _ in range(count)]
        text = b"\n".join(lines)
        parts = list(_chunks(text))
        assert b"\n".join(part for _, part in parts) == text
        firsts = [sum(part.count(b"\n") + 1 for _, part in parts[:at]) for at in range(len(parts))]
        assert [first for first, _ in parts] == firsts
        assert all(len(part) <= 4096 or b"\n" not in part for _, part in parts)
        assert len(parts) <= 1 + 2 * len(text) // 4096


def assert_empty(index: Index) -> None:
    """No filter, line or word is left; the issuers that occurred may be."""
    while index.place_next():
        pass
    remaining = {
        name: value
        for name, value in vars(index).items()
        if not isinstance(value, WordIndex) and name not in ("_longest_edited", "_issuers_seen")
    }
    assert not any(remaining.values()), remaining
    assert not any(len(value) for value in vars(index).values() if isinstance(value, WordIndex))


def repr_of(made: Filter) -> str:
    return repr(sorted(sorted(group) for group in made.key))


def test_parts_have_the_number_of_their_first_line() -> None:
    """Also where empty lines are at their ends."""
    chance = random.Random(1)
    for _ in range(300):
        sizes = [chance.choice((0, 0, 1, 100, 5000)) for _ in range(60)]
        wanted = [b"x" * size for size in sizes]
        at, parts = 0, list(_chunks(b"\n".join(wanted)))
        for first, part in parts:
            assert first == at
            found = part.split(b"\n")
            assert found == wanted[at : at + len(found)]
            at += len(found)
        assert at == len(wanted)


@settings(FAST, max_examples=200)
@given(lines, certs)
def test_definition_equals_the_naive_evaluator(line: list[Term], cert: Cert) -> None:
    assert holds(parse_line(text(line)), certificate(cert)) == naive.line_holds(line, cert)


@settings(FAST, max_examples=200)
@given(hosts)
@example("www.ck")
@example("a.b.kobe.jp")
def test_registrable_label(host: str) -> None:
    assert registrable_label(host) == naive.registrable(host)


def test_thousands_of_filters_that_join_and_leave() -> None:
    chance = random.Random(7)
    alphabet = "abcde"

    def word() -> str:
        return "".join(chance.choices(alphabet, k=chance.randint(3, 5)))

    index = Index()
    present: dict[Filter, list[list[list[Term]]]] = {}
    for step in range(3000):
        if chance.random() < 0.6:
            key = chance.choice(["domain", "contains", "like", "name", "regex"])
            value = f"{word()}.{word()}" if key in ("domain", "name") else word()
            grouped = [[[Term(key, value)]]]
            made = filter_of(grouped)
            index.add(made)
            present[made] = grouped
        elif present:
            made = chance.choice(list(present))
            index.remove(made)
            del present[made]
        if step % 60 == 0:
            cert = Cert(tuple(f"{word()}{word()}.{word()}.{word()}" for _ in range(3)))
            expected = {made for made, g in present.items() if naive.passes(g, cert)}
            assert set(index.lookup(certificate(cert))) == expected
    for made in list(present):
        index.remove(made)
    assert index.lookup(certificate(Cert(("abc.example",)))) == {}
    assert_empty(index)


def test_many_names_that_contain_many_words_are_found_in_parts() -> None:
    index = Index()
    wanted = parse_filter(match=[f"contains:{'a' * size}" for size in range(3, 60)])
    assert wanted is not None
    index.add(wanted)
    cert = Cert(tuple(f"{'a' * 60}.{number}.example" for number in range(300)))
    matches = index.lookup(certificate(cert))[wanted]
    assert len(matches) == 57 * 300
    assert [name for name, _ in matches] == [name for name in cert.names for _ in range(57)]


def test_a_domain_and_an_issuer_must_both_hold() -> None:
    index = Index()
    made = parse_filter("a.com, b.com", "encrypt", ["type:final", "type:precert wildcard:yes"])
    assert made is not None
    index.add(made)
    cert = Cert(("x.b.com", "*.c.com"), "R3", "Let's Encrypt", "", True)
    assert index.lookup(certificate(cert)) == {
        made: [
            ("x.b.com", "domain:b.com"),
            ("*.c.com", "wildcard:yes type:precert"),
            (None, "issuer:encrypt"),
        ]
    }
    for other in (cert._replace(issuer_organization=""), cert._replace(names=("x.b.com",))):
        assert index.lookup(certificate(other)) == {}


def test_regexes_without_literals_are_limited() -> None:
    index = Index()
    for number in range(MAX_SCANS):
        index.add(filter_of([[[Term("regex", f"^a{number}?$")]]]))
    first = next(iter(index.filters))
    more = filter_of([[[Term("regex", "z$")]]])
    with pytest.raises(IndexFull, match="100"):
        index.add(more)
    assert more not in index.filters
    index.add(filter_of([[[Term("regex", "^literal")]]]))
    index.remove(first)
    index.add(more)
    assert index.scans == MAX_SCANS


def test_two_filters_share_a_line() -> None:
    index = Index()
    one, two = parse_filter("a.com"), parse_filter(match=["domain:a.com", "domain:b.com"])
    assert one is not None
    assert two is not None
    index.add(one)
    index.add(two)
    index.add(one)
    index.remove(one)
    assert set(index.lookup(certificate(Cert(("a.com",))))) == {two}


@pytest.mark.parametrize("count", [1, 100, 3000])
def test_size_of_a_filter_is_an_upper_estimate(count: int) -> None:
    made: list[Any] = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        index = Index()
        given_filter = parse_filter(
            match=[
                f"like:brandname{number} -domain:brand{number}.example" for number in range(count)
            ]
        )
        assert given_filter is not None
        index.add(given_filter)
        made.append(index)
        index.lookup(certificate(Cert(("a.example",))))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used <= size_of(given_filter) + 200_000


def test_a_long_brand_is_counted() -> None:
    lines = [f"like:{number:04d}{'x' * 59}" for number in range(200)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = parse_filter(match=lines)
        assert made is not None
        index = Index()
        index.add(made)
        index.lookup(certificate(Cert(("a.example",))))
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used <= size_of(made)


def test_lines_are_placed_and_removed_in_slices() -> None:
    """What leaves before it is placed, or joins again before it is removed, is found as always."""
    lines = [f"like:brandname{number:03d}" for number in range(200)]
    one, two = parse_filter(match=lines[:150]), parse_filter(match=lines[50:])
    assert one is not None
    assert two is not None
    index = Index()

    def found(label: str) -> set[Filter]:
        return set(index.lookup(certificate(Cert((f"{label}.com",)))))

    index.add(one)
    assert index.place_next()
    assert index.place_next()
    index.remove(one)
    assert index.place_next()
    index.add(two)
    index.add(one)
    assert found("brandnam000") == {one}
    assert found("brandnam100") == {one, two}
    assert not index.place_next()
    index.remove(one)
    assert found("brandnam000") == set()
    assert found("brandnam100") == {two}
    index.remove(two)
    slices = 0
    while index.place_next():
        slices += 1
    assert slices > 150 * 13 // 300
    assert not index._edits
    assert not index._folded
    assert not index._entries


def test_what_leaves_before_it_is_placed_is_dropped_and_look_ups_remove_nothing() -> None:
    """What many filters that joined and left leave behind would delay each look-up."""
    lines = [f"like:brandname{number:03d}" for number in range(200)]
    one, two = parse_filter(match=lines[:100]), parse_filter(match=lines)
    assert one is not None
    assert two is not None
    index = Index()
    index.add(one)
    while index.place_next():
        pass
    index.add(two)
    assert len(index._to_place) == 100
    index.remove(two)
    assert len(index._to_place) == 0
    assert not index.place_next()
    index.remove(one)
    assert index.lookup(certificate(Cert(("brandname000.com",)))) == {}
    assert len(index._to_remove) == 100
    index.add(one)
    assert set(index.lookup(certificate(Cert(("brandname000.com",))))) == {one}
    index.remove(one)
    assert_empty(index)


def test_the_instructions_of_regexes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = parse_filter(match=["regex:abc[0-9]x"]), parse_filter(match=["regex:abd[0-9]x"])
    assert one is not None
    assert two is not None
    assert index_module.MAX_INSTRUCTIONS == 20_480, "as docs/filters.md states"
    index = Index()
    index.add(one)
    monkeypatch.setattr(index_module, "MAX_INSTRUCTIONS", index.instructions)
    with pytest.raises(IndexFull, match="instructions"):
        index.add(two)
    monkeypatch.setattr(index_module, "MAX_INSTRUCTIONS", 2 * index.instructions)
    index.add(two)
    index.remove(two)
    index.add(two, limited=False)
    index.remove(one)
    index.remove(two)
    assert index.instructions == 0


def test_the_cost_of_a_line_is_shared_and_leaves_out_its_longest_time() -> None:
    times = iter([0.0, 1.0, 0.0, 2.0, 0.0, 50.0])
    index = Index(lambda: next(times))
    line = "domain:example regex:^a"
    filters = [_filter(line, f"contains:other{number}") for number in range(3)]
    for each in filters:
        index.add(each)
    for _ in range(3):
        index.lookup(Certificate(("b.example",)))
    assert index.take_costs() == dict.fromkeys(filters, 1.0)
    assert not index.take_costs()


def test_a_line_of_filters_that_are_set_aside_counts_once() -> None:
    index = Index()
    filters = [_filter("regex:^b.$", f"contains:other{number}") for number in range(3)]
    for each in filters:
        index.add(each)
    counted = index.scans, index.instructions
    assert counted[0] == 1
    for each in filters:
        index.set_aside(each)
    assert (index.scans, index.instructions) == counted
    for each in filters[:2]:
        index.add(each)
    for each in filters:
        index.remove(each)
    assert (index.scans, index.instructions) == (0, 0)


def test_a_filter_that_is_set_aside_is_not_found_and_counts_once_when_it_returns() -> None:
    index = Index()
    given = _filter("regex:^b.$")
    index.add(given)
    counted = index.scans, index.instructions
    certificate = Certificate(("b.c", "bc"))
    assert set(index.lookup(certificate)) == {given}
    index.set_aside(given)
    assert given not in index.filters
    assert index.lookup(certificate) == {}
    index.add(given)
    assert set(index.lookup(certificate)) == {given}
    assert (index.scans, index.instructions) == counted


def test_lines_with_further_terms_are_verified_also_while_their_time_is_measured() -> None:
    times = iter(float(at) for at in range(100))
    index = Index(lambda: next(times))
    names, issuers = _filter("domain:example regex:^a"), _filter("domain:example issuer:acme")
    plain = _filter("domain:example")  # verifying it takes no time worth measuring
    for each in (names, issuers, plain):
        index.add(each)
    were_placed = [index.is_placed]
    while index.place_next():
        pass
    assert [*were_placed, index.is_placed] == [False, True]
    for _ in range(3):
        found = index.lookup(Certificate(("a.example",), issuer_name="Acme CA"))
        assert set(found) == {names, issuers, plain}
    assert index.take_costs() == {names: 2.0, issuers: 2.0}
    index.lookup(Certificate(("a.example",)))
    index.lookup(Certificate(("a.example",)))
    index.forget_costs()
    assert index.take_costs() == {}


def test_a_name_of_another_script_needs_no_descriptor() -> None:
    """Codecs and tables are modules: some are loaded when they are first needed."""
    script = (
        "import resource; from ctfilter.names import normalize, to_unicode;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3));"
        "print(ascii(to_unicode(normalize('m\\xfcnchen.de'))))"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "'m\\xfcnchen.de'\n", "")


def _filter(*lines: str) -> Filter:
    made = parse_filter(match=lines)
    assert made is not None
    return made
