"""An entry -> its message, in the three forms the streams carry. One encode makes all three.

    full     {"message_type":"certificate_update","data":{... ,"as_der":...,"tbs_sha256":...,
             "pubkey_sha256":...},"chain":[...], ...}}
    lite     the same without these and without chain
    domains  {"message_type":"dns_entries","data":[...]}

Each is one line of JSON (encoders escape control characters, and every text that came out of a
certificate went through one) and opens with its message_type, so that a gateway can put
an id in after the first brace.

The text of the leaf is written once; `lite` adds the frame around it, `full` also the DER and the
chain. A log serves a few hundred chains over and over: each is rendered once and found again by
its first bytes and its length, then compared in full, which is cheaper than hashing kilobytes.
"""

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from hashlib import sha1, sha256

import msgspec

from ctparse.bounded import add
from ctparse.certificate import Certificate, CertificateReader
from ctparse.entry import Entry, IncompleteChain, Malformed, Unreadable
from ctparse.precert import issuance_hashes

# These bytes include the first certificate's serial number; for static-ct, two fingerprints.
_CHAIN_HEAD = 64
# Some 700 chains: more than a log has in use at a time, little enough for every log to have it.
_MAX_CHAINS_BYTES = 4 * 1024 * 1024


class Source(msgspec.Struct, frozen=True):
    """The log a message comes from, as the message names it.

    Attributes:
        name: what its operator calls it.
        url: where it is, with a slash at the end.
        operator: who runs it.
        type: "rfc6962" or "static-ct".
    """

    name: str
    url: str
    operator: str
    type: str


class Message(msgspec.Struct, frozen=True, gc=False):
    """One certificate, ready to publish.

    Attributes:
        sha256: fingerprint of the certificate, 32 bytes; what it is deduplicated by.
        sha1: its other fingerprint, 20 bytes.
        full: certificate_update with DER and chain, one line of JSON.
        lite: certificate_update without them.
        domains: dns_entries.
        problems: what could not be read and was left out, a line each.
        tbs_sha256: of its TBSCertificate without poison and SCTs, 32 bytes: the same for a
            precertificate and the certificate issued for it (`precert.tbs_sha256`).
    """

    sha256: bytes
    sha1: bytes
    full: bytes
    lite: bytes
    domains: bytes
    problems: tuple[str, ...]
    tbs_sha256: bytes = b""


class _Chain(msgspec.Struct, frozen=True, gc=False):
    raw: bytes
    json: bytes
    problems: tuple[str, ...]


