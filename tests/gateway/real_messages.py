"""Messages of real certificates, as an ingestor writes them."""

import json
from hashlib import sha256

from ctparse import rfc6962
from ctparse.entry import Entry
from ctparse.wire_messages import Message, MessageWriter, Source
from tests.paths import FIXTURES

_FIXTURE = FIXTURES / "ct_entries.json"
_SOURCE = Source("A log", "https://log.example/2026/", "An operator", "rfc6962")
_SEEN = 1_779_302_893.25


def real_messages(*, chain_der: bool = False) -> list[Message]:
    """The messages of the certificates in the fixture."""
    writer = MessageWriter(_SOURCE, _link, rfc6962.chain_certificates, chain_der=chain_der)
    messages = []
    for fixture in json.loads(_FIXTURE.read_bytes()):
        raw = {key: fixture[key] for key in ("leaf_input", "extra_data")}
        body = json.dumps({"entries": [raw]}).encode()
        (entry,) = rfc6962.decode_entries(body, int(fixture["cert_index"]))
        assert isinstance(entry, Entry)
        messages.append(writer.write(entry, sha256(entry.certificate).digest(), _SEEN))
    return messages


def _link(index: int) -> str:
    return f"{_SOURCE.url}ct/v1/get-entries?start={index}&end={index}"
