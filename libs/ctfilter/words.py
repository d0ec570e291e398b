"""Words that are searched in one text together, and may change.

An Aho-Corasick automaton finds all its words in one pass, but cannot change. So there are several
levels, each an automaton with at most a quarter of the words of the one before. New words form a
level of their own, merged with all levels that are not much larger: a word is built into an
automaton a few times in all, and a text is searched in few of them. A word that leaves keeps its
place, without values, until half of the places are such.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

from ahocorasick_rs import BytesAhoCorasick, Implementation

_GROWTH: Final = 4
_SMALL: Final = 64  # words: an automaton of them is built in less than a millisecond

V = TypeVar("V")


class WordIndex(Generic[V]):
    """Words, each with a set of values."""

    def __init__(self) -> None:
        self._values: dict[str, dict[V, None]] = {}
        self._new: dict[str, None] = {}
        self._levels: list[tuple[BytesAhoCorasick, list[str], list[dict[V, None]]]] = []
        self._places = 0

    def __len__(self) -> int:
        return len(self._values)

    def put(self, words: Iterable[str], value: V, *, present: bool) -> None:
        """Add a value to words, or remove it."""
        for word in words:
            values = self._values.get(word)
            if values is None:
                values = self._values[word] = {}
                self._new[word] = None
            if present:
                values[value] = None
            else:
                del values[value]
                if not values:
                    del self._values[word]
                    self._new.pop(word, None)

    def find(self, text: bytes) -> Iterator[tuple[dict[V, None], int]]:
        """Yield the values and the position of each word in a text."""
        if self._new or self._places > 2 * len(self._values) + _SMALL:
            self._merge()
        for automaton, _, values in self._levels:
            for number, start, _ in automaton.find_matches_as_indexes(text, overlapping=True):
                yield values[number], start

    def _merge(self) -> None:
        """Build the new words, and the levels that are not much larger, into one level."""
        words = list(self._new)
        shrunk = self._places > 2 * len(self._values) + _SMALL
        while self._levels and (
            shrunk or len(self._levels[-1][1]) <= max(_SMALL, _GROWTH * len(words))
        ):
            words = self._levels.pop()[1] + words
        words = [word for word in dict.fromkeys(words) if word in self._values]
        if words:
            encoded = [word.encode() for word in words]
            automaton = BytesAhoCorasick(encoded, implementation=Implementation.ContiguousNFA)
            self._levels.append((automaton, words, [self._values[word] for word in words]))
        self._new = {}
        self._places = sum(len(level) for _, level, _ in self._levels)
