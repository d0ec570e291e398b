"""Messages of version 2 from those of the lite and the full stream."""

import base64
import json
from typing import Any

import msgspec
import pytest

from ctparse.v2_message import Verification, v2_message
from tests.ctparse.derbuild import certificate, dns, subject_alt_name
from tests.ctparse.reading import SEEN, SOURCE, entry_of, link, new_writer, write
from tests.ctparse.test_issuance import REAL

LOG_ID = bytes(range(32))


def v2(text: bytes, log_id: bytes | None = LOG_ID) -> dict[str, Any]:
    message = v2_message(text, log_id, Verification("verified", "failed"))
    assert b"\n" not in message
    return dict(json.loads(message))


@pytest.mark.parametrize("form", ["lite", "full"])
@pytest.mark.parametrize("entry", REAL)
def test_real_entries(entry: Any, form: str) -> None:
    made = new_writer(chain_der=True).write(entry, bytes(32), 1700000000.5)
    lite = json.loads(made.lite)["data"]
    timestamp = entry.timestamp
    found = v2(getattr(made, form))
    submitted = found["data"]["entry"].pop("submitted_at")
    assert found == {
        "message_type": "certificate_update",
        "version": 2,
        "data": {
            "source": {
                "name": SOURCE.name,
                "url": SOURCE.url,
                "log_id": base64.b64encode(LOG_ID).decode(),
                "operator": SOURCE.operator,
                "log_type": "rfc6962",
            },
            "entry": {
                "index": entry.index,
                "type": "precert" if entry.is_precert else "x509",
                "observed_at": "2023-11-14T22:13:20.500Z",
                "link": link(entry.index),
            },
            "verification": {"checkpoint_signature": "verified", "inclusion": "failed"},
            "cert": lite["leaf_cert"],
        },
    }
    assert list(found["data"]) == ["source", "entry", "verification", "cert"]
    assert submitted.endswith(f".{timestamp % 1000:03}Z")


def test_what_full_has_besides_is_left_out() -> None:
    made = write(certificate(subject_alt_name(dns('","as_der":"'))))
    assert {"as_der", "tbs_sha256", "pubkey_sha256"} < set(
        json.loads(made.full)["data"]["leaf_cert"]
    )
    assert v2(made.full) == v2(made.lite)
    assert not {"as_der", "tbs_sha256", "pubkey_sha256"} & set(v2(made.full)["data"]["cert"])


def test_a_log_without_a_key_has_no_id() -> None:
    assert v2(write(certificate()).lite, None)["data"]["source"]["log_id"] is None


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1779302893443, "2026-05-20T18:48:13.443Z"),
        (253402300799999, "9999-12-31T23:59:59.999Z"),
        (253402300800000, None),
        (2**64 - 1, None),
    ],
)
def test_times(timestamp: int, shown: str | None) -> None:
    entry = msgspec.structs.replace(entry_of(certificate()), timestamp=timestamp)
    found = v2(new_writer().write(entry, bytes(32), SEEN).lite)
    assert found["data"]["entry"]["submitted_at"] == shown


def test_static_ct() -> None:
    lite = write(certificate()).lite.replace(b'"type":"rfc6962"', b'"type":"static-ct"')
    assert v2(lite)["data"]["source"]["log_type"] == "static_ct"


@pytest.mark.parametrize("text", [b"", b"{}", b'{"data":1}', write(certificate()).domains])
def test_other_messages_are_errors(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        v2_message(text, LOG_ID)
