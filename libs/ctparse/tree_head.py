"""The signed tree head of a log of either kind (RFC 6962 section 3.5; checkpoint).

RFC 6962 logs serve it as JSON (`rfc6962.decode_sth`), static-ct logs as one signature line of a
checkpoint (`static_ct.tree_head`). Both sign the same bytes, so one verification serves both
(`signatures.verify_tree_head`).
"""

import msgspec


class TreeHead(msgspec.Struct, frozen=True, gc=False):
    """A signed tree head (RFC 6962 section 3.5), not yet verified.

    Attributes:
        size: number of leaves.
        timestamp: when the log signed it, milliseconds since the epoch.
        root: the Merkle tree hash over all leaves, 32 bytes.
        signature: the `digitally-signed` TreeHeadSignature: hash and signature algorithm, two
            bytes of length, the signature itself.
    """

    size: int
    timestamp: int
    root: bytes
    signature: bytes
