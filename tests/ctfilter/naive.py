"""What filters mean, evaluated term by term; nothing of ctfilter but its tables is used."""

import unicodedata
from typing import NamedTuple

import idna
import re2

from ctfilter.confusables_table import PAIRS
from ctfilter.public_suffix_table import RULES

PROTOTYPES = {pair[0]: pair[1:] for pair in PAIRS.split()}
RULE_SET = frozenset(RULES.split())
CERTIFICATE_KEYS = ("issuer", "operator", "type")


class Term(NamedTuple):
    key: str
    value: str
    negated: bool = False


class Cert(NamedTuple):
    names: tuple[str, ...]
    issuer_name: str = ""
    issuer_organization: str = ""
    operator: str = ""
    precertificate: bool = False


def quoted(term: Term) -> str:
    value = term.value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{"-" if term.negated else ""}{term.key}:"{value}"'


def passes(groups: list[list[list[Term]]], cert: Cert) -> bool:
    return all(any(line_holds(line, cert) for line in group) for group in groups)


def line_holds(line: list[Term], cert: Cert) -> bool:
    of_cert = [term for term in line if term.key in CERTIFICATE_KEYS]
    of_name = [term for term in line if term.key not in CERTIFICATE_KEYS]
    if not all(cert_term(term, cert) != term.negated for term in of_cert):
        return False
    return not of_name or bool(names_held(line, cert))


def names_held(line: list[Term], cert: Cert) -> list[str]:
    of_name = [term for term in line if term.key not in CERTIFICATE_KEYS]
    return [
        name
        for name in cert.names
        if of_name
        and is_name(name)
        and all(name_term(term, name) != term.negated for term in of_name)
    ]


def is_name(name: str) -> bool:
    text = name.lower().rstrip(".")
    return text != "" and len(text) <= 253 and "\n" not in text


def cert_term(term: Term, cert: Cert) -> bool:
    match term.key:
        case "issuer":
            wanted = " ".join(term.value.casefold().split())
            fields = (cert.issuer_name, cert.issuer_organization)
            return any(wanted in " ".join(field.casefold().split()) for field in fields)
        case "operator":
            return letters(term.value) == letters(cert.operator)
        case _:
            return cert.precertificate == (term.value == "precert")


def letters(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.casefold()).split()


def ascii_name(name: str) -> str:
    """The name with A-labels."""
    labels = []
    for label in name.lower().rstrip(".").split("."):
        try:
            plain = all(ord(c) < 128 for c in label) or len(label) > 63
            labels.append(label if plain else idna.encode(label, uts46=True).decode())
        except idna.IDNAError:
            labels.append(label)
    return ".".join(labels)


def unicode_label(label: str) -> str:
    if label[:4] == "xn--" and len(label) < 64:
        try:
            return label[4:].encode().decode("punycode").lower()
        except UnicodeError:
            return label
    return label


def folded(text: str) -> str:
    out = ""
    for c in unicodedata.normalize("NFD", text.lower()):
        out += PROTOTYPES.get(c, c)
    result = ""
    for c in unicodedata.normalize("NFD", out).lower():
        if unicodedata.combining(c) or c == "-":
            continue
        result += {"0": "o", "1": "l", "m": "rn", "w": "vv"}.get(c, c)
    return result


def visible(text: str) -> str:
    """Each rn as one character, and each vv."""
    return text.replace("rn", "M").replace("vv", "W")


def distance(a: str, b: str) -> int:
    """Optimal string alignment, by its definition."""
    d = {(i, -1): i + 1 for i in range(-1, len(a))} | {(-1, j): j + 1 for j in range(-1, len(b))}
    for i in range(len(a)):
        for j in range(len(b)):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (a[i] != b[j]))
            if i and j and a[i] == b[j - 1] and a[i - 1] == b[j]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return d[len(a) - 1, len(b) - 1]


def registrable(host: str) -> str | None:
    """The algorithm of publicsuffix.org: the rule with most labels, or an exception."""
    labels = host.split(".")
    longest = 1
    for rule in candidates(labels):
        size = rule.count(".") + 1
        if rule.startswith("!"):
            longest = size - 1
            break
        longest = max(longest, size)
    return labels[-longest - 1] if len(labels) > longest else None


def candidates(labels: list[str]) -> list[str]:
    found = [
        rule
        for suffix in (labels[at:] for at in range(len(labels)))
        for rule in (".".join(["*", *suffix[1:]]), ".".join(suffix), "!" + ".".join(suffix))
        if rule in RULE_SET
    ]
    return sorted(found, key=lambda rule: not rule.startswith("!"))


def name_term(term: Term, raw: str) -> bool:
    name = ascii_name(raw)
    host = name.removeprefix("*.")
    decoded = ".".join(map(unicode_label, host.split(".")))
    match term.key:
        case "domain":
            wanted = ascii_name(term.value.strip(".").removeprefix("*."))
            return f".{host}".endswith(f".{wanted}")
        case "name":
            wanted = ascii_name(term.value)
            pattern, presented = wanted.split("."), name.split(".")
            if presented[0] == "*" and len(presented) > 1:
                return len(pattern) > 1 and pattern[1:] == presented[1:]
            return pattern == presented
        case "contains":
            wanted = unicodedata.normalize("NFC", term.value.lower())
            return wanted in host or wanted in decoded
        case "regex":
            options = re2.Options()
            options.case_sensitive = False
            ascii_host = all(ord(c) < 128 for c in host)
            return ascii_host and re2.search(term.value, host, options) is not None
        case "idn":
            return any(p.startswith("xn--") for p in host.split(".")) == (term.value == "yes")
        case "wildcard":
            return name.startswith("*.") == (term.value == "yes")
    brand = folded(term.value)
    if brand in folded(decoded):
        return True
    label = registrable(host)
    if label is None or len(visible(brand)) < 6:
        return False
    return distance(visible(brand), visible(folded(unicode_label(label)))) <= 1
