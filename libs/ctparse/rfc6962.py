"""What an RFC 6962 log serves: tree heads, entries and proofs (RFC 6962 sections 3.4 and 4).

A body that is not the JSON it should be is `Malformed` as a whole: the caller can request it again.
An entry with a wrong structure is `Rejected` at its index; the others are decoded.
Structures are read to their last byte; bytes left over are as wrong as bytes missing. Only the leaf
is in the tree: where extra_data cannot be read, an entry has an empty chain and a problem. A
precertificate is itself in extra_data, so without it the entry is `Rejected`.

The chains of a body's entries repeat, so equal ones become one object: that saves memory, and
their users find them by identity.
"""

from struct import Struct
from struct import error as StructError  # noqa: N812  (it is an exception class)
from typing import TypeVar

import msgspec

from ctparse.entry import Entry, Malformed, Rejected
from ctparse.tls import StructureError, vector
from ctparse.tree_head import TreeHead

_T = TypeVar("_T")

# MerkleTreeLeaf up to the entry: version and leaf_type, both 0; timestamp; entry_type.
_LEAF = Struct(">HQH")
_X509_ENTRY = 0
_PRECERT_ENTRY = 1
# Where the entry's certificate begins, or its TBSCertificate, after issuer_key_hash.
_X509_AT = _LEAF.size
_TBS_AT = _LEAF.size + 32
# Three bytes of length, the upper one and the lower two.
_LENGTH = Struct(">BH")
_ROOT_BYTES = 32
_TOO_LARGE = 1 << 63
# These bytes of a chain include the first certificate's serial number.
_CHAIN_HEAD = 64
# No path is as long; each certificate costs time, even if it is none.
_MAX_CHAIN = 100


class _SignedTreeHead(msgspec.Struct, gc=False):
    tree_size: int
    timestamp: int
    sha256_root_hash: bytes
    tree_head_signature: bytes


class _Served(msgspec.Struct, gc=False):
    leaf_input: bytes
    extra_data: bytes | None = None


class _Leaf(msgspec.Struct, gc=False):
    leaf_input: bytes


class _ProofByHash(msgspec.Struct, gc=False):
    leaf_index: int
    audit_path: list[bytes]


class _EntryAndProof(msgspec.Struct, gc=False):
    leaf_input: bytes
    audit_path: list[bytes]


class _Consistency(msgspec.Struct, gc=False):
    consistency: list[bytes]


class _Entries(msgspec.Struct):
    entries: list[_Served]


class _UncheckedEntries(msgspec.Struct):
    entries: list[object]


# RFC 8259 section 8.1 lets a parser ignore it.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Commas in an answer, for each entry and besides: two separate an entry's members and entries.
_COMMAS_EACH = 8
_COMMAS = 64

# What a decoder raises for bytes of any origin.
_BAD_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_STH_DECODER = msgspec.json.Decoder(_SignedTreeHead)
_PROOF_DECODER = msgspec.json.Decoder(_ProofByHash)
_ENTRY_AND_PROOF_DECODER = msgspec.json.Decoder(_EntryAndProof)
_CONSISTENCY_DECODER = msgspec.json.Decoder(_Consistency)
_ENTRIES_DECODER = msgspec.json.Decoder(_Entries)
_UNCHECKED_DECODER = msgspec.json.Decoder(_UncheckedEntries)


def _decoded(decoder: msgspec.json.Decoder[_T], body: bytes, what: str) -> _T:
    try:
        return decoder.decode(body.removeprefix(_BYTE_ORDER_MARK))
    except _BAD_JSON as error:
        raise Malformed(f"{what}: {error}") from error


def decode_sth(body: bytes) -> TreeHead:
    """Decode the answer to get-sth. The signature is not verified here.

    Raises:
        Malformed: it is not a tree head.
    """
    sth = _decoded(_STH_DECODER, body, "get-sth")
    if len(sth.sha256_root_hash) != _ROOT_BYTES:
        raise Malformed(f"get-sth: sha256_root_hash of {len(sth.sha256_root_hash)} bytes")
    if not (0 <= sth.tree_size < _TOO_LARGE and 0 <= sth.timestamp < _TOO_LARGE):
        raise Malformed(f"get-sth: tree_size {sth.tree_size}, timestamp {sth.timestamp}")
    return TreeHead(sth.tree_size, sth.timestamp, sth.sha256_root_hash, sth.tree_head_signature)


def decode_proof_by_hash(body: bytes) -> tuple[int, list[bytes]]:
    """Decode the answer to get-proof-by-hash (section 4.5): the leaf's index, its audit path.

    Raises:
        Malformed: it is none.
    """
    answer = _decoded(_PROOF_DECODER, body, "get-proof-by-hash")
    return answer.leaf_index, _hashes(answer.audit_path, "get-proof-by-hash")


def decode_entry_and_proof(body: bytes) -> tuple[bytes, list[bytes]]:
    """Decode the answer to get-entry-and-proof (section 4.8): the MerkleTreeLeaf, its audit path.

    Raises:
        Malformed: it is none.
    """
    answer = _decoded(_ENTRY_AND_PROOF_DECODER, body, "get-entry-and-proof")
    return answer.leaf_input, _hashes(answer.audit_path, "get-entry-and-proof")


def decode_consistency(body: bytes) -> list[bytes]:
    """Decode the answer to get-sth-consistency (section 4.4): the hashes of the proof.

    Raises:
        Malformed: it is none.
    """
    answer = _decoded(_CONSISTENCY_DECODER, body, "get-sth-consistency")
    return _hashes(answer.consistency, "get-sth-consistency")


