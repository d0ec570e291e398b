"""A certificate message -> the same certificate as a message of version 2.

    {"message_type":"certificate_update","version":2,"data":{
      "source":{"name","url","log_id","operator","log_type"},
      "entry":{"index","type","observed_at","submitted_at","link"},
      "verification":{"checkpoint_signature","inclusion"},
      "cert":{the leaf_cert of lite}}}

`(log_id, index)` names the entry. Times are RFC 3339 in UTC with milliseconds, null outside the
years that it can write.
"""

from binascii import b2a_base64
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

Verified = Literal["verified", "unverified", "failed", "not_applicable"]


class Verification(msgspec.Struct, frozen=True):
    """What was verified of an entry before it was published.

    Attributes:
        checkpoint_signature: of the STH or checkpoint that covers it; `unverified` without a key.
        inclusion: of the entry in that tree.
    """

    checkpoint_signature: Verified = "unverified"
    inclusion: Verified = "unverified"


UNVERIFIED: Final = Verification()


class _Source(msgspec.Struct, frozen=True):
    name: str
    url: str
    operator: str
    type: str


class _Data(msgspec.Struct, frozen=True):
    update_type: str
    leaf_cert: msgspec.Raw
    cert_index: int
    cert_link: str
    seen: float
    submission_timestamp: float
    source: _Source


class _Message(msgspec.Struct, frozen=True):
    data: _Data


class _SourceV2(msgspec.Struct, frozen=True):
    name: str
    url: str
    log_id: str | None
    operator: str
    log_type: str


class _EntryV2(msgspec.Struct, frozen=True):
    index: int
    type: str
    observed_at: str | None
    submitted_at: str | None
    link: str


class _DataV2(msgspec.Struct, frozen=True):
    source: _SourceV2
    entry: _EntryV2
    verification: Verification
    cert: msgspec.Raw


class _MessageV2(msgspec.Struct, frozen=True):
    message_type: str
    version: int
    data: _DataV2


# Of `full` alone. Their names end the leaf_cert of a full message.
_ONLY_IN_FULL: Final = ("as_der", "tbs_sha256", "pubkey_sha256")
_TYPES: Final = {"X509LogEntry": "x509", "PrecertLogEntry": "precert"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_decode = msgspec.json.Decoder(_Message).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def v2_message(text: bytes, log_id: bytes | None, verification: Verification = UNVERIFIED) -> bytes:
    """Return the message of version 2, one line of JSON without an id.

    Args:
        text: certificate_update, full or lite, as `wire_messages` writes it.
        log_id: SHA-256 of the log's key, 32 bytes; None if the key is not known.
        verification: of the entry.

    Raises:
        msgspec.DecodeError: the text is no such message.
    """
    data = _decode(text).data
    source = data.source
    cert = data.leaf_cert
    if b'"as_der":' in bytes(cert):
        members = _decode_members(cert)
        for name in _ONLY_IN_FULL:
            members.pop(name, None)
        cert = msgspec.Raw(_encode(members))
    return _encode(
        _MessageV2(
            "certificate_update",
            2,
            _DataV2(
                _SourceV2(
                    source.name,
                    source.url,
                    None if log_id is None else b2a_base64(log_id, newline=False).decode(),
                    source.operator,
                    source.type.replace("-", "_"),
                ),
                _EntryV2(
                    data.cert_index,
                    _TYPES[data.update_type],
                    _time(data.seen),
                    _time(data.submission_timestamp),
                    data.cert_link,
                ),
                verification,
                cert,
            ),
        )
    )


def _time(seconds: float) -> str | None:
    """Return a time as in RFC 3339, with milliseconds."""
    try:
        moment = _EPOCH + timedelta(milliseconds=round(seconds * 1000))
    except OverflowError:
        return None
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"
