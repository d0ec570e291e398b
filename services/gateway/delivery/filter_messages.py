"""What filters compare of a message, and what a message that passes one gets."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ctfilter import Certificate, Match
from gateway.config import V2

MAX_MATCHES: Final = 10
"""Matches in a message; `matched_total` has their number if there are more."""


class _Name(msgspec.Struct, gc=False):
    CN: str | None = None
    O: str | None = None  # noqa: E741  (the attribute's name)


class _Leaf(msgspec.Struct, gc=False):
    issuer: _Name = msgspec.field(default_factory=_Name)
    all_domains: list[str] = []


class _Source(msgspec.Struct, gc=False):
    operator: str | None = None


class _Data(msgspec.Struct, gc=False):
    update_type: str = ""
    leaf_cert: _Leaf = msgspec.field(default_factory=_Leaf)
    source: _Source = msgspec.field(default_factory=_Source)


class _Entry(msgspec.Struct, gc=False):
    type: str = ""


class _DataV2(msgspec.Struct, gc=False):
    entry: _Entry = msgspec.field(default_factory=_Entry)
    cert: _Leaf = msgspec.field(default_factory=_Leaf)
    source: _Source = msgspec.field(default_factory=_Source)


class _UpdateV2(msgspec.Struct, gc=False):
    data: _DataV2


class _CertificateUpdate(msgspec.Struct, gc=False):
    data: _Data


class _DnsEntries(msgspec.Struct, gc=False):
    data: list[str]


class _RawLeaf(msgspec.Struct, gc=False):
    all_domains: msgspec.Raw


class _RawData(msgspec.Struct, gc=False):
    leaf_cert: _RawLeaf


class _RawUpdate(msgspec.Struct, gc=False):
    data: _RawData


class _Matched(msgspec.Struct):
    name: str | None
    match: str


_update = msgspec.json.Decoder(_CertificateUpdate)
_update_v2 = msgspec.json.Decoder(_UpdateV2)
_entries = msgspec.json.Decoder(_DnsEntries)
_raw_update = msgspec.json.Decoder(_RawUpdate)


def certificate_of(stream: str, message: bytes) -> Certificate:
    """Return what filters compare of a message.

    Raises:
        msgspec.MsgspecError: the message is not one of the stream.
    """
    if stream == "domains":
        return Certificate(_entries.decode(message).data)
    if stream == V2:
        version_2 = _update_v2.decode(message).data
        leaf, source = version_2.cert, version_2.source
        is_precert = version_2.entry.type == "precert"
    else:
        data = _update.decode(message).data
        leaf, source = data.leaf_cert, data.source
        is_precert = data.update_type == "PrecertLogEntry"
    issuer = leaf.issuer
    return Certificate(
        leaf.all_domains,
        issuer.CN or "",
        issuer.O or "",
        source.operator or "",
        precertificate=is_precert,
    )


def names_of(message: bytes) -> bytes:
    """Return the message of the stream domains for one of lite or full."""
    names = bytes(_raw_update.decode(message).data.leaf_cert.all_domains)
    return b'{"message_type":"dns_entries","data":%b}' % names


def with_matches(message: bytes, matches: Sequence[Match]) -> bytes:
    """Return a message with what matched as its last members."""
    shown = msgspec.json.encode([_Matched(name, text) for name, text in matches[:MAX_MATCHES]])
    total = b',"matched_total":%d' % len(matches) if len(matches) > MAX_MATCHES else b""
    return b'%b,"matched":%b%b}' % (message[:-1], shown, total)
