"""What the fixtures hold, read once."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.paths import FIXTURES


@pytest.fixture(scope="session")
def ct_entries() -> list[dict[str, Any]]:
    """Twenty real entries, with the messages another server made of them."""
    entries: list[dict[str, Any]] = json.loads((FIXTURES / "ct_entries.json").read_bytes())
    return entries


@pytest.fixture(scope="session")
def certificates(ct_entries: list[dict[str, Any]]) -> list[bytes]:
    """The DER of their certificates and precertificates."""
    return [
        base64.b64decode(entry["expected_full"]["data"]["leaf_cert"]["as_der"])
        for entry in ct_entries
    ]


@pytest.fixture(scope="session")
def sunlight() -> Path:
    """A static-ct log of 700 entries, as Sunlight wrote it."""
    return FIXTURES / "sunlight"


@pytest.fixture(scope="session")
def log_list() -> dict[str, bytes]:
    """Google's log list, its signature, its key."""
    return {
        name: (FIXTURES / f"log_list{name}").read_bytes()
        for name in (".json", ".sig", "_pubkey.pem")
    }
