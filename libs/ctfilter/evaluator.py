"""One filter evaluated alone.

A filter that many certificates pass gains nothing from an index: its lines are verified for most
certificates in any case. Alone, it delays no other filter.
"""

from typing import Final

from ctfilter.grammar import CERTIFICATE_KEYS, Filter
from ctfilter.index import Index, Match
from ctfilter.matching import Certificate, holds_for_certificate, holds_for_name

_MAX_LINES: Final = 8
"""A filter with more lines has an index of its own."""


class Evaluator:
    """Evaluates one filter.

    Args:
        given: the filter.
    """

    def __init__(self, given: Filter) -> None:
        self._given = given
        self._index: Index | None = None
        self._groups = [
            [
                (
                    line.text,
                    [term for term in line.terms if term.key in CERTIFICATE_KEYS],
                    [term for term in line.terms if term.key not in CERTIFICATE_KEYS],
                )
                for line in group
            ]
            for group in given.groups
        ]
        if sum(map(len, given.groups)) > _MAX_LINES:
            self._groups = []
            self._index = Index()
            self._index.add(given, limited=False)

    def place_next(self) -> bool:
        """Prepare `matches` for a moment, see `Index.place_next`."""
        return self._index is not None and self._index.place_next()

    def matches(self, certificate: Certificate) -> list[Match]:
        """Return what `Index.lookup` returns for the filter; [] if the certificate does not pass.

        The order is the same: names in their order, then whole certificates.
        """
        if self._index is not None:
            return self._index.lookup(certificate).get(self._given, [])
        by_name: dict[tuple[int, str], None] = {}
        whole: dict[str, None] = {}
        numbers = range(len(certificate.names))
        for group in self._groups:
            passes = False
            for text, of_certificate, of_name in group:
                for term in of_certificate:
                    if not holds_for_certificate(term, certificate):
                        break
                else:
                    if not of_name:
                        passes = True
                        whole[text] = None
                        continue
                    for number in numbers:
                        name = certificate.name(number)
                        for term in of_name:
                            if not holds_for_name(term, name):
                                break
                        else:
                            passes = True
                            by_name[number, text] = None
            if not passes:
                return []
        found: list[Match] = [(certificate.names[n], text) for n, text in sorted(by_name)]
        return found + [(None, text) for text in sorted(whole)]
