"""All filters of a process, each certificate looked up once.

Every distinct line has one anchor: its most selective positive term. A dictionary or an automaton
of all anchors of a kind finds the lines whose anchor holds for a name or a certificate. The other
terms of these lines are then verified:

    name                    dictionary of names, and of the wildcards that are valid for them
    domain                  dictionary of suffixes
    contains, regex         automaton of words; a regex by its literals
    like                    automaton of folded words; dictionary of brands with a character removed
    issuer                  dictionary of the issuers that occurred
    operator, type, idn, wildcard   dictionaries
    regex without literals  a list, see `MAX_SCANS`

A filter of several groups is anchored by the most selective of them. When one of its lines holds,
the other groups must have one too. Lines are shared by filters, and so are groups' other lines.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from ctfilter.grammar import CERTIFICATE_KEYS, Filter, Line, Term
from ctfilter.lookalike import MIN_EDITED, compact, fold, fold_ascii, within_one_edit
from ctfilter.matching import Certificate, holds_for_certificate, holds_for_name
from ctfilter.names import (
    MAX_NAME,
    SUFFIX_RULES,
    has_a_label,
    normalize,
    registrable_label,
    to_unicode,
)
from ctfilter.regex import MAX_MEMORY_BYTES
from ctfilter.words import WordIndex

MAX_SCANS: Final = 100
"""Lines with a regex that contains no literal."""

MAX_INSTRUCTIONS: Final = 20 * 1024
"""Instructions of all regexes: at worst, one costs a name of 60 characters 1 µs."""

_PLACED_KEYS: Final = 128  # at once, and as many removed: half a millisecond
_CHUNK_BYTES: Final = 4096  # of names that are searched at once: bounds the list of words found
_MAX_ISSUERS: Final = 4096  # remembered
_LINE_BYTES: Final = 3000
_CHARACTER_BYTES: Final = 200
_EDIT_BYTES: Final = 400  # for each text that a brand becomes by removing a character

Match = tuple[str | None, str]
"""Name and line: the name for which the line holds, None if the line has no name terms."""


class IndexFull(Exception):
    """The index has no place for a filter of this kind."""


class _Entry:
    """A line in the index.

    Attributes:
        line: of at least one filter.
        anchor: its most selective positive term.
        certificate_terms: to verify when the anchor was found.
        name_terms: to verify for a name when the anchor was found.
        has_names: whether the line has name terms.
        filters: filters that this line anchors -> their other groups.
        uses: groups that have the line.
    """

    __slots__ = (
        "anchor", "certificate_terms", "filters", "has_names", "line", "name_terms", "uses",
    )  # fmt: skip

    def __init__(self, line: Line) -> None:
        self.line = line
        self.anchor = max((term for term in line.terms if not term.negated), key=selectivity)
        # Of a regex, the index finds literals only.
        rest = [t for t in line.terms if t is not self.anchor or t.key == "regex"]
        self.certificate_terms = [term for term in rest if term.key in CERTIFICATE_KEYS]
        self.name_terms = [term for term in rest if term.key not in CERTIFICATE_KEYS]
        self.has_names = any(term.key not in CERTIFICATE_KEYS for term in line.terms)
        self.filters: dict[Filter, list[_Bucket]] = {}
        self.uses = 0


_Bucket = dict[_Entry, None]
_Found = dict[_Entry, set[int]]


def selectivity(term: Term) -> int:
    """Order terms by how few names they hold for."""
    match term.key:
        case "domain":
            return 20 if term.value in SUFFIX_RULES or "." not in term.value else 80
        case "contains" | "like":
            return 30 + min(len(term.value), 30)
        case "regex":
            return 29 + min(map(len, term.literals)) if term.literals else 0
        case "idn":
            return 12 if term.value == "yes" else 1
        case key:
            return {"name": 90, "issuer": 15, "operator": 10}.get(key, 5)


def size_of(given: Filter) -> int:
    """Return an upper estimate of the memory of a filter, in bytes."""
    return sum(
        _LINE_BYTES
        + _CHARACTER_BYTES * len(line.text)
        + MAX_MEMORY_BYTES * sum(term.key == "regex" for term in line.terms)
        + _EDIT_BYTES * sum(len(term.value) for term in line.terms if term.key == "like")
        for group in given.groups
        for line in group
    )


class Index:
    """The filters of a process.

    Args:
        clock: returns seconds, to measure how long lines take; None: they are not measured.

    Attributes:
        filters: filter -> its groups of entries.
        scans: lines with a regex without literals.
        instructions: of the regexes.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self.filters: dict[Filter, list[_Bucket]] = {}
        self.scans = self.instructions = 0
        self._to_place: _Bucket = {}
        self._to_remove: _Bucket = {}  # placed; no filter has them
        self._entries: dict[str, _Entry] = {}
        self._words: WordIndex[_Entry] = WordIndex()
        self._folded: WordIndex[_Entry] = WordIndex()
        self._issuers_seen: dict[tuple[str, str], list[_Bucket]] = {}
        # By the key of the anchor, then by what a name or a certificate shows.
        self._names: dict[str, _Bucket] = {}
        self._domains: dict[str, _Bucket] = {}
        self._edits: dict[str, _Bucket] = {}
        self._issuers: dict[str, _Bucket] = {}
        self._properties: dict[str, _Bucket] = {}
        self._longest_edited = 0
        self._aside: dict[Filter, tuple[int, int]] = {}  # scans and instructions
        # That verifying a line took in all, and the longest time.
        self._secs: dict[_Entry, tuple[float, float]] = {}

    def add(self, given: Filter, *, limited: bool = True) -> None:
        """Add a filter; without effect if the index has it.

        Args:
            given: the filter.
            limited: whether it counts against `MAX_SCANS` and `MAX_INSTRUCTIONS`.

        Raises:
            IndexFull: more lines have a regex without literals, or the regexes more instructions.
        """
        if given in self.filters:
            return
        self._forget_aside(given)
        lines = _lines(given)
        new = [line for text, line in lines.items() if text not in self._entries]
        scans, instructions = sum(map(_scans, new)), sum(map(_instructions, new))
        if limited and instructions and self.instructions + instructions > MAX_INSTRUCTIONS:
            raise IndexFull(
                f"this server already has regexes of {self.instructions} of at most "
                f"{MAX_INSTRUCTIONS} instructions"
            )
        if limited and scans and self.scans + scans > MAX_SCANS:
            raise IndexFull(
                f"this server already has {self.scans} of at most {MAX_SCANS} lines with a regex "
                "that contains no literal of three characters"
            )
        groups: list[_Bucket] = [dict.fromkeys(map(self._enter, group)) for group in given.groups]
        self.filters[given] = groups
        anchor = max(groups, key=lambda group: min(selectivity(entry.anchor) for entry in group))
        others = [group for group in groups if group is not anchor]
        for entry in anchor:
            entry.filters[given] = others

    def remove(self, given: Filter) -> None:
        """Remove a filter; without effect if the index does not have it."""
        self._forget_aside(given)
        for group in self.filters.pop(given, ()):
            for entry in group:
                entry.filters.pop(given, None)
                entry.uses -= 1
                if not entry.uses:
                    del self._entries[entry.line.text]
                    self.scans -= _scans(entry.line)
                    self.instructions -= _instructions(entry.line)
                    self._secs.pop(entry, None)
                    if entry in self._to_place:
                        del self._to_place[entry]
                    else:
                        self._to_remove[entry] = None

    def set_aside(self, given: Filter) -> None:
        """Remove a filter, which counts against the limits until it is added or removed again."""
        scans, instructions = self.scans, self.instructions
        self.remove(given)
        self._aside[given] = scans - self.scans, instructions - self.instructions
        self.scans, self.instructions = scans, instructions

    def _forget_aside(self, given: Filter) -> None:
        scans, instructions = self._aside.pop(given, (0, 0))
        self.scans -= scans
        self.instructions -= instructions

    @property
    def is_placed(self) -> bool:
        """Whether a look-up has nothing to place first."""
        return not self._to_place

    def place_next(self) -> bool:
        """Make some more lines ready to be found, and remove as much of what finds lines that left.

        A filter of many brands takes a while, in which a caller may do other things. A look-up
        places all that is left to be placed. It waits for no removal: what left has no filter.

        Returns:
            False if nothing was left.
        """
        worked = False
        for entries, present in ((self._to_place, True), (self._to_remove, False)):
            keys = 0
            while entries and keys < _PLACED_KEYS:
                entry, _ = entries.popitem()
                self._place(entry, present=present)
                keys += 1 + len(entry.anchor.value if entry.anchor.key == "like" else ())
            worked = worked or keys > 0
        return worked

    def lookup(self, certificate: Certificate) -> dict[Filter, list[Match]]:
        """Return the filters that a certificate passes, each with what matched."""
        while self._to_place:
            self.place_next()
        found: _Found = {}
        if self._properties or self._issuers:
            numbers = range(len(certificate.names))
            for bucket in self._certificate_buckets(certificate):
                for entry in bucket:
                    self._verify(entry, certificate, numbers, found)
        for entries, number in self._name_buckets(certificate.names):
            for entry in entries:
                self._verify(entry, certificate, (number,), found)
        passed: dict[Filter, list[Match]] = {}
        for entry in found:
            for given, others in entry.filters.items():
                if given not in passed and all(_meet(group, found) for group in others):
                    passed[given] = self._matches(given, found, certificate.names)
        return passed

    def _verify(
        self, entry: _Entry, certificate: Certificate, numbers: Iterable[int], found: _Found
    ) -> None:
        """Verify a line whose anchor holds, and measure how long it takes if it has other terms."""
        clock = self._clock
        if clock is None or not (entry.name_terms or entry.certificate_terms):
            _verify(entry, certificate, numbers, found)
        elif entry.uses:  # else it left, and is not removed yet
            began = clock()
            _verify(entry, certificate, numbers, found)
            spent = clock() - began
            total, longest = self._secs.get(entry, (0.0, 0.0))
            self._secs[entry] = total + spent, max(longest, spent)

    def take_costs(self) -> dict[Filter, float]:
        """Return the seconds that verifying lines took since the last call, by filter.

        A line of several filters counts for each of them in equal parts. The longest time of a line
        does not count: the process may have been stopped.
        """
        secs, self._secs = self._secs, {}
        costs: dict[Filter, float] = {}
        for given, groups in self.filters.items() if secs else ():
            lines = [entry for group in groups for entry in secs.keys() & group.keys()]
            if lines:
                times = ((*secs[entry], entry.uses) for entry in lines)
                costs[given] = sum((total - longest) / uses for total, longest, uses in times)
        return costs

    def forget_costs(self) -> None:
        """Have `take_costs` count from now on."""
        self._secs.clear()

    def _matches(self, given: Filter, found: _Found, names: Sequence[str]) -> list[Match]:
        """Return what matched of a filter: names in their order, then whole certificates."""
        entries = dict.fromkeys(
            entry
            for group in self.filters[given]
            for entry in (group if len(group) < len(found) else found)
            if entry in found and entry in group
        )
        by_name = sorted((number, e.line.text) for e in entries for number in found[e])
        whole = sorted(entry.line.text for entry in entries if not entry.has_names)
        return [(names[number], text) for number, text in by_name] + [(None, t) for t in whole]

    def _enter(self, line: Line) -> _Entry:
        """Return the entry of a line, which gets one more use."""
        entry = self._entries.get(line.text)
        if entry is None:
            entry = self._entries[line.text] = _Entry(line)
            self.scans += _scans(line)
            self.instructions += _instructions(line)
            self._to_place[entry] = None
        entry.uses += 1
        return entry

    def _place(self, entry: _Entry, *, present: bool) -> None:
        """Add an entry to what finds its anchor, or remove it."""
        term = entry.anchor
        match term.key:
            case "name":
                _put(self._names, _covering(term.value), entry, present=present)
            case "domain":
                _put(self._domains, [term.value], entry, present=present)
            case "contains":
                self._words.put([term.value], entry, present=present)
            case "regex" if term.literals:
                self._words.put(term.literals, entry, present=present)
            case "like":
                self._folded.put([fold(term.value)], entry, present=present)
                brand = compact(fold(term.value))
                if len(brand) >= MIN_EDITED:
                    self._longest_edited = max(self._longest_edited, len(brand))
                    _put(self._edits, _shortened(brand), entry, present=present)
            case "issuer":
                before = len(self._issuers)
                _put(self._issuers, [term.value], entry, present=present)
                if len(self._issuers) != before:
                    self._issuers_seen.clear()
            case "regex":
                _put(self._properties, ["scan"], entry, present=present)
            case _:
                _put(self._properties, [f"{term.key}:{term.value}"], entry, present=present)

    def _certificate_buckets(self, certificate: Certificate) -> Iterator[_Bucket]:
        """Yield the lines whose anchor is a certificate term that holds."""
        if self._properties:
            kind = "type:precert" if certificate.precertificate else "type:final"
            for key in (kind, f"operator:{certificate.normal_operator}"):
                if key in self._properties:
                    yield self._properties[key]
        if self._issuers:
            fields = certificate.issuer_name, certificate.issuer_organization
            buckets = self._issuers_seen.get(fields)
            if buckets is None:
                if len(self._issuers_seen) == _MAX_ISSUERS:
                    self._issuers_seen.clear()
                issuer = certificate.issuer
                buckets = [bucket for value, bucket in self._issuers.items() if value in issuer]
                self._issuers_seen[fields] = buckets
            yield from buckets

    def _name_buckets(self, names: Sequence[str]) -> Iterator[tuple[Iterable[_Entry], int]]:
        """Yield the lines whose anchor is a name term that holds, and the number of the name."""
        if not names:
            return
        texts, hosts, joined = _forms(names)
        if self._names:
            for number, text in enumerate(texts):
                if text in self._names:
                    yield self._names[text], number
        if self._domains or self._edits:
            yield from self._suffix_buckets(hosts)
        decoded = (
            {number: to_unicode(host) for number, host in enumerate(hosts) if has_a_label(host)}
            if "xn--" in joined
            else {}
        )
        if self._words:
            yield from _search(self._words, joined, range(len(hosts)))
            if decoded:
                yield from _search(self._words, "\n".join(decoded.values()), tuple(decoded))
        if self._folded:
            if decoded or not joined.isascii():
                folded = "\n".join(fold(decoded.get(n, host)) for n, host in enumerate(hosts))
            else:
                folded = fold_ascii(joined)
            yield from _search(self._folded, folded, range(len(hosts)))
        if self._properties:
            yield from self._property_buckets(texts)

    def _suffix_buckets(self, hosts: list[str]) -> Iterator[tuple[Iterable[_Entry], int]]:
        """Yield the lines anchored by a domain, or by a brand one edit from a registrable label."""
        domains = self._domains
        labels: dict[str, list[int]] = {}
        for number, host in enumerate(hosts):
            suffix, dot = host, "."
            while dot:
                if suffix in domains:
                    yield domains[suffix], number
                _, dot, suffix = suffix.partition(".")
            if self._edits and (label := registrable_label(host)) is not None:
                labels.setdefault(label, []).append(number)
        for label, numbers in labels.items():
            if (near := self._near(label)) is not None:
                for number in numbers:
                    yield near, number

    def _near(self, label: str) -> _Bucket | None:
        """Return the lines with a brand that is one edit from a registrable label."""
        if len(label) < MIN_EDITED - 1:
            return None
        brand = compact(fold(to_unicode(label) if "xn--" in label else label))
        if not MIN_EDITED - 1 <= len(brand) <= self._longest_edited + 1:
            return None
        edits = self._edits
        shortened = [brand[:at] + brand[at + 1 :] for at in range(len(brand))]
        buckets = [edits[text] for text in (brand, *shortened) if text in edits]
        return (
            {
                entry: None
                for bucket in buckets
                for entry in bucket
                if within_one_edit(compact(fold(entry.anchor.value)), brand)
            }
            if buckets
            else None
        )

    def _property_buckets(self, texts: list[str]) -> Iterator[tuple[_Bucket, int]]:
        """Yield the lines whose anchor is idn, wildcard, or a regex without literals."""
        properties = self._properties
        for number, text in enumerate(texts):
            if text:
                host = text.removeprefix("*.")
                idn = "idn:yes" if has_a_label(host) else "idn:no"
                wildcard = "wildcard:no" if host == text else "wildcard:yes"
                for key in (idn, wildcard, "scan"):
                    if key in properties:
                        yield properties[key], number