class MessageWriter:
    """Writes the messages of one log."""

    def __init__(
        self,
        source: Source,
        link: Callable[[int], str],
        resolve: Callable[[bytes], Sequence[bytes]],
        *,
        chain_der: bool = False,
        reader: CertificateReader | None = None,
    ) -> None:
        """Prepare what stays the same from message to message.

        Args:
            source: the log.
            link: index -> where the entry can be fetched (`cert_link`).
            resolve: `Entry.chain` -> the DER of its certificates, issuer first
                (`rfc6962.chain_certificates`, or a look-up of fingerprints). Its answer is kept
                and used again, unless it raises `IncompleteChain`: then the message has what is
                available, and the next message with this chain requests them again.
            chain_der: whether certificates of the chain carry `as_der`, too.
            reader: shared by the writers of a process, so that they share what it remembers.
        """
        self._reader = reader or CertificateReader()
        self._link = link
        self._resolve = resolve
        self._chain_der = chain_der
        self._encode = msgspec.json.Encoder().encode
        self._chains: dict[tuple[bytes, int], _Chain] = {}
        self._chains_bytes = 0
        self._source = self._encode(source).decode()

    def write(self, entry: Entry, sha256: bytes, seen: float) -> Message:
        """Write the message of an entry.

        Args:
            entry: as a log served it.
            sha256: of `entry.certificate`.
            seen: when it was fetched, Unix seconds.

        Raises:
            Unreadable: the certificate has not even an outline. Certificates of the chain that
                have none, or a chain that is `Malformed`, are left out and named in `problems`.
        """
        der = entry.certificate
        certificate = self._reader.read(der)
        digest = sha1(der, usedforsecurity=False).digest()
        encode = self._encode
        domains = encode(certificate.domains).decode()
        if entry.is_precert:
            kind = "PrecertLogEntry"
            certificate.extensions["ctlPoisonByte"] = '"ctlPoisonByte":true'
        else:
            kind = "X509LogEntry"
        head = (
            f'{{"message_type":"certificate_update","data":{{"update_type":"{kind}",'
            f'"leaf_cert":{_members(certificate, sha256, digest)},"all_domains":{domains}'
        ).encode()
        # The encoder writes a float in a fifth of the time of an f-string, and base64 faster.
        tail = (
            f',"cert_index":{entry.index},"cert_link":{encode(self._link(entry.index)).decode()},'
            f'"seen":{encode(seen).decode()},'
            f'"submission_timestamp":{encode(entry.timestamp / 1000).decode()},'
            f'"source":{self._source}}}}}'
        ).encode()
        tbs, key = issuance_hashes(entry, certificate)
        hashes = f'"tbs_sha256":"{tbs.hex()}","pubkey_sha256":"{key.hex()}"'.encode()
        chain = self._chain(entry.chain)
        return Message(
            sha256,
            digest,
            b"".join(
                (head, b',"as_der":', encode(der), b",", hashes, b'},"chain":', chain.json, tail)
            ),
            b"".join((head, b"}", tail)),
            f'{{"message_type":"dns_entries","data":{domains}}}'.encode(),
            (*certificate.problems, *chain.problems, *((entry.problem,) if entry.problem else ())),
            tbs,
        )

    def size(self, entry: Entry) -> int:
        """Bytes of DER that `write` is to parse: the certificate, and a chain not seen lately."""
        raw = entry.chain
        chain = self._chains.get((raw[:_CHAIN_HEAD], len(raw)))
        if chain is not None and chain.raw == raw:
            return len(entry.certificate)
        try:
            certificates = self._resolve(raw)
        except Malformed:
            certificates = ()
        except IncompleteChain as error:
            certificates = error.certificates
        return len(entry.certificate) + sum(map(len, certificates))

    def _chain(self, raw: bytes) -> _Chain:
        key = raw[:_CHAIN_HEAD], len(raw)
        chain = self._chains.get(key)
        if chain is None or chain.raw != raw:
            try:
                chain = self._render_chain(raw, self._resolve(raw))
            except Malformed as error:
                chain = self._render_chain(raw, (), f"chain: {error}")
            except IncompleteChain as error:
                return self._render_chain(raw, error.certificates, f"chain: {error}")
            self._chains_bytes += len(raw) + len(chain.json)
            if self._chains_bytes > _MAX_CHAINS_BYTES:
                self._chains.clear()
                self._chains_bytes = len(raw) + len(chain.json)
            self._chains[key] = chain
        return chain

    def _render_chain(self, raw: bytes, certificates: Sequence[bytes], *why: str) -> _Chain:
        """Write a chain; `why`: why it is not complete."""
        rendered: list[bytes] = []
        problems: list[str] = []
        add(problems, *why)
        for position, der in enumerate(certificates):
            try:
                certificate = self._reader.read(der)
            except Unreadable as error:
                add(problems, f"chain certificate {position}: {error}")
                continue
            add(problems, *(f"chain certificate {position}: {p}" for p in certificate.problems))
            body = _members(
                certificate, sha256(der).digest(), sha1(der, usedforsecurity=False).digest()
            ).encode()
            as_der = b',"as_der":"%b"' % b2a_base64(der, newline=False) if self._chain_der else b""
            rendered.append(b"%b%b}" % (body, as_der))
        return _Chain(raw, b"[%b]" % b",".join(rendered), tuple(problems))


def _members(certificate: Certificate, sha256: bytes, sha1: bytes) -> str:
    """Write what leaf_cert and the certificates of a chain have in common; the brace stays open."""
    fingerprint = sha1.hex(":").upper()
    not_before, not_after = certificate.not_before, certificate.not_after
    return (
        f'{{"subject":{certificate.subject},"issuer":{certificate.issuer},'
        f'"serial_number":"{certificate.serial_number}",'
        f'"not_before":{"null" if not_before is None else not_before},'
        f'"not_after":{"null" if not_after is None else not_after},'
        f'"fingerprint":"{fingerprint}","sha1":"{fingerprint}",'
        f'"sha256":"{sha256.hex(":").upper()}",'
        f'"signature_algorithm":{certificate.signature_algorithm},'
        f'"is_ca":{"true" if certificate.is_ca else "false"},'
        f'"extensions":{{{",".join(certificate.extensions.values())}}}'
    )
