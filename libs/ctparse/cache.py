"""The one kind of cache there is: bytes -> what was read from them, bounded, cleared when full.

Plain dicts, so that a look-up costs nothing but a look-up; only the rare miss comes by here. What
repeats is back within a few certificates after a clearing.
"""

from typing import TypeVar

_T = TypeVar("_T")

_MAX_ENTRIES = 8192
_MAX_KEY_BYTES = 512


def remember(cache: dict[bytes, _T], raw: bytes, value: _T) -> None:
    """Keep what was read, within bounds. Long keys are rare, so never worth their memory."""
    if len(raw) <= _MAX_KEY_BYTES:
        if len(cache) >= _MAX_ENTRIES:
            cache.clear()
        cache[raw] = value
