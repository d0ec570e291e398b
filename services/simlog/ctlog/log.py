"""One log: its key, its entries, its tree and its signed tree heads.

No endpoint shows an entry that the newest tree head does not include.
"""

from array import array
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simlog.ctlog.tree import Tree, leaf_hash
from simlog.pki.certificates import Certificate, Certificates, malformed_certificate
from simlog.seeded import choose
from simlog.spec import LogSpec

ECDSA = ec.ECDSA(SHA256(), deterministic_signing=True)

X509_ENTRY = b"\0\0"
PRECERT_ENTRY = b"\0\1"
LEAF_VERSION_AND_TYPE = b"\0\0"
NO_EXTENSIONS = b"\0\0"
SHA256_ECDSA = b"\4\3"


class LogKey:
    """The signing key of a log (RFC 6962 section 3.2): ECDSA on P-256, from the seed."""

    def __init__(self, seed: int, name: str) -> None:
        secret = int.from_bytes(choose(seed, f"log key {name}", 0, 31))
        self._private = ec.derive_private_key(secret, ec.SECP256R1())
        self.public = self._private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.log_id = sha256(self.public).digest()

    def sign(self, message: bytes) -> bytes:
        """The `DigitallySigned` of RFC 5246 section 4.7: algorithms, length, signature."""
        return SHA256_ECDSA + opaque(2, self._private.sign(message, ECDSA))


class Head:
    """A tree head. It is signed at the first use of its signature.

    Attributes:
        size: leaves.
        timestamp: milliseconds since the epoch.
        root: of the tree of that size.
    """

    def __init__(self, key: LogKey, size: int, timestamp: int, root: bytes) -> None:
        self.size = size
        self.timestamp = timestamp
        self.root = root
        self._key = key

    @cached_property
    def signature(self) -> bytes:
        """The signed TreeHeadSignature (RFC 6962 section 3.5)."""
        v1_tree_hash = b"\0\1"
        return self._key.sign(
            v1_tree_hash + self.timestamp.to_bytes(8) + self.size.to_bytes(8) + self.root
        )


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of a log.

    Attributes:
        certificate: what was submitted.
        timestamp: milliseconds since the epoch.
        timestamped: the TimestampedEntry (RFC 6962 section 3.4).
        tile_extensions: CtExtensions that a data tile has where the tree has none; empty if both
            have the same.
    """

    certificate: Certificate
    timestamp: int
    timestamped: bytes
    tile_extensions: bytes = b""

    @property
    def leaf(self) -> bytes:
        """The MerkleTreeLeaf."""
        return LEAF_VERSION_AND_TYPE + self.timestamped

    @property
    def tiled(self) -> bytes:
        """The TimestampedEntry that a data tile has."""
        if not self.tile_extensions:
            return self.timestamped
        return self.timestamped.removesuffix(NO_EXTENSIONS) + self.tile_extensions


class Provable(Protocol):
    """The tree of which a log serves proofs: a `Tree` unless it misbehaves."""

    def root(self, size: int) -> bytes:
        """The Merkle Tree Hash of the first `size` leaves."""

    def index(self, hash_of_leaf: bytes, size: int) -> int | None:
        """Index of this leaf among the first `size` leaves."""

    def inclusion_proof(self, index: int, size: int) -> Sequence[bytes]:
        """The audit path of a leaf."""

    def consistency_proof(self, first: int, second: int) -> Sequence[bytes]:
        """Proof that one tree continues another."""

    def tile(self, level: int, n: int, width: int) -> bytes:
        """The first hashes of a tile."""


class ServedLog(Protocol):
    """All of a log that its endpoints serve: a `Log` unless it misbehaves."""

    @property
    def spec(self) -> LogSpec:
        """Its specification."""

    @property
    def key(self) -> LogKey:
        """Its key."""

    @property
    def tree(self) -> Provable:
        """Its tree, which may hold more than the head."""

    @property
    def head(self) -> Head:
        """Its newest tree head."""

    def entry(self, index: int) -> Entry:
        """The entry at an index below the head's size."""

    def __hash__(self) -> int: ...


class Log:
    """A log that takes submissions and publishes tree heads."""

    def __init__(self, spec: LogSpec, key: LogKey, certificates: Certificates) -> None:
        self.spec = spec
        self.key = key
        self.tree = Tree()
        self.head = Head(key, 0, 0, self.tree.root(0))
        self._certificates = certificates
        self._numbers = array("Q")
        self._timestamps = array("Q")
        self._malformed: set[int] = set()

    def append(self, certificate: int, timestamp: int, *, malformed: bool = False) -> None:
        """Append the certificate of that number, or malformed bytes."""
        index = len(self._numbers)
        self._numbers.append(certificate)
        self._timestamps.append(timestamp)
        if malformed:
            self._malformed.add(index)
        self.tree.append(leaf_hash(self.entry(index).leaf))

    def publish(self, timestamp: int) -> None:
        """Show a tree head over all entries."""
        self.head = self.sign(timestamp)

    def sign(self, timestamp: int) -> Head:
        """Make a tree head over all entries, to be shown now or later."""
        size = len(self.tree)
        return Head(self.key, size, timestamp, self.tree.root(size))

    def entry(self, index: int) -> Entry:
        """The entry at an index that exists."""
        certificate = self._certificates.make(self._numbers[index])
        if index in self._malformed:
            certificate = malformed_certificate(certificate, f"{self.spec.name}/{index}")
        return self._entry(index, certificate)

    def lookalike_entry(self, index: int) -> Entry:
        """Return that entry with a certificate that was never submitted to any log."""
        is_final = not self._certificates.make(self._numbers[index]).is_precert
        never_submitted = -2 * (index + 1) + is_final
        return self._entry(index, self._certificates.make(never_submitted))

    def is_malformed(self, index: int) -> bool:
        """Whether the entry there is no certificate."""
        return index in self._malformed

    def _entry(self, index: int, certificate: Certificate) -> Entry:
        timestamp = self._timestamps[index]
        leaf_index = opaque(2, b"\0" + opaque(2, index.to_bytes(5)))
        has_index = has_leaf_index(self.spec)
        if certificate.is_precert:
            signed = PRECERT_ENTRY + certificate.issuer.key_hash + opaque(3, certificate.tbs)
        else:
            signed = X509_ENTRY + opaque(3, certificate.der)
        timestamped = timestamp.to_bytes(8) + signed + (leaf_index if has_index else NO_EXTENSIONS)
        is_only_in_tiles = not has_index and self.spec.is_hybrid
        return Entry(certificate, timestamp, timestamped, leaf_index if is_only_in_tiles else b"")


def has_leaf_index(spec: LogSpec) -> bool:
    """Return whether the leaves of a log's tree have the extension `leaf_index`."""
    return spec.kind == "static-ct" or spec.data_tiles == "same"


def opaque(size: int, contents: bytes) -> bytes:
    """A TLS vector whose length takes `size` bytes (RFC 5246 section 4.3)."""
    return len(contents).to_bytes(size) + contents
