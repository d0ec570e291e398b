"""Signatures verify, and nothing else does."""

import base64
import subprocess
import sys
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ctparse.signatures import (
    BadKey,
    BadSignature,
    load_log_key,
    note_key_hash,
    verify_log_list,
    verify_tree_head,
)
from ctparse.tree_head import TreeHead

ROOT = sha256(b"root").digest()
SIGNED = b"\0\1" + (1700).to_bytes(8) + (12).to_bytes(8) + ROOT


def spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def digitally_signed(algorithm: int, signature: bytes, hash_algorithm: int = 4) -> bytes:
    return bytes((hash_algorithm, algorithm)) + len(signature).to_bytes(2) + signature


def test_no_signature_needs_a_file() -> None:
    """A process that has no descriptors left verifies: no module is imported for the first one."""
    private = ec.generate_private_key(ec.SECP256R1())
    signature = private.sign(SIGNED, ec.ECDSA(hashes.SHA256()))
    head = TreeHead(12, 1700, ROOT, digitally_signed(3, signature))
    verify = (
        "import base64, resource, sys; from ctparse.signatures import *;"
        "from ctparse.tree_head import TreeHead;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3));"
        "key, root, signature = map(base64.b64decode, sys.argv[1:]);"
        "verify_tree_head(load_log_key(key), TreeHead(12, 1700, root, signature))"
    )
    arguments = [base64.b64encode(each).decode() for each in (spki(private), ROOT, head.signature)]
    subprocess.run([sys.executable, "-c", verify, *arguments], check=True)


class TestTreeHead:
    def test_ecdsa(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        signature = private.sign(SIGNED, ec.ECDSA(hashes.SHA256()))
        key = load_log_key(spki(private))
        verify_tree_head(key, TreeHead(12, 1700, ROOT, digitally_signed(3, signature)))
        for other in (
            TreeHead(13, 1700, ROOT, digitally_signed(3, signature)),
            TreeHead(12, 1701, ROOT, digitally_signed(3, signature)),
            TreeHead(12, 1700, bytes(32), digitally_signed(3, signature)),
            TreeHead(12, 1700, ROOT, digitally_signed(1, signature)),
            TreeHead(12, 1700, ROOT, digitally_signed(3, signature, hash_algorithm=5)),
            TreeHead(12, 1700, ROOT, digitally_signed(3, signature) + b"!"),
            TreeHead(12, 1700, ROOT, digitally_signed(3, signature)[:-1]),
            TreeHead(12, 1700, ROOT, digitally_signed(3, b"")),
            TreeHead(12, 1700, ROOT, b""),
            TreeHead(-1, 1700, ROOT, digitally_signed(3, signature)),
        ):
            with pytest.raises(BadSignature, match=f"tree head of size {other.size}"):
                verify_tree_head(key, other)

    def test_rsa(self) -> None:
        private = rsa.generate_private_key(65537, 2048)
        signature = private.sign(SIGNED, padding.PKCS1v15(), hashes.SHA256())
        key = load_log_key(spki(private))
        verify_tree_head(key, TreeHead(12, 1700, ROOT, digitally_signed(1, signature)))
        with pytest.raises(BadSignature):
            verify_tree_head(key, TreeHead(12, 1700, ROOT, digitally_signed(3, signature)))

    def test_another_key(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        signature = private.sign(SIGNED, ec.ECDSA(hashes.SHA256()))
        other = load_log_key(spki(ec.generate_private_key(ec.SECP256R1())))
        with pytest.raises(BadSignature):
            verify_tree_head(other, TreeHead(12, 1700, ROOT, digitally_signed(3, signature)))


class TestKey:
    def test_id(self) -> None:
        encoded = spki(ec.generate_private_key(ec.SECP256R1()))
        assert load_log_key(encoded).id == sha256(encoded).digest()

    def test_other_kinds_of_key(self) -> None:
        for private in (
            ec.generate_private_key(ec.SECP384R1()),
            ed25519.Ed25519PrivateKey.generate(),
        ):
            with pytest.raises(BadKey, match="not ECDSA on P-256 or RSA"):
                load_log_key(spki(private))

    @pytest.mark.parametrize("encoded", [b"", b"\x30\0", b"-----BEGIN PUBLIC KEY-----"])
    def test_no_key(self, encoded: bytes) -> None:
        with pytest.raises(BadKey, match="not a DER SubjectPublicKeyInfo"):
            load_log_key(encoded)

    def test_note_key_hash(self) -> None:
        """The example of c2sp.org/signed-note: example.com/foo+530d903a+AekyeRrm56h..."""
        key = base64.b64decode("AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
        assert note_key_hash("example.com/foo", key[0], key[1:]).hex() == "530d903a"


class TestLogList:
    def test_google(self, log_list: dict[str, bytes]) -> None:
        json, signature, key = (log_list[name] for name in (".json", ".sig", "_pubkey.pem"))
        verify_log_list(json, signature, key)

    @pytest.mark.parametrize("part", [".json", ".sig"])
    @pytest.mark.parametrize("at", [0, 100, -1])
    def test_one_changed_byte(self, log_list: dict[str, bytes], part: str, at: int) -> None:
        changed = bytearray(log_list[part])
        changed[at] ^= 1
        parts = log_list | {part: bytes(changed)}
        with pytest.raises(BadSignature):
            verify_log_list(parts[".json"], parts[".sig"], parts["_pubkey.pem"])

    def test_ecdsa(self) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        verify_log_list(b"{}", private.sign(b"{}", ec.ECDSA(hashes.SHA256())), pem(private))
        with pytest.raises(BadSignature):
            verify_log_list(b"{}", b"", pem(private))

    def test_bad_keys(self) -> None:
        for key in (b"", b"no PEM", pem(ed25519.Ed25519PrivateKey.generate())):
            with pytest.raises(BadKey, match="log list key is"):
                verify_log_list(b"{}", b"", key)
