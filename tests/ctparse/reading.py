"""Shortcuts for tests: from DER or a log entry to the parsed message."""

import json
from hashlib import sha256
from typing import Any

from ctparse.entry import Entry
from ctparse.rfc6962 import chain_certificates
from ctparse.wire_messages import Message, MessageWriter, Source

SOURCE = Source("Example 'Log2026'", "https://log.example/2026/", "Example", "rfc6962")
SEEN = 1700000000.0


def link(index: int) -> str:
    return f"{SOURCE.url}ct/v1/get-entries?start={index}&end={index}"


def new_writer(**options: Any) -> MessageWriter:
    return MessageWriter(SOURCE, link, chain_certificates, **options)


def entry_of(certificate: bytes, *, is_precert: bool = False, chain: bytes = b"") -> Entry:
    return Entry(7, 1779302893443, is_precert, certificate, chain, b"")


def write(certificate: bytes, writer: MessageWriter | None = None, **fields: Any) -> Message:
    entry = entry_of(certificate, **fields)
    return (writer or new_writer()).write(entry, sha256(certificate).digest(), SEEN)


def leaf_cert(message: Message) -> dict[str, Any]:
    leaf: dict[str, Any] = json.loads(message.lite)["data"]["leaf_cert"]
    return leaf
