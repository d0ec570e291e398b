"""The cost of filters: certificates looked up in indexes of 100, 1,000 and 10,000 filters.

    python -m bench.filters

Names are made after those of the real entries in tests/fixtures: each certificate has the names of
one of them, with other letters and digits in their labels. Filters are 40 % domain, 20 % contains,
and 10 % each of name, like, regex with a literal, and domain with issuer.
"""

import json
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path

from bench import page
from ctfilter import Certificate, Filter, Index, parse_filter, size_of
from ctfilter.names import SUFFIX_RULES

ENTRIES = Path(__file__).parent.parent / "tests" / "fixtures" / "ct_entries.json"
CERTIFICATES = 3000
ROUNDS = 9
COUNTS = (100, 1_000, 10_000)
JOINS = 200


def main() -> None:
    print(measure())


def measure() -> str:
    """Measure, and return the table."""
    indexes = {count: Index() for count in COUNTS}
    bytes_of = dict.fromkeys(COUNTS, 0)
    for count, index in indexes.items():
        chance = random.Random(count)
        while len(index.filters) < count:
            made = new_filter(len(index.filters) % 10, chance)
            index.add(made)
            bytes_of[count] += size_of(made)
    hits = {count: sum(map(len, map(index.lookup, certificates())))
            for count, index in indexes.items()}  # fmt: skip
    times: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):  # in turn, so that other load meets all of them
        for count, index in indexes.items():
            seen = certificates()
            began = time.process_time()
            for certificate in seen:
                index.lookup(certificate)
            times[count].append((time.process_time() - began) / len(seen) * 1e6)
    rows = []
    for count, index in indexes.items():
        joined = join_cost(index)
        best = min(times[count])
        passed = hits[count] / CERTIFICATES
        rows.append(
            [f"{count:,}", f"{best:.1f} µs", f"{best / min(times[100]):.2f}", f"{passed:.3f}",
             f"{joined:.0f} µs", f"{bytes_of[count] / 2**20:.1f} MiB"]
        )  # fmt: skip
    head = ["filters", "lookup of a certificate", "against 100", "filters passed",
            "a filter joins and leaves", "counted as"]  # fmt: skip
    return page.table(head, rows)


def join_cost(index: Index) -> float:
    """Microseconds for a filter that joins, is looked up once, and leaves; without the lookup."""
    chance = random.Random(1)
    seen = certificates()
    made = [new_filter(number % 10, chance) for number in range(JOINS)]
    began = time.process_time()
    for certificate, one in zip(seen, made, strict=False):
        index.add(one)
        index.lookup(certificate)
    for one in made:
        index.remove(one)
    index.lookup(seen[0])
    joined = time.process_time() - began
    again = certificates()[:JOINS]
    began = time.process_time()
    for certificate in again:
        index.lookup(certificate)
    return (joined - (time.process_time() - began)) / JOINS * 1e6


def certificates() -> list[Certificate]:
    """Make certificates; the same ones in each call, without what an earlier lookup computed."""
    chance = random.Random(5)
    models = [
        (entry["expected_domains_only"]["data"], entry["expected_lite"]["data"])
        for entry in json.loads(ENTRIES.read_text())
    ]
    made = []
    for number in range(CERTIFICATES):
        names, lite = models[number % len(models)]
        key = chance.random()
        issuer = lite["leaf_cert"]["issuer"]
        made.append(
            Certificate([varied(name, random.Random(key)) for name in names], issuer["CN"] or "",
                        issuer["O"] or "", "Google")
        )  # fmt: skip
    return made


def varied(name: str, chance: random.Random) -> str:
    """Return a name with other letters and digits in the labels before the public suffix."""
    suffix = name
    while suffix not in SUFFIX_RULES and "." in suffix:
        suffix = suffix.partition(".")[2]
    own = name.removesuffix(suffix).removeprefix("www.")
    other = "".join(
        chance.choice(string.ascii_lowercase)
        if character.isalpha()
        else chance.choice(string.digits)
        if character.isdigit()
        else character
        for character in own
    )
    return ("www." if name.startswith("www.") else "") + other + suffix


def words_of(seed: int) -> Iterator[tuple[str, str, str]]:
    """Yield two words of lower-case letters and a domain, without end."""
    chance = random.Random(seed)

    def word(least: int, most: int) -> str:
        return "".join(chance.choices(string.ascii_lowercase, k=chance.randint(least, most)))

    while True:
        suffix = chance.choice(["com", "net", "de", "co.uk", "org"])
        yield word(7, 11), word(5, 9), f"{word(7, 14)}.{suffix}"


def new_filter(kind: int, chance: random.Random) -> Filter:
    """Return a new filter of one of ten kinds."""

    def word(least: int, most: int) -> str:
        return "".join(chance.choices(string.ascii_lowercase, k=chance.randint(least, most)))

    domain = f"{word(5, 14)}.{chance.choice(['com', 'net', 'de', 'co.uk', 'org'])}"
    if kind <= 3:
        made = parse_filter(domain)
    elif kind <= 5:
        made = parse_filter(match=[f"contains:{word(5, 10)}"])
    elif kind == 6:
        made = parse_filter(match=[f"name:www.{domain}"])
    elif kind == 7:
        made = parse_filter(match=[f"like:{word(5, 12)}"])
    elif kind == 8:
        made = parse_filter(match=[rf"regex:^{word(5, 8)}\d+-(login|secure)"])
    else:
        made = parse_filter(domain, f"Let's Encrypt,{word(5, 9)}")
    assert made is not None
    return made


if __name__ == "__main__":
    main()
