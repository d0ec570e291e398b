"""The types of the messages, as clients receive them, and their JSON Schemas.

`libs/ctparse/wire_messages.py` writes the messages.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MessageId = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]+-[0-9]+-[0-9]+$",
        description="Resume after this message with ?cursor=<id>, or Last-Event-ID.",
        examples=["1779302892000-0-17"],
    ),
]
Sha1 = Annotated[
    str, Meta(pattern="^([0-9A-F]{2}:){19}[0-9A-F]{2}$", description="SHA-1 of the DER.")
]
Sha256 = Annotated[
    str, Meta(pattern="^([0-9A-F]{2}:){31}[0-9A-F]{2}$", description="SHA-256 of the DER.")
]
Base64 = Annotated[str, Meta(pattern="^[A-Za-z0-9+/]+={0,2}$", description="In base64.")]
HexSha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Text = str | UnsetType

TBS: Final = Meta(
    description="SHA-256 of the TBSCertificate without poison and SCT list: the same for a "
    "precertificate and its certificate."
)
PUBKEY: Final = Meta(description="SHA-256 of the SubjectPublicKeyInfo.")


class Name(msgspec.Struct, frozen=True):
    """A subject or issuer. An absent attribute is null; of several values, the last is shown."""

    C: str | None
    CN: str | None
    L: str | None
    O: str | None  # noqa: E741  (the attribute's name)
    OU: str | None
    ST: str | None
    aggregated: Annotated[str, Meta(examples=["/C=US/CN=a.example/O=Example"])]
    email_address: str | None


class Extensions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Extensions as text; absent ones are omitted."""

    authorityInfoAccess: Text = UNSET  # noqa: N815  (names of the format)
    authorityKeyIdentifier: Text = UNSET  # noqa: N815
    basicConstraints: Text = UNSET  # noqa: N815
    certificatePolicies: Text = UNSET  # noqa: N815
    ctlPoisonByte: bool | UnsetType = UNSET  # noqa: N815
    extendedKeyUsage: Text = UNSET  # noqa: N815
    keyUsage: Text = UNSET  # noqa: N815
    subjectAltName: Text = UNSET  # noqa: N815
    subjectKeyIdentifier: Text = UNSET  # noqa: N815


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate. Dates are Unix seconds."""

    subject: Name
    issuer: Name
    serial_number: Annotated[str, Meta(pattern="^[0-9A-F]*$")]
    not_before: int | None
    not_after: int | None
    fingerprint: Sha1
    sha1: Sha1
    sha256: Sha256
    signature_algorithm: Annotated[str | None, Meta(examples=["sha256, rsa"])]
    is_ca: bool
    extensions: Extensions


class ChainCertificate(Certificate, frozen=True, kw_only=True):
    """A certificate of the chain; `as_der` is present if `streams.chain_der` is on."""

    as_der: Base64 | UnsetType = UNSET


class LeafCertificate(Certificate, frozen=True, kw_only=True):
    """The certificate that a log has received."""

    all_domains: Annotated[
        list[str], Meta(description="The CN if it is a DNS name, then subjectAltName's.")
    ]


class FullLeafCertificate(LeafCertificate, frozen=True, kw_only=True):
    """The certificate that a log has received, with its DER."""

    as_der: Base64
    tbs_sha256: Annotated[HexSha256 | UnsetType, TBS] = UNSET
    pubkey_sha256: Annotated[HexSha256 | UnsetType, PUBKEY] = UNSET


class Source(msgspec.Struct, frozen=True):
    """The log that a certificate comes from."""

    name: str
    url: str
    operator: str
    type: Literal["rfc6962", "static-ct"]


class _Data(msgspec.Struct, frozen=True, kw_only=True):
    update_type: Literal["X509LogEntry", "PrecertLogEntry"]
    cert_index: Annotated[int, Meta(ge=0, description="Index of the entry in the log.")]
    cert_link: Annotated[str, Meta(description="URL of the entry.")]
    seen: Annotated[float, Meta(description="When this service read it, Unix seconds.")]
    submission_timestamp: Annotated[float, Meta(description="Time of the log, Unix seconds.")]
    source: Source


class LiteData(_Data, frozen=True, kw_only=True):
    """A certificate, its log and its index there."""

    leaf_cert: LeafCertificate


class FullData(_Data, frozen=True, kw_only=True):
    """A certificate with DER and chain, its log and its index there."""

    leaf_cert: FullLeafCertificate
    chain: Annotated[list[ChainCertificate], Meta(description="The issuer first.")]


class LiteMessage(msgspec.Struct, frozen=True):
    """A new certificate, on the stream `lite`."""

    id: MessageId
    message_type: Literal["certificate_update"]
    data: LiteData


class FullMessage(msgspec.Struct, frozen=True):
    """A new certificate, on the stream `full`."""

    id: MessageId
    message_type: Literal["certificate_update"]
    data: FullData


class DomainsMessage(msgspec.Struct, frozen=True):
    """The names in a new certificate, on the stream `domains`."""

    id: MessageId
    message_type: Literal["dns_entries"]
    data: list[str]


Verified = Literal["verified", "unverified", "failed", "not_applicable"]
Time = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        description="RFC 3339, UTC; null if the year has more than four digits.",
    ),
]


class V2Source(msgspec.Struct, frozen=True):
    """The log that a certificate comes from."""

    name: str
    url: str
    log_id: Annotated[Base64 | None, Meta(description="SHA-256 of the key; null if unknown.")]
    operator: str
    log_type: Literal["rfc6962", "static_ct"]


class V2Entry(msgspec.Struct, frozen=True):
    """The entry of the log."""

    index: Annotated[int, Meta(ge=0)]
    type: Literal["x509", "precert"]
    observed_at: Time | None
    submitted_at: Time | None
    link: str


class V2Verification(msgspec.Struct, frozen=True):
    """What was verified before the entry was published."""

    checkpoint_signature: Annotated[
        Verified, Meta(description="Of the STH or checkpoint that covers the entry.")
    ]
    inclusion: Annotated[Verified, Meta(description="Of the entry in that tree.")]


class V2Data(msgspec.Struct, frozen=True):
    """A certificate, its log, its entry there and what was verified of it."""

    source: V2Source
    entry: V2Entry
    verification: V2Verification
    cert: LeafCertificate


class V2Message(msgspec.Struct, frozen=True):
    """A new certificate, on the stream `v2`."""

    id: MessageId
    message_type: Literal["certificate_update"]
    version: Literal[2]
    data: V2Data


MESSAGES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "full": FullMessage,
    "lite": LiteMessage,
    "domains": DomainsMessage,
    "v2": V2Message,
}
"""Type of the messages of each stream."""


def schema(stream: str) -> dict[str, Any]:
    """Return the JSON Schema of a stream's messages.

    Later versions may add members, which clients ignore.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"certstream message: {stream}",
        **msgspec.json.schema(MESSAGES[stream]),
    }
