"""What the rest of the package speaks about: one entry of a log, whichever kind of log served it.

An entry goes one of two ways: `Entry` -> message, or, when it cannot be read, `Rejected`.
"""

from collections.abc import Sequence

import msgspec


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One log entry, decoded as far as its framing; the certificate itself is still DER.

    Attributes:
        index: position in the log, from 0.
        timestamp: when the log accepted it, milliseconds since the epoch.
        is_precert: whether `certificate` is a precertificate.
        certificate: DER of the certificate, or of the precertificate as it was submitted.
        chain: the issuers exactly as the log serves them, issuer first: for RFC 6962 the
            contents of the `ASN.1Cert certificate_chain<0..2^24-1>` vector, for static-ct the
            concatenated SHA-256 fingerprints. Chains repeat endlessly, so this is a cache key.
        leaf: the MerkleTreeLeaf, whose hash the log's tree commits to (RFC 6962 section 3.4).
        problem: why `chain` is empty although the log should have served one; one line, or empty.
    """

    index: int
    timestamp: int
    is_precert: bool
    certificate: bytes
    chain: bytes
    leaf: bytes
    problem: str = ""


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """An entry that cannot be read.

    Attributes:
        index: position in the log, from 0.
        reason: one line, for a person.
        raw: the bytes that could not be read, as far as they are known.
        leaf: the MerkleTreeLeaf, as in `Entry`; empty if not even that is known.
    """

    index: int
    reason: str
    raw: bytes
    leaf: bytes = b""


class Malformed(ValueError):
    """A whole response, not a single entry, violates its specification. The text states where."""


class IncompleteChain(ValueError):
    """Some certificates of a chain are not available. The text names them.

    Attributes:
        certificates: the DER of those before the first that is missing, issuer first.
    """

    def __init__(self, problem: str, certificates: Sequence[bytes]) -> None:
        super().__init__(problem)
        self.certificates = certificates


class Unreadable(ValueError):
    """Not even the outline of a certificate can be read. Its text becomes `Rejected.reason`."""
