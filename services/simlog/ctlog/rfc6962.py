"""The endpoints of an RFC 6962 log: the client messages of section 4, with errors as text."""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from simlog.ctlog.log import Entry, ServedLog, opaque
from simlog.ctlog.tree import HASH
from simlog.http_server import Refused, Response

Query = Mapping[str, str]


def respond(log: ServedLog, path: str, query: Query, max_entries: int) -> Response:
    """Answer a request below the log's URL.

    Args:
        log: the log as it is shown.
        path: below its URL.
        query: parameters.
        max_entries: of a get-entries answer, unless the log's profile names its page.

    Raises:
        Refused: 400 for parameters that make no sense, 404 for an unknown path.
    """
    if path == "ct/v1/get-entries":
        return _get_entries(log, query, max_entries)
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        raise Refused(404, f"an RFC 6962 log has no /{path}")
    return Response(msgspec.json.encode(endpoint(log, query)), "application/json")


def _get_sth(log: ServedLog, _: Query) -> dict[str, object]:
    """Section 4.3."""
    head = log.head
    return {
        "tree_size": head.size,
        "timestamp": head.timestamp,
        "sha256_root_hash": _text(head.root),
        "tree_head_signature": _text(head.signature),
    }


def _get_sth_consistency(log: ServedLog, query: Query) -> dict[str, object]:
    """Section 4.4."""
    first, second = _number(query, "first"), _number(query, "second")
    if not first <= second <= log.head.size:
        raise Refused(
            400, f"need first <= second <= tree size {log.head.size}: first={first} second={second}"
        )
    proof = log.tree.consistency_proof(first, second) if first else []
    return {"consistency": [_text(node) for node in proof]}


def _get_proof_by_hash(log: ServedLog, query: Query) -> dict[str, object]:
    """Section 4.5."""
    size = _tree_size(log, query)
    given = query.get("hash", "")
    try:
        wanted = b64decode(given, validate=True)
    except Base64Error:
        wanted = b""
    if len(wanted) != HASH:
        raise Refused(400, f"hash: not base64 of {HASH} bytes: {given!r}")
    index = log.tree.index(wanted, size)
    if index is None:
        raise Refused(404, f"no leaf among the first {size} has hash {given}")
    proof = log.tree.inclusion_proof(index, size)
    return {"leaf_index": index, "audit_path": [_text(node) for node in proof]}


def _get_entry_and_proof(log: ServedLog, query: Query) -> dict[str, object]:
    """Section 4.8."""
    index, size = _number(query, "leaf_index"), _tree_size(log, query)
    if index >= size:
        raise Refused(400, f"need leaf_index < tree_size: leaf_index={index} tree_size={size}")
    entry = log.entry(index)
    return {
        "leaf_input": _text(entry.leaf),
        "extra_data": _text(extra_data(entry)),
        "audit_path": [_text(node) for node in log.tree.inclusion_proof(index, size)],
    }


def _get_entries(log: ServedLog, query: Query, max_entries: int) -> Response:
    """Section 4.6: "the results MAY be fewer", and are for an end beyond the tree head."""
    start, end, size = _number(query, "start"), _number(query, "end"), log.head.size
    if start > end:
        raise Refused(400, f"need start <= end: start={start} end={end}")
    if start >= size:
        raise Refused(400, f"need start < tree size: start={start} tree size={size}")
    profile = log.spec.profile
    if profile is not None:
        max_entries = profile.page - start % profile.page * profile.is_aligned
    stop = min(end + 1, size, start + max_entries)
    entries = (log.entry(index) for index in range(start, stop))
    body = b",".join(
        b'{"leaf_input":"%b","extra_data":"%b"}'
        % (b64encode(entry.leaf), b64encode(extra_data(entry)))
        for entry in entries
    )
    body = b'{"entries":[%b]}' % body
    return Response(body, "application/json", entries=stop - start, first=start)


ENDPOINTS: Mapping[str, Callable[[ServedLog, Query], dict[str, object]]] = {
    "ct/v1/get-sth": _get_sth,
    "ct/v1/get-sth-consistency": _get_sth_consistency,
    "ct/v1/get-proof-by-hash": _get_proof_by_hash,
    "ct/v1/get-entry-and-proof": _get_entry_and_proof,
}


def extra_data(entry: Entry) -> bytes:
    """The chain, and before it the precertificate as it was submitted (section 4.6)."""
    chain = _chain(entry.certificate.issuer.chain)
    if entry.certificate.is_precert:
        return opaque(3, entry.certificate.der) + chain
    return chain


@lru_cache(maxsize=64)
def _chain(certificates: tuple[bytes, ...]) -> bytes:
    return opaque(3, b"".join(opaque(3, certificate) for certificate in certificates))


def _tree_size(log: ServedLog, query: Query) -> int:
    size = _number(query, "tree_size")
    if not 0 < size <= log.head.size:
        raise Refused(400, f"need 0 < tree_size <= {log.head.size}: tree_size={size}")
    return size


def _number(query: Query, name: str) -> int:
    given = query.get(name, "")
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise Refused(400, f"{name}: not a decimal number: {given!r}")
    return int(given)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
