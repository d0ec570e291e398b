"""What a static-ct log serves: checkpoints and data tiles (c2sp.org/static-ct-api).

A data tile is a run of entries without a length of their own, so where the framing of one breaks,
nothing after it can be found: the tile is `Malformed` as a whole. An entry that is framed well but
contains a wrong value (another index) is `Rejected` at its index. Its chain is no part of the tree:
one that is no list of fingerprints costs the entry its chain, and is its problem.

No error quotes what a log served: it may have redirected to a server that is not the log's.

A checkpoint is a signed note. Of its signature lines, the RFC 6962 one holds a timestamp and the
signature that get-sth would serve; the others are by witnesses or for other algorithms.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from hashlib import sha256
from struct import Struct
from typing import Literal

import msgspec

from ctparse.entry import Entry, Malformed, Rejected
from ctparse.signatures import digitally_signed, note_key_hash
from ctparse.tls import StructureError, vector
from ctparse.tree_head import TreeHead

TILE_WIDTH = 256
FINGERPRINT_BYTES = 32

# No path is as long; each fingerprint may cost its reader a request.
_MAX_CHAIN = 100

_RFC6962_SIGNATURE = 0x05
_TIMESTAMP_BYTES = 8
_KEY_HASH_BYTES = 4
_MAX_SIGNATURES = 64

# TimestampedEntry up to the certificate: timestamp, entry_type.
_TIMESTAMPED_ENTRY = Struct(">QH")
_X509_ENTRY = 0
_PRECERT_ENTRY = 1
_ISSUER_KEY_HASH_BYTES = 32
# A MerkleTreeLeaf is version and leaf_type, both 0, and the TimestampedEntry.
_LEAF_PREFIX = b"\0\0"
_ENTRY_TYPE_AT = len(_LEAF_PREFIX) + 8

_LEAF_INDEX = 0
_LEAF_INDEX_BYTES = 5
_MAX_LEVEL = 5

# A note holds no control characters but newlines.
_NOTE = re.compile(
    r"(?P<origin>[^\0-\x1f]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/=]+)\n"
    r"(?P<extensions>(?:[^\0-\x1f]+\n)*)\n(?P<signatures>(?:— [^\0-\x1f]+\n)+)"
)


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint, not yet verified.

    Attributes:
        origin: whose tree it is: the log's submission prefix without the scheme.
        size: number of leaves.
        root: the Merkle tree hash over all leaves, 32 bytes.
        signatures: its lines: key name, key hash of 4 bytes, what the algorithm makes of the rest.
    """

    origin: str
    size: int
    root: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]


def parse_checkpoint(body: bytes) -> Checkpoint:
    """Parse a checkpoint (c2sp.org/tlog-checkpoint).

    Raises:
        Malformed: it is none, or has what a static-ct checkpoint must not have.
    """
    try:
        note = _NOTE.fullmatch(body.decode())
    except UnicodeDecodeError as error:
        raise Malformed(f"checkpoint: {error}") from error
    if note is None:
        raise Malformed(f"checkpoint of {len(body):,} bytes is not a signed note")
    if note["extensions"]:
        # An RFC 6962 signature does not cover them.
        raise Malformed("checkpoint has extension lines")
    lines = note["signatures"].rstrip("\n").split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise Malformed(f"checkpoint has {len(lines)} signatures")
    root = _base64(note["root"])
    if len(root) != sha256().digest_size:
        raise Malformed(f"checkpoint: root hash of {len(root)} bytes")
    return Checkpoint(
        note["origin"], int(note["size"]), root, tuple(_signature(line) for line in lines)
    )


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, _, encoded = line.removeprefix("— ").partition(" ")
    signature = _base64(encoded)
    if len(signature) <= _KEY_HASH_BYTES:
        raise Malformed(f"checkpoint: signature of {len(signature)} bytes")
    return name, signature[:_KEY_HASH_BYTES], signature[_KEY_HASH_BYTES:]


def _base64(text: str) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise Malformed(f"checkpoint: a root hash or signature is not base64: {error}") from error


def tree_head(
    checkpoint: Checkpoint, log_id: bytes | None = None, origin: str | None = None
) -> TreeHead:
    """Take the RFC 6962 tree head out of a checkpoint. Its signature is not verified here.

    Args:
        checkpoint: from the log.
        log_id: id of the log, which identifies its line; None: the structure identifies it.
        origin: what the checkpoint's origin has to be, if that is known.

    Raises:
        Malformed: the checkpoint is another log's, or has no such line.
    """
    if origin is not None and checkpoint.origin != origin:
        raise Malformed(f"checkpoint is for another origin than {origin!r}")
    key_hash = log_id and note_key_hash(checkpoint.origin, _RFC6962_SIGNATURE, log_id)
    for name, hint, signature in checkpoint.signatures:
        if name != checkpoint.origin or (key_hash and hint != key_hash):
            continue
        timestamp, signed = signature[:_TIMESTAMP_BYTES], signature[_TIMESTAMP_BYTES:]
        try:
            digitally_signed(signed)
        except StructureError:
            continue
        return TreeHead(checkpoint.size, int.from_bytes(timestamp), checkpoint.root, signed)
    raise Malformed("checkpoint has no RFC 6962 signature by the log")


