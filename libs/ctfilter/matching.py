"""Whether a term holds for a name or a certificate."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Final

from ctfilter.grammar import Line, Term, normal_operator
from ctfilter.lookalike import MIN_EDITED, compact, fold, within_one_edit
from ctfilter.names import Name


class Certificate:
    """What terms compare of one certificate.

    Args:
        names: `all_domains`.
        issuer_name: CN of the issuer; "" if it has none.
        issuer_organization: O of the issuer; "" if it has none.
        operator: of the log.
        precertificate: whether the entry is a precertificate.
    """

    def __init__(
        self,
        names: Sequence[str],
        issuer_name: str = "",
        issuer_organization: str = "",
        operator: str = "",
        *,
        precertificate: bool = False,
    ) -> None:
        self.names = names
        self.issuer_name = issuer_name
        self.issuer_organization = issuer_organization
        self.operator = operator
        self.precertificate = precertificate
        self._parsed: dict[int, Name] = {}

    def equals(self, other: "Certificate") -> bool:
        """Whether another certificate is the same for all terms."""
        return (
            self.names == other.names
            and self.precertificate is other.precertificate
            and self.issuer_name == other.issuer_name
            and self.issuer_organization == other.issuer_organization
            and self.operator == other.operator
        )

    def name(self, number: int) -> Name:
        """Return the forms of a name."""
        if number not in self._parsed:
            self._parsed[number] = Name(self.names[number])
        return self._parsed[number]

    @cached_property
    def issuer(self) -> str:
        """CN and O of the issuer as `issuer` compares them, on two lines."""
        parts = (self.issuer_name, self.issuer_organization)
        return "\n".join(" ".join(part.split()).casefold() for part in parts)

    @cached_property
    def normal_operator(self) -> str:
        """The operator as `operator` compares it."""
        return normal_operator(self.operator)


def holds_for_name(term: Term, name: Name) -> bool:
    """Whether a name term holds for a name; for a negated term, whether it does not."""
    return bool(name.text) and _NAME_TERMS[term.key](term, name) is not term.negated


def holds_for_certificate(term: Term, certificate: Certificate) -> bool:
    """Whether a certificate term holds; for a negated term, whether it does not."""
    return _CERTIFICATE_TERMS[term.key](term, certificate) is not term.negated


def holds(line: Line, certificate: Certificate) -> bool:
    """Whether a line holds for a certificate."""
    name_terms = [term for term in line.terms if term.key in _NAME_TERMS]
    return all(
        holds_for_certificate(term, certificate)
        for term in line.terms
        if term.key in _CERTIFICATE_TERMS
    ) and (
        not name_terms
        or any(
            all(holds_for_name(term, certificate.name(number)) for term in name_terms)
            for number in range(len(certificate.names))
        )
    )


def _domain(term: Term, name: Name) -> bool:
    return name.host == term.value or name.host.endswith(f".{term.value}")


def _name(term: Term, name: Name) -> bool:
    """RFC 9525 section 6.3: a wildcard is valid for one label."""
    if name.is_wildcard:
        return name.host == term.value.partition(".")[2]
    return name.host == term.value


def _contains(term: Term, name: Name) -> bool:
    return term.value in name.host or term.value in name.unicode


def _like(term: Term, name: Name) -> bool:
    folded = fold(term.value)
    if folded in name.folded:
        return True
    brand = compact(folded)
    return (
        len(brand) >= MIN_EDITED
        and name.registrable is not None
        and within_one_edit(brand, name.registrable)
    )


def _regex(term: Term, name: Name) -> bool:
    return name.host.isascii() and term.search is not None and term.search(name.host.encode())


def _idn(term: Term, name: Name) -> bool:
    return name.is_idn is (term.value == "yes")


def _wildcard(term: Term, name: Name) -> bool:
    return name.is_wildcard is (term.value == "yes")


def _issuer(term: Term, certificate: Certificate) -> bool:
    return term.value in certificate.issuer


def _operator(term: Term, certificate: Certificate) -> bool:
    return term.value == certificate.normal_operator


def _type(term: Term, certificate: Certificate) -> bool:
    return certificate.precertificate is (term.value == "precert")


_NAME_TERMS: Final[Mapping[str, Callable[[Term, Name], bool]]] = {
    "name": _name,
    "domain": _domain,
    "contains": _contains,
    "like": _like,
    "regex": _regex,
    "idn": _idn,
    "wildcard": _wildcard,
}
_CERTIFICATE_TERMS: Final[Mapping[str, Callable[[Term, Certificate], bool]]] = {
    "issuer": _issuer,
    "operator": _operator,
    "type": _type,
}
