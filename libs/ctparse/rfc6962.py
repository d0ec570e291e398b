"""What an RFC 6962 log serves: get-sth and get-entries (RFC 6962 sections 3.4, 4.3 and 4.6).

A body that is not the JSON it should be is `Malformed` as a whole: whoever asked can ask again. A
single entry whose structure does not hold is `Rejected` at its index, and the others go on.
Structures are read to their last byte; bytes left over are as wrong as bytes missing.

The chains of a body's entries repeat, so equal ones become one object: that saves memory, and
whoever looks them up next finds them by identity.
"""

from struct import Struct

import msgspec

from ctparse.entry import Entry, Malformed, Rejected
from ctparse.tls import StructureError, ends, vector
from ctparse.treehead import TreeHead

# MerkleTreeLeaf up to the entry itself: version, leaf_type, timestamp, entry_type.
_LEAF = Struct(">BBQH")
_X509_ENTRY = 0
_PRECERT_ENTRY = 1
_ISSUER_KEY_HASH_BYTES = 32
_ROOT_BYTES = 32
_TOO_LARGE = 1 << 63
# The first certificate's serial number lies within these bytes of a chain.
_CHAIN_HEAD = 64


class _SignedTreeHead(msgspec.Struct, gc=False):
    tree_size: int
    timestamp: int
    sha256_root_hash: bytes
    tree_head_signature: bytes


class _Served(msgspec.Struct, gc=False):
    leaf_input: bytes
    extra_data: bytes


class _Entries(msgspec.Struct):
    entries: list[_Served]


class _UncheckedEntries(msgspec.Struct):
    entries: list[object]


_STH_DECODER = msgspec.json.Decoder(_SignedTreeHead)
_ENTRIES_DECODER = msgspec.json.Decoder(_Entries)
_UNCHECKED_DECODER = msgspec.json.Decoder(_UncheckedEntries)


def decode_sth(body: bytes) -> TreeHead:
    """Decode the answer to get-sth. The signature is not verified here.

    Raises:
        Malformed: it is not a tree head.
    """
    try:
        sth = _STH_DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"get-sth: {error}") from error
    if len(sth.sha256_root_hash) != _ROOT_BYTES:
        raise Malformed(f"get-sth: sha256_root_hash of {len(sth.sha256_root_hash)} bytes")
    if not (0 <= sth.tree_size < _TOO_LARGE and 0 <= sth.timestamp < _TOO_LARGE):
        raise Malformed(f"get-sth: tree_size {sth.tree_size}, timestamp {sth.timestamp}")
    return TreeHead(sth.tree_size, sth.timestamp, sth.sha256_root_hash, sth.tree_head_signature)


def decode_entries(body: bytes, first: int) -> list[Entry | Rejected]:
    """Decode the answer to get-entries.

    Args:
        body: as served.
        first: index of the first entry, the `start` that was asked for.

    Returns:
        The entries from `first` on, as many as the log chose to serve.

    Raises:
        Malformed: it is no answer to get-entries.
    """
    try:
        served = _ENTRIES_DECODER.decode(body).entries
    except msgspec.ValidationError:
        return _decode_one_by_one(body, first)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"get-entries: {error}") from error
    chains: dict[tuple[bytes, int], bytes] = {}
    return [
        _decode_entry(index, entry.leaf_input, entry.extra_data, chains)
        for index, entry in enumerate(served, first)
    ]


def _decode_one_by_one(body: bytes, first: int) -> list[Entry | Rejected]:
    """Find which of the entries is not what it should be, and decode the others."""
    try:
        served = _UNCHECKED_DECODER.decode(body).entries
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"get-entries: {error}") from error
    chains: dict[tuple[bytes, int], bytes] = {}
    decoded: list[Entry | Rejected] = []
    for index, unchecked in enumerate(served, first):
        try:
            entry = msgspec.convert(unchecked, _Served)
        except msgspec.ValidationError as error:
            decoded.append(Rejected(index, f"get-entries: {error}", msgspec.json.encode(unchecked)))
        else:
            decoded.append(_decode_entry(index, entry.leaf_input, entry.extra_data, chains))
    return decoded


def _decode_entry(
    index: int, leaf: bytes, extra: bytes, chains: dict[tuple[bytes, int], bytes]
) -> Entry | Rejected:
    try:
        if len(leaf) < _LEAF.size:
            raise StructureError(f"MerkleTreeLeaf of {len(leaf)} bytes")
        version, leaf_type, timestamp, entry_type = _LEAF.unpack_from(leaf)
        if version or leaf_type:
            raise StructureError(f"MerkleTreeLeaf of version {version}, type {leaf_type}")
        if entry_type == _X509_ENTRY:
            start, stop = vector(leaf, _LEAF.size, 3, "certificate")
            certificate, chain_at = leaf[start:stop], 0
        elif entry_type == _PRECERT_ENTRY:
            _, stop = vector(leaf, _LEAF.size + _ISSUER_KEY_HASH_BYTES, 3, "TBSCertificate")
            start, chain_at = vector(extra, 0, 3, "pre_certificate")
            certificate = extra[start:chain_at]
        else:
            raise StructureError(f"entry of unknown type {entry_type}")
        _, stop = vector(leaf, stop, 2, "extensions")
        ends(leaf, stop, "MerkleTreeLeaf")
        start, stop = vector(extra, chain_at, 3, "certificate_chain")
        ends(extra, stop, "certificate_chain")
        chain = extra[start:]
        key = chain[:_CHAIN_HEAD], len(chain)
        known = chains.get(key)
        if known != chain:
            chain_certificates(chain)
            chains[key] = known = chain
    except ValueError as error:
        return Rejected(index, str(error), leaf)
    return Entry(index, timestamp, entry_type == _PRECERT_ENTRY, certificate, known, leaf)


def chain_certificates(chain: bytes) -> tuple[bytes, ...]:
    """Split `Entry.chain` of an RFC 6962 log into DER certificates, issuer first.

    Raises:
        Malformed: its framing does not hold.
    """
    certificates: list[bytes] = []
    at = 0
    try:
        while at < len(chain):
            start, at = vector(chain, at, 3, f"certificate {len(certificates)} of the chain")
            certificates.append(chain[start:at])
    except StructureError as error:
        raise Malformed(str(error)) from error
    return tuple(certificates)
