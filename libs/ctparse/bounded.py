"""Bounded collections of what was read: a cache of parts that repeat, and a list of problems.

A cache is a plain dict, so that a look-up costs nothing but a look-up; only the rare miss comes by
here. It is cleared when it is full: what repeats is back within a few certificates.
"""

from typing import TypeVar

_T = TypeVar("_T")

_MAX_ENTRIES = 8192
_MAX_KEY_BYTES = 512
_MAX_PROBLEMS = 16


def remember(cache: dict[bytes, _T], raw: bytes, value: _T) -> None:
    """Keep what was read, within bounds. Long keys are rare, so never worth their memory."""
    if len(raw) <= _MAX_KEY_BYTES:
        if len(cache) >= _MAX_ENTRIES:
            cache.clear()
        cache[raw] = value


def add(problems: list[str], *texts: str) -> None:
    """Add to the problems of a certificate; the first few, as it can be made to have a million."""
    problems.extend(texts[: _MAX_PROBLEMS - len(problems)])