def _hashes(proof: list[bytes], where: str) -> list[bytes]:
    if any(len(each) != _ROOT_BYTES for each in proof):
        raise Malformed(f"{where}: hashes of {sorted({len(each) for each in proof})} bytes")
    return proof


def decode_entries(
    body: bytes, first: int, max_entries: int | None = None
) -> list[Entry | Rejected]:
    """Decode the answer to get-entries.

    Args:
        body: as served.
        first: index of the first entry, the requested `start`.
        max_entries: number of requested entries: later ones are left out. None: all are decoded.

    Returns:
        The entries from `first` on, as many as the log chose to serve.

    Raises:
        Malformed: it is no answer to get-entries.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        served: list[_Served] | list[_Served | Rejected] = _ENTRIES_DECODER.decode(body).entries
    except msgspec.ValidationError:
        served = _validate_one_by_one(body, first, max_entries)
    except _BAD_JSON as error:
        raise Malformed(f"get-entries: {error}") from error
    chains: dict[tuple[bytes, int], bytes] = {}
    entries: list[Entry | Rejected] = []
    for index, entry in enumerate(served if max_entries is None else served[:max_entries], first):
        if isinstance(entry, Rejected):
            entries.append(entry)
            continue
        try:
            entries.append(_decode_entry(index, entry.leaf_input, entry.extra_data, chains))
        except (StructureError, StructError) as error:
            leaf = entry.leaf_input
            entries.append(Rejected(index, f"get-entries: {error}", leaf, leaf))
    return entries


def _validate_one_by_one(
    body: bytes, first: int, max_entries: int | None
) -> list[_Served | Rejected]:
    """Find out which of the entries are not what they should be."""
    # Decoding makes an object of every value, so a short body could otherwise fill the memory.
    if max_entries is not None and body.count(b",") > max_entries * _COMMAS_EACH + _COMMAS:
        raise Malformed(f"get-entries: more values than {max_entries} entries have")
    try:
        unchecked = _UNCHECKED_DECODER.decode(body).entries
    except _BAD_JSON as error:
        raise Malformed(f"get-entries: {error}") from error
    return [_validated(entry, index) for index, entry in enumerate(unchecked[:max_entries], first)]


def _validated(entry: object, index: int) -> _Served | Rejected:
    try:
        return msgspec.convert(entry, _Served)
    except msgspec.ValidationError:
        pass
    try:
        return _Served(msgspec.convert(entry, _Leaf).leaf_input)
    except msgspec.ValidationError as error:
        return Rejected(index, f"get-entries: {error}", msgspec.json.encode(entry))


def _decode_entry(
    index: int, leaf: bytes, extra: bytes | None, chains: dict[tuple[bytes, int], bytes]
) -> Entry:
    version_and_type, timestamp, entry_type = _LEAF.unpack_from(leaf)
    if version_and_type:
        raise StructureError(f"MerkleTreeLeaf of version and type {version_and_type:#06x}")
    if entry_type == _X509_ENTRY:
        high, low = _LENGTH.unpack_from(leaf, _X509_AT)
        stop = _X509_AT + 3 + (high << 16 | low)
        certificate = leaf[_X509_AT + 3 : stop]
        chain_at = 0
    elif entry_type == _PRECERT_ENTRY:
        high, low = _LENGTH.unpack_from(leaf, _TBS_AT)
        stop = _TBS_AT + 3 + (high << 16 | low)
        if extra is None:
            raise StructureError("extra_data, which holds the precertificate, is missing")
        high, low = _LENGTH.unpack_from(extra)
        chain_at = 3 + (high << 16 | low)
        if chain_at > len(extra):
            raise StructureError("pre_certificate ends after extra_data")
        certificate = extra[3:chain_at]
    else:
        raise StructureError(f"entry of unknown type {entry_type}")
    if stop + 2 + int.from_bytes(leaf[stop : stop + 2]) != len(leaf):
        raise StructureError("extensions do not end where MerkleTreeLeaf does")
    is_precert = entry_type == _PRECERT_ENTRY
    try:
        chain = _chain(extra, chain_at, chains)
    except (StructureError, Malformed, StructError) as error:
        problem = f"extra_data: {error}"
        return Entry(index, timestamp, is_precert, certificate, b"", leaf, problem)
    return Entry(index, timestamp, is_precert, certificate, chain, leaf)


def _chain(extra: bytes | None, at: int, chains: dict[tuple[bytes, int], bytes]) -> bytes:
    """The certificate_chain that begins at `at` and fills the rest of extra_data.

    Raises:
        StructureError, StructError, Malformed: there is none.
    """
    if extra is None:
        raise StructureError("missing, or not base64")
    high, low = _LENGTH.unpack_from(extra, at)
    chain = extra[at + 3 :]
    if high << 16 | low != len(chain):
        raise StructureError("certificate_chain does not end where extra_data does")
    key = chain[:_CHAIN_HEAD], len(chain)
    known = chains.get(key)
    if known != chain:
        chain_certificates(chain)
        chains[key] = known = chain
    return known


def chain_certificates(chain: bytes) -> tuple[bytes, ...]:
    """Split `Entry.chain` of an RFC 6962 log into DER certificates, issuer first.

    Raises:
        Malformed: its framing does not hold, or it is absurdly long.
    """
    certificates: list[bytes] = []
    at = 0
    try:
        while at < len(chain) and len(certificates) < _MAX_CHAIN:
            start, at = vector(chain, at, 3, f"certificate {len(certificates)} of the chain")
            certificates.append(chain[start:at])
    except StructureError as error:
        raise Malformed(str(error)) from error
    if at < len(chain):
        raise Malformed(f"chain of more than {_MAX_CHAIN} certificates")
    return tuple(certificates)
