"""Signatures of logs and of the log list. What verifies returns None; what does not raises.

A log has one key, ECDSA on P-256 or RSA (RFC 6962 section 2.1.4); the SHA-256 of its
SubjectPublicKeyInfo is the log's id (section 3.2). `cryptography` does the arithmetic.
"""

from hashlib import sha256
from struct import Struct
from struct import error as StructError  # noqa: N812  (it is an exception class)

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from ctparse.tls import StructureError, ends, vector
from ctparse.tree_head import TreeHead

# Made here: `cryptography` imports more modules for it, and a process may lack descriptors later.
_ECDSA_SHA256 = ec.ECDSA(hashes.SHA256())

# TreeHeadSignature: version, signature_type (tree_hash), timestamp, tree_size, root (section 3.5).
_TREE_HEAD = Struct(">BBQQ32s")
_TREE_HASH = 1

# SignatureAndHashAlgorithm (RFC 5246 section 7.4.1.4.1).
_SHA256 = 4
_RSA, _ECDSA = 1, 3


class BadSignature(ValueError):
    """A signature does not verify, or is malformed. The text states which."""


class BadKey(ValueError):
    """A public key is of a type or size that is not accepted. The text names it."""


class LogKey(msgspec.Struct, frozen=True):
    """The public key of a log.

    Attributes:
        key: the key itself.
        id: the log id, SHA-256 of the SubjectPublicKeyInfo.
    """

    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey
    id: bytes


def load_log_key(spki: bytes) -> LogKey:
    """Load a log's key from its DER SubjectPublicKeyInfo (`key` in a log list, after base64).

    Raises:
        BadKey: it is no key, or neither ECDSA on P-256 nor RSA.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"log key is not a DER SubjectPublicKeyInfo: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey) and not (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        raise BadKey(f"log key is {type(key).__name__}, not ECDSA on P-256 or RSA")
    return LogKey(key, log_id(spki))


def log_id(spki: bytes) -> bytes:
    """Compute a log's id from its DER SubjectPublicKeyInfo (RFC 6962 section 3.2)."""
    return sha256(spki).digest()


def verify_tree_head(key: LogKey, tree_head: TreeHead) -> None:
    """Verify that the log signed this tree head (RFC 6962 section 3.5).

    Raises:
        BadSignature: it did not.
    """
    try:
        hash_algorithm, algorithm, signature = digitally_signed(tree_head.signature)
        signed = _TREE_HEAD.pack(0, _TREE_HASH, tree_head.timestamp, tree_head.size, tree_head.root)
    except (StructureError, StructError) as error:
        raise BadSignature(f"tree head of size {tree_head.size}: {error}") from error
    is_rsa = isinstance(key.key, rsa.RSAPublicKey)
    if (hash_algorithm, algorithm) != (_SHA256, _RSA if is_rsa else _ECDSA):
        raise BadSignature(
            f"tree head of size {tree_head.size} is signed with algorithms "
            f"{hash_algorithm}, {algorithm}, which the log's key cannot have made"
        )
    try:
        _verify(key.key, signature, signed)
    except InvalidSignature as error:
        raise BadSignature(f"tree head of size {tree_head.size}: not by the log's key") from error


def digitally_signed(data: bytes) -> tuple[int, int, bytes]:
    """Split a `digitally-signed` struct: hash algorithm, signature algorithm, signature.

    Raises:
        StructureError: it is none, or something follows it.
    """
    start, stop = vector(data, 2, 2, "signature")
    ends(data, stop, "signature")
    return data[0], data[1], data[start:stop]


def verify_log_list(json: bytes, signature: bytes, pem: bytes) -> None:
    """Verify the detached signature of a log list (log_list.sig beside log_list.json).

    Args:
        json: the list, byte for byte.
        signature: as served, without any encoding.
        pem: the publisher's public key.

    Raises:
        BadKey: `pem` is no key for this.
        BadSignature: the list is not what the key signed.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"log list key is not a PEM public key: {error}") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise BadKey(f"log list key is {type(key).__name__}, not RSA or ECDSA")
    try:
        _verify(key, signature, json)
    except InvalidSignature as error:
        raise BadSignature("log list is not signed by its publisher's key") from error


def note_key_hash(name: str, signature_type: int, key: bytes) -> bytes:
    """Compute the four bytes that distinguish the signature lines of a note (c2sp.org/signed-note).

    Args:
        name: key name; for a log, the checkpoint's origin.
        signature_type: 0x05 for RFC 6962 tree heads.
        key: encoding of the key; for type 0x05, the log id.
    """
    return sha256(b"%b\n%c%b" % (name.encode(), signature_type, key)).digest()[:4]


def _verify(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, signature: bytes, signed: bytes
) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        key.verify(signature, signed, _ECDSA_SHA256)