def decode_tile(tile: bytes, first: int, *, requires_index: bool = True) -> list[Entry | Rejected]:
    """Decode a data tile.

    Args:
        tile: its bytes, without any Content-Encoding.
        first: index in the log of the tile's first entry.
        requires_index: reject an entry without the `leaf_index` extension. Logs of RFC 6962 that
            also serve data tiles may leave it out.

    Raises:
        Malformed: the tile ends inside an entry, or holds one of an unknown type.
    """
    entries: list[Entry | Rejected] = []
    at = 0
    try:
        while at < len(tile):
            entry, at = _decode_entry(tile, at, first + len(entries), requires_index)
            entries.append(entry)
    except StructureError as error:
        raise Malformed(f"data tile: entry {first + len(entries)}: {error}") from error
    return entries


def _decode_entry(
    tile: bytes, at: int, index: int, requires_index: bool
) -> tuple[Entry | Rejected, int]:
    """Decode the TileLeaf at `at`; also return where it ends."""
    if at + _TIMESTAMPED_ENTRY.size > len(tile):
        raise StructureError(f"data ends inside the header at byte {at}")
    timestamp, entry_type = _TIMESTAMPED_ENTRY.unpack_from(tile, at)
    signed_entry = at + _TIMESTAMPED_ENTRY.size
    if entry_type == _X509_ENTRY:
        start, stop = vector(tile, signed_entry, 3, "certificate")
        extensions, leaf_stop = vector(tile, stop, 2, "extensions")
        chain, end = vector(tile, leaf_stop, 2, "certificate_chain")
    elif entry_type == _PRECERT_ENTRY:
        _, stop = vector(tile, signed_entry + _ISSUER_KEY_HASH_BYTES, 3, "TBSCertificate")
        extensions, leaf_stop = vector(tile, stop, 2, "extensions")
        start, stop = vector(tile, leaf_stop, 3, "pre_certificate")
        chain, end = vector(tile, stop, 2, "certificate_chain")
    else:
        raise StructureError(f"unknown type {entry_type} at byte {at}")
    wrong = _wrong_index(tile[extensions:leaf_stop], index, requires_index)
    leaf = _LEAF_PREFIX + tile[at:leaf_stop]
    if wrong:
        return Rejected(index, wrong, tile[at:end], leaf), end
    problem = ""
    if (end - chain) % FINGERPRINT_BYTES:
        problem = f"certificate_chain of {end - chain} bytes, not a multiple of {FINGERPRINT_BYTES}"
    elif end - chain > _MAX_CHAIN * FINGERPRINT_BYTES:
        problem = f"chain of more than {_MAX_CHAIN} certificates"
    entry = Entry(
        index,
        timestamp,
        entry_type == _PRECERT_ENTRY,
        tile[start:stop],
        b"" if problem else tile[chain:end],
        leaf,
        problem,
    )
    return entry, end


def _wrong_index(extensions: bytes, index: int, requires_index: bool) -> str | None:
    """Return what is wrong with the leaf_index in CtExtensions; other extensions are allowed."""
    found: list[bytes] = []
    at = 0
    try:
        while at < len(extensions):
            extension_type = extensions[at]
            start, at = vector(extensions, at + 1, 2, "extension_data")
            if extension_type == _LEAF_INDEX:
                found.append(extensions[start:at])
    except StructureError as error:
        return str(error)
    if not found and not requires_index:
        return None
    if len(found) != 1 or len(found[0]) != _LEAF_INDEX_BYTES:
        sizes = f", of {len(found[0])} bytes" if len(found) == 1 else ""
        return f"expected one leaf_index of {_LEAF_INDEX_BYTES} bytes, found {len(found)}{sizes}"
    if (leaf_index := int.from_bytes(found[0])) != index:
        return f"leaf_index is {leaf_index} at the position of entry {index}"
    return None


def without_extensions(leaf: bytes) -> bytes:
    """Return a MerkleTreeLeaf with empty CtExtensions (RFC 6962 section 3.4).

    A leaf of another structure, which get-entries may return, stays as it is.
    """
    entry_type = int.from_bytes(leaf[_ENTRY_TYPE_AT : _ENTRY_TYPE_AT + 2])
    at = _ENTRY_TYPE_AT + 2 + _ISSUER_KEY_HASH_BYTES * (entry_type == _PRECERT_ENTRY)
    try:
        _, stop = vector(leaf, at, 3, "signed_entry")
        _, end = vector(leaf, stop, 2, "extensions")
    except StructureError:
        return leaf
    is_framed = leaf.startswith(_LEAF_PREFIX) and end == len(leaf)
    return leaf[:stop] + b"\0\0" if is_framed and entry_type <= _PRECERT_ENTRY else leaf


def fingerprints(chain: bytes) -> tuple[bytes, ...]:
    """Split `Entry.chain` of a static-ct log into SHA-256 fingerprints, issuer first."""
    return tuple(
        chain[at : at + FINGERPRINT_BYTES] for at in range(0, len(chain), FINGERPRINT_BYTES)
    )


def tile_path(level: int | Literal["data"], n: int, width: int = TILE_WIDTH) -> str:
    """Spell the path of a tile below the monitoring prefix: "tile/data/x001/x234/067.p/12".

    Args:
        level: 0 for leaf hashes, up to 5; "data" for entries.
        n: index of the tile within its level.
        width: number of its hashes or entries, 1 to 256; less than 256 makes it partial.

    Raises:
        ValueError: there is no such tile.
    """
    if n < 0 or not 1 <= width <= TILE_WIDTH or (level != "data" and not 0 <= level <= _MAX_LEVEL):
        raise ValueError(f"no tile of level {level}, index {n}, width {width}")
    elements = [f"{n % 1000:03}"]
    while n := n // 1000:
        elements.insert(0, f"x{n % 1000:03}")
    partial = f".p/{width}" if width < TILE_WIDTH else ""
    return f"tile/{level}/{'/'.join(elements)}{partial}"
