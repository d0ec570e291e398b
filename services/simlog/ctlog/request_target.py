"""The endpoint and the entries that a request addresses, by which faults select requests."""

from collections.abc import Mapping

import msgspec

from simlog.ctlog.static_ct import named_tile
from simlog.ctlog.tree import TILE
from simlog.fault_types import Part

PARTS: Mapping[str, Part] = {
    "ct/v1/get-sth": "head",
    "ct/v1/get-entries": "entries",
    "ct/v1/get-sth-consistency": "proofs",
    "ct/v1/get-proof-by-hash": "proofs",
    "ct/v1/get-entry-and-proof": "proofs",
    "checkpoint": "head",
}
NOTHING = range(0)


class RequestTarget(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        path: below the log's URL.
        query: its parameters.
        part: of the log; None for what no log has.
        entries: indexes of the entries that the answer shows, as far as they exist.
    """

    path: str
    query: Mapping[str, str]
    part: Part | None
    entries: range


def classify_request(path: str, query: Mapping[str, str], max_entries: int) -> RequestTarget:
    """Parse a request. An invalid one addresses no entries; the log itself rejects it."""
    if path.startswith("issuer/"):
        return RequestTarget(path, query, "issuers", NOTHING)
    if tile := named_tile(path):
        is_data = tile.level == "data"
        first = tile.n * TILE
        entries = range(first, first + tile.width) if is_data else NOTHING
        return RequestTarget(path, query, "entries" if is_data else "proofs", entries)
    entries = NOTHING
    if path == "ct/v1/get-entries":
        start, end = (_number(query.get(name)) for name in ("start", "end"))
        entries = range(start, min(end + 1, start + max_entries))
    elif path == "ct/v1/get-entry-and-proof":
        index = _number(query.get("leaf_index"))
        entries = range(index, index + 1)
    return RequestTarget(path, query, PARTS.get(path), entries)


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else -1
