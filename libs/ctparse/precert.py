"""Whether a submitted precertificate is the one that its log entry commits to.

The tree covers the leaf, which holds the TBSCertificate without the poison extension (RFC 6962
section 3.2); the precertificate as it was submitted stands beside it, covered by nothing. So it is
compared byte by byte with the leaf: taking out the poison changes only the lengths around it.

What a Precertificate Signing Certificate signed has another issuer in the leaf: not compared.
"""

from collections.abc import Callable, Sequence

from ctparse.entry import Entry

# Extension: id 1.3.6.1.4.1.11129.2.4.3, critical, NULL. DER allows no other bytes.
_POISON = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
# Extended key usage of a Precertificate Signing Certificate, 1.3.6.1.4.1.11129.2.4.4.
_PRECERT_SIGNING = bytes.fromhex("060a2b06010401d679020404")
_SEQUENCE = 0x30
_EXTENSIONS = 0xA3
# MerkleTreeLeaf of a precertificate: version, type, timestamp, entry type, issuer_key_hash; then
# three bytes of length, and the TBSCertificate.
_TBS = 2 + 8 + 2 + 32 + 3


def is_committed(entry: Entry, resolve: Callable[[bytes], Sequence[bytes]]) -> bool:
    """Whether the leaf commits to the entry's precertificate.

    Args:
        entry: of a precertificate.
        resolve: `Entry.chain` -> the issuers' DER, issuer first.
    """
    if _is_same(entry.certificate, entry.leaf):
        return True
    chain = resolve(entry.chain)
    return bool(chain) and _PRECERT_SIGNING in chain[0]


def _is_same(certificate: bytes, leaf: bytes) -> bool:
    """Whether the leaf's TBSCertificate is the certificate's without its poison."""
    try:
        outer, _ = _contents(certificate, 0)
        begin, end = _contents(certificate, outer)
        leaf_begin, leaf_end = _contents(leaf, _TBS)
        poison = certificate.find(_POISON, begin, end)
        if poison < 0:
            return False
        at = certificate.rfind(_EXTENSIONS, begin, poison)
        while at > 0:
            start, stop = _contents(certificate, at)
            if stop == end and _contents(certificate, start)[1] == end:
                break
            at = certificate.rfind(_EXTENSIONS, begin, at)
        leaf_at = leaf_begin + at - begin
        if at < 0 or certificate[begin:at] != leaf[leaf_begin:leaf_at]:
            return False
        listed, _ = _contents(certificate, start)
        leaf_start, leaf_stop = _contents(leaf, leaf_at)
        tags = leaf[_TBS], certificate[outer], leaf[leaf_start], certificate[start]
        if leaf[leaf_at] != _EXTENSIONS or tags != (_SEQUENCE,) * 4:
            return False
        leaf_listed, leaf_list_end = _contents(leaf, leaf_start)
    except IndexError:
        return False
    without = certificate[listed:poison] + certificate[poison + len(_POISON) : end]
    return leaf_stop == leaf_list_end == leaf_end and leaf[leaf_listed:leaf_end] == without


def _contents(data: bytes, at: int) -> tuple[int, int]:
    """Where the contents of the DER element at `at` begin and end."""
    length = data[at + 1]
    if length < 0x80:  # the short form
        return at + 2, at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start, start + int.from_bytes(data[at + 2 : start])
