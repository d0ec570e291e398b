"""One delivered message against the record of a world.

Nothing that the server computed is trusted: fingerprints, names and dates are worked out again
from the certificate with `cryptography`.
"""

from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha1, sha256
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from simlog.oracle.ground_truth import TruthEntry

MessageForm = Literal["full", "lite", "domains"]


class MessageResult(msgspec.Struct, frozen=True):
    """The content of one message, and what is wrong with it.

    Attributes:
        kind: its message_type.
        id: `<milliseconds>-<sequence number>-<position>`.
        order: the same as numbers, which is what ids compare by.
        sha256: of the certificate it is about; empty where it does not contain it (domains), or
            where it names an index of a log that holds another certificate.
        core: digest of everything that the lite and full forms of one message share.
        names: DNS names of the certificate.
        problems: fields that differ from its certificate.
        uncommitted: what a log showed and never committed to, if it is about that; else empty.
    """

    kind: str
    id: str = ""
    order: tuple[int, ...] = ()
    sha256: str = ""
    core: bytes = b""
    names: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    uncommitted: str = ""


class GroundTruth:
    """The record of a world, by certificate and by index. Identical messages are examined once.

    Attributes:
        by_place: the entry at (log, index).
        by_sha256: one of the entries of each certificate that can be read.
        owed: SHA-256 of the certificates that some log holds outside what is excused.
        uncommitted: what a log showed at (log, index, SHA-256) and never committed to.
        malformed: how many entries of each log are no certificate.
    """

    def __init__(
        self, record: Iterable[TruthEntry], excused: Mapping[str, range] | None = None
    ) -> None:
        record, excused = list(record), excused or {}
        self.uncommitted = {
            (entry.log, entry.index, entry.sha256): entry.misbehaviour
            for entry in record
            if entry.misbehaviour
        }
        self.by_place = {
            (entry.log, entry.index): entry for entry in record if not entry.misbehaviour
        }
        readable = [entry for entry in self.by_place.values() if not entry.malformed]
        self.by_sha256 = {entry.sha256: entry for entry in readable}
        self.owed = {
            entry.sha256 for entry in readable if entry.index not in excused.get(entry.log, ())
        }
        self.malformed = Counter(entry.log for entry in self.by_place.values() if entry.malformed)
        self.examine = cache(self._examine)

    def _examine(self, form: MessageForm, text: bytes) -> MessageResult:
        try:
            content = msgspec.json.decode(text)
            if content["message_type"] in ("heartbeat", "gap"):
                return MessageResult(content["message_type"], problems=(str(content.get("data")),))
            return self._domains(content) if form == "domains" else self._update(content, form)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__} {error} in {text[:200]!r}"
            return MessageResult("unreadable", problems=(reason,))

    def _domains(self, content: dict[str, Any]) -> MessageResult:
        kind, message_id = content["message_type"], content["id"]
        problems = differences(("message_type", kind, "dns_entries"))
        names = tuple(content["data"])
        return MessageResult(kind, message_id, _order(message_id), names=names, problems=problems)

    def _update(self, content: dict[str, Any], form: MessageForm) -> MessageResult:
        kind, message_id, data = content["message_type"], content.pop("id"), content["data"]
        leaf, source = data["leaf_cert"], data["source"]
        place = (source["name"], data["cert_index"])
        entry = self.by_place.get(place)
        fingerprint = leaf["sha256"].replace(":", "").lower()
        if fault := self.uncommitted.get((*place, fingerprint)):
            shown = f"{fault}: {fingerprint} at {place}"
            names = tuple(leaf["all_domains"])
            return MessageResult(
                kind, message_id, _order(message_id), fingerprint, names=names, uncommitted=shown
            )
        if entry is None or entry.sha256 != fingerprint:
            problem = f"{fingerprint} is not the certificate at {place}"
            return MessageResult(kind, message_id, _order(message_id), problems=(problem,))
        problems = differences(
            ("message_type", kind, "certificate_update"),
            ("update_type", data["update_type"], _update_type(entry)),
            ("submission_timestamp", round(1000 * data["submission_timestamp"]), entry.timestamp),
            ("all_domains", tuple(leaf["all_domains"]), entry.names),
            ("presence of as_der", "as_der" in leaf, form == "full"),
            ("presence of chain", "chain" in data, form == "full"),
        )
        if form == "full":
            problems += _against_der(leaf)
        for name in ("as_der", "tbs_sha256", "pubkey_sha256"):
            leaf.pop(name, None)
        data.pop("chain", None)
        core = sha256(msgspec.json.encode(content, order="deterministic")).digest()
        return MessageResult(
            kind, message_id, _order(message_id), fingerprint, core, entry.names, problems
        )


def differences(*comparisons: tuple[str, object, object]) -> tuple[str, ...]:
    """Describe every (field, found, right) whose value is not the right one."""
    return tuple(
        f"{field} is {found!r}, not {right!r}"
        for field, found, right in comparisons
        if found != right
    )


def _order(message_id: str) -> tuple[int, ...]:
    milliseconds, sequence, position = (int(part) for part in message_id.split("-"))
    return milliseconds, sequence, position


def _update_type(entry: TruthEntry) -> str:
    return "PrecertLogEntry" if entry.is_precert else "X509LogEntry"


def _against_der(leaf: Mapping[str, Any]) -> tuple[str, ...]:
    """Compare the fields of a certificate with its own DER."""
    der = b64decode(leaf["as_der"])
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    san = ", ".join(f"DNS:{name}" for name in names.get_values_for_type(x509.DNSName))
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    right = sha256(key).hexdigest()
    return differences(
        ("pubkey_sha256", leaf.get("pubkey_sha256", right), right),  # the release before has none
        ("sha256", leaf["sha256"], _colons(sha256(der).digest())),
        ("sha1", leaf["sha1"], _colons(sha1(der, usedforsecurity=False).digest())),
        ("serial_number", int(leaf["serial_number"], 16), certificate.serial_number),
        ("not_before", leaf["not_before"], int(certificate.not_valid_before_utc.timestamp())),
        ("not_after", leaf["not_after"], int(certificate.not_valid_after_utc.timestamp())),
        ("subject", leaf["subject"]["CN"], _common_name(certificate.subject)),
        ("issuer", leaf["issuer"]["CN"], _common_name(certificate.issuer)),
        ("subjectAltName", leaf["extensions"]["subjectAltName"], san),
    )


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()


def _common_name(name: x509.Name) -> str | None:
    values = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if values else None