def _verify(entry: _Entry, certificate: Certificate, numbers: Iterable[int], found: _Found) -> None:
    """Verify the terms of a line other than its anchor; note the names for which it holds."""
    if entry not in found and not all(
        holds_for_certificate(term, certificate) for term in entry.certificate_terms
    ):
        return
    if not entry.has_names:
        found.setdefault(entry, set())
        return
    for number in numbers:
        if all(holds_for_name(term, certificate.name(number)) for term in entry.name_terms):
            found.setdefault(entry, set()).add(number)


def _meet(group: _Bucket, found: _Found) -> bool:
    """Whether a line of a group was found."""
    if len(group) < len(found):
        return any(entry in found for entry in group)
    return any(entry in group for entry in found)


def _lines(given: Filter) -> dict[str, Line]:
    """Return the distinct lines of a filter by their texts."""
    return {line.text: line for group in given.groups for line in group}


def _scans(line: Line) -> bool:
    return any(term.key == "regex" and not term.literals for term in line.terms)


def _instructions(line: Line) -> int:
    return sum(term.instructions for term in line.terms)


def _put(buckets: dict[str, _Bucket], keys: Iterable[str], entry: _Entry, *, present: bool) -> None:
    """Add an entry to buckets, or remove it; an empty bucket is removed."""
    for key in keys:
        if present:
            buckets.setdefault(key, {})[entry] = None
        else:
            buckets[key].pop(entry)
            if not buckets[key]:
                del buckets[key]


