"""Precertificates: the one a log entry commits to, and the certificate issued for it.

**Commitment.** The tree covers the leaf, which holds the TBSCertificate without the poison
extension (RFC 6962 section 3.2); the precertificate as submitted is beside it, covered by nothing.
So it is compared byte by byte with the leaf: taking out the poison changes only the lengths around
it.

Logs that write the TBSCertificate anew, rather than cut the poison out, correct what the CA has
encoded otherwise than in DER (an explicit FALSE, an explicit version 1, a number or a length with
zeros before it, a year in another form, a UTCTime without seconds). So what differs is compared
once more, value by value.

What a Precertificate Signing Certificate signed has another issuer in the leaf: not compared.

**Issuance.** A precertificate and the certificate issued for it have one TBSCertificate, apart from
the poison extension of the one and the list of SCTs of the other (RFC 6962 sections 3.1 and 3.3).
The leaf of the precertificate holds it, with the issuer of the certificate also where a
Precertificate Signing Certificate signed; it is what the SCTs sign.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from struct import Struct

from ctparse import der
from ctparse.certificate import Certificate
from ctparse.entry import Entry, Unreadable
from ctparse.general_names import SCT_LIST

# Extension: id 1.3.6.1.4.1.11129.2.4.3, critical, NULL. DER allows no other bytes.
_POISON = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
# Extended key usage of a Precertificate Signing Certificate, 1.3.6.1.4.1.11129.2.4.4.
_PRECERT_SIGNING = bytes.fromhex("060a2b06010401d679020404")
_SEQUENCE = 0x30
_VERSION = 0xA0
_EXTENSIONS = 0xA3
_CONSTRUCTED = 0x20
_LONG_SEQUENCE = 0x3082
# Tag, 0x82 and length of two values, one in the other, and of one.
_LENGTHS = Struct(">HHHH")
_LENGTH = Struct(">HH")
_LONG = Struct(">BBH")  # tag and length of a value of 256 bytes to 64 KiB
_KEY_FIELD = 5  # of a TBSCertificate: after serial number, signature, issuer, validity, subject
# [0] EXPLICIT INTEGER: version of a TBSCertificate, as `_values` shows it.
_VERSION_1 = (0xA0, [(der.INTEGER, 0)])
# YYMMDDhhmmZ, which RFC 5280 section 4.1.2.5.1 forbids.
_WITHOUT_SECONDS = 11
# MerkleTreeLeaf of a precertificate: version, type, timestamp, entry type, issuer_key_hash; then
# three bytes of length, and the TBSCertificate.
_TBS = 2 + 8 + 2 + 32 + 3


def is_committed(entry: Entry, resolve: Callable[[bytes], Sequence[bytes]]) -> bool:
    """Whether the leaf commits to the entry's precertificate.

    Args:
        entry: of a precertificate.
        resolve: `Entry.chain` -> the issuers' DER, issuer first.
    """
    submitted, leaf = entry.certificate, entry.leaf
    if _tbs_without_poison(submitted) == leaf[_TBS:-2] or _is_same(submitted, leaf):
        return True
    if _means_the_same(submitted, leaf):
        return True
    chain = resolve(entry.chain)
    return bool(chain) and _PRECERT_SIGNING in chain[0]


def _tbs_without_poison(certificate: bytes) -> bytes | None:
    """Return a TBSCertificate without its poison; None unless its lengths have two bytes.

    That is so in nearly all precertificates: `_is_same` takes twice the time for the others.
    """
    poison = certificate.find(_POISON)
    at = certificate.rfind(b"\xa3\x82", 8, max(poison, 0))
    if at < 0:
        return None
    outer, _, inner, size = _LENGTHS.unpack_from(certificate)
    field, field_size, listed, listed_size = _LENGTHS.unpack_from(certificate, at)
    end = 8 + size
    if (
        not outer == inner == listed == _LONG_SEQUENCE
        or not at + 4 + field_size == at + 8 + listed_size == end
        or listed_size < 0x100 + len(_POISON)
        or poison + len(_POISON) > end
    ):
        return None
    less = len(_POISON)
    return b"".join(
        (
            _LENGTH.pack(inner, size - less),
            certificate[8:at],
            _LENGTHS.pack(field, field_size - less, listed, listed_size - less),
            certificate[at + 8 : poison],
            certificate[poison + less : end],
        )
    )


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


def _means_the_same(certificate: bytes, leaf: bytes) -> bool:
    """The same, but for encodings that DER does not allow."""
    try:
        outer, _ = _contents(certificate, 0)
        if certificate[outer] != _SEQUENCE or leaf[_TBS] != _SEQUENCE:
            return False
        submitted = _tbs_values(certificate, outer)
        logged = _tbs_values(leaf, _TBS)
    except (IndexError, der.DerError, RecursionError):
        return False
    return submitted == logged and certificate.find(_POISON) >= 0


def _tbs_values(data: bytes, at: int) -> list[tuple[int, object]]:
    """Return the values of the TBSCertificate at `at`, without an explicit version 1, the default.

    Raises:
        DerError: that is not all DER.
    """
    values = _values(data, *_contents(data, at))
    return values[1:] if values[:1] == [_VERSION_1] else values


def _values(data: bytes, start: int, end: int) -> list[tuple[int, object]]:
    """Return the values in [start, end), apart from their encoding, without a poison extension.

    Raises:
        DerError: that is not all DER.
    """
    elements, stop = der.children(data, start, end)
    if stop != end:
        raise der.DerError(f"no value at byte {stop}")
    values: list[tuple[int, object]] = []
    for tag, at, until in elements:
        contents = data[at:until]
        if tag & _CONSTRUCTED:
            if tag != _SEQUENCE or contents != _POISON[2:]:
                values.append((tag, _values(data, at, until)))
        elif tag == der.INTEGER:
            values.append((tag, int.from_bytes(contents, signed=True)))
        elif tag == der.UTC_TIME:  # of years 1950 to 2049 (RFC 5280 section 4.1.2.5.1)
            century = b"19" if contents[:2] >= b"50" else b"20"
            if len(contents) == _WITHOUT_SECONDS and contents[-1:] == b"Z":
                contents = contents[:-1] + b"00Z"
            values.append((der.GENERALIZED_TIME, century + contents))
        elif (tag, contents) != (der.BOOLEAN, b"\0"):  # FALSE is the default wherever it is allowed
            values.append((tag, contents))
    return values


def _contents(data: bytes, at: int) -> tuple[int, int]:
    """Where the contents of the DER element at `at` begin and end."""
    length = data[at + 1]
    if length < 0x80:  # the short form
        return at + 2, at + 2 + length
    start = at + 2 + (length & 0x7F)
    return start, start + int.from_bytes(data[at + 2 : start])


def tbs_sha256(entry: Entry) -> bytes:
    """Return the SHA-256 of an entry's TBSCertificate without poison and SCTs: of its issuance.

    Raises:
        Unreadable: the certificate has no TBSCertificate.
    """
    if entry.is_precert:
        end = _TBS + int.from_bytes(entry.leaf[_TBS - 3 : _TBS])
        return sha256(entry.leaf[_TBS:end]).digest()
    return sha256(tbs_without_scts(entry.certificate)).digest()


def issuance_hashes(entry: Entry, certificate: Certificate) -> tuple[bytes, bytes]:
    """Return `tbs_sha256` and `pubkey_sha256` of an entry, whose certificate was read.

    Args:
        entry: the entry.
        certificate: what `CertificateReader.read` made of `entry.certificate`.
    """
    data, fields = entry.certificate, certificate.fields
    key = sha256(data[fields[_KEY_FIELD - 1][2] : fields[_KEY_FIELD][2]]).digest()
    if entry.is_precert:
        return tbs_sha256(entry), key
    begin, end = certificate.tbs
    tbs = _without_scts(data, begin, end, fields, certificate.other_extensions)
    return sha256(tbs).digest(), key


def pubkey_sha256(certificate: bytes) -> bytes:
    """Return the SHA-256 of the SubjectPublicKeyInfo of a certificate or precertificate.

    Raises:
        Unreadable: the certificate has none.
    """
    try:
        _, at, end = _tbs(certificate)
    except der.DerError as error:
        raise Unreadable(str(error)) from error
    fields, _ = der.children(certificate, at, end)
    if fields and fields[0][0] == _VERSION:  # version 1 has none
        del fields[0]
    if len(fields) <= _KEY_FIELD:
        raise Unreadable(f"TBSCertificate ends after {len(fields)} of its fields")
    return sha256(certificate[fields[_KEY_FIELD - 1][2] : fields[_KEY_FIELD][2]]).digest()


def tbs_without_scts(certificate: bytes) -> bytes:
    """Return a certificate's TBSCertificate, DER, without the SCT list extension.

    An extensions field that becomes empty is left out. A TBSCertificate without the list, or with
    extensions that cannot be read, is returned as it is.

    Raises:
        Unreadable: the certificate has no TBSCertificate.
    """
    try:
        _, at, end = _tbs(certificate)
    except der.DerError as error:
        raise Unreadable(str(error)) from error
    fields, _ = der.children(certificate, at, end)
    listed = _extensions_without_scts(certificate, end, fields)
    return _without_scts(certificate, at, end, fields, listed)


def _without_scts(
    certificate: bytes,
    at: int,
    end: int,
    fields: Sequence[tuple[int, int, int]],
    listed: bytes | None,
) -> bytes:
    """The same, given where the contents of TBSCertificate are, and its last fields.

    `listed`: the extensions without the list; None: the TBSCertificate stays as it is.
    """
    if listed is None:
        return certificate[_tbs(certificate)[0] : end]
    before = fields[-2][2] if len(fields) > 1 else at
    extensions = _element(_EXTENSIONS, _element(der.SEQUENCE, listed)) if listed else b""
    return _element(der.SEQUENCE, certificate[at:before] + extensions)


def _extensions_without_scts(
    certificate: bytes, end: int, fields: Sequence[tuple[int, int, int]]
) -> bytes | None:
    """Return the extensions without the SCT list; None if they have none, or cannot be read."""
    if not fields or fields[-1][0] != _EXTENSIONS or fields[-1][2] != end:
        return None
    outer = fields[-1][1]
    found = certificate.find(SCT_LIST, outer, end)
    if found < 0:
        return None
    try:
        at, last = der.expect(certificate, outer, end, der.SEQUENCE, "Extensions")
        if last != end:
            return None
        kept = b""
        begin = at  # of the extensions that stay
        while at < end:
            start = at + 2
            stop = start + certificate[at + 1]
            if certificate[at + 1] > 0x7F or stop > end:
                _, start, stop = der.header(certificate, at, end)
            if start == found and certificate[at] == der.SEQUENCE:
                kept += certificate[begin:at]
                begin = stop
            if 0 <= found < stop:
                found = certificate.find(SCT_LIST, stop, end)
            at = stop
    except (der.DerError, IndexError):
        return None
    return kept + certificate[begin:end]


def _tbs(certificate: bytes) -> tuple[int, int, int]:
    """Find where TBSCertificate begins, and where its contents begin and end."""
    start, end = der.expect(certificate, 0, len(certificate), der.SEQUENCE, "Certificate")
    at, end = der.expect(certificate, start, end, der.SEQUENCE, "TBSCertificate")
    return start, at, end


def _element(tag: int, contents: bytes) -> bytes:
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    if 0x100 <= size < 0x10000:
        return _LONG.pack(tag, 0x82, size) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + contents