def _covering(host: str) -> list[str]:
    """Return the names of a certificate that are valid for a host (RFC 9525 section 6.3)."""
    _, dot, parent = host.partition(".")
    return [host, f"*.{parent}"] if dot else [host]


def _shortened(brand: str) -> set[str]:
    """Return a brand, and every text that it becomes by removing one character.

    Two texts that are one edit apart have one of these in common. So the index keeps each brand
    by all of them, and finds it by all of those of a label.
    """
    return {brand, *(brand[:at] + brand[at + 1 :] for at in range(len(brand)))}


def _forms(names: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Return the texts and hosts of names, and the hosts as lines."""
    joined = "\n".join(names).lower()
    if (
        not joined.isascii()
        or joined.count("\n") != len(names) - 1
        or joined.endswith(".")
        or ".\n" in joined
        or (len(joined) > MAX_NAME and max(map(len, names)) > MAX_NAME)
    ):
        joined = "\n".join(map(normalize, names))
    texts = joined.split("\n")
    hosts = f"\n{joined}".replace("\n*.", "\n")[1:] if "*" in joined else joined
    return texts, hosts.split("\n"), hosts


def _search(
    words: WordIndex[_Entry], lines: str, numbers: Sequence[int]
) -> Iterator[tuple[_Bucket, int]]:
    """Yield what was found in each line, with the number of the line; once a line.

    Args:
        words: what to find.
        lines: of text.
        numbers: of the lines.
    """
    for first, text in _chunks(lines.encode()):
        seen: set[tuple[int, int]] = set()
        for bucket, start in words.find(text):
            place = id(bucket), first + text.count(b"\n", 0, start)
            if place not in seen:
                seen.add(place)
                yield bucket, numbers[place[1]]


def _chunks(lines: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield parts of at most `_CHUNK_BYTES`, without cutting lines, and the first line of each."""
    first = start = 0
    while len(lines) - start > _CHUNK_BYTES:
        end = lines.rfind(b"\n", start, start + _CHUNK_BYTES)
        if end <= start:
            end = lines.find(b"\n", start + 1)
            if end < 0:
                break
        yield first, lines[start:end]
        first += lines.count(b"\n", start, end + 1)
        start = end + 1
    yield first, lines[start:] if start else lines
