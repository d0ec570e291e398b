"""The `certstream` package from PyPI, as its users use it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.waiting import until

LISTEN = Path(__file__).parent / "listen.py"
COUNT = 25


async def listen(tmp_path: Path, url: str) -> list[dict[str, Any]]:
    """The first messages that certstream.listen_for_events hands to its callback."""
    command = [sys.executable, str(LISTEN), url, str(COUNT)]
    process = Process("listen", command, tmp_path)

    async def ended() -> bool:
        return not process.running

    try:
        await until(ended, f"the certstream client received {COUNT} messages", 30)
    finally:
        if process.running:
            process.kill()
    lines = process.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
async def address(site: Site) -> str:
    """A gateway that streams from live logs."""
    await site.start_redis()
    await site.start_logs(rate=50, seed=4)
    await site.configure()
    site.start_ingestor()
    return await site.start_gateway()


@pytest.mark.parametrize(
    ("path", "is_full"), [("/", False), ("/full-stream", True)], ids=["lite", "full"]
)
async def test_certificate_updates(
    address: str, tmp_path: Path, path: str, *, is_full: bool
) -> None:
    messages = await listen(tmp_path, f"ws://{address}{path}")
    assert len(messages) == COUNT
    for message in messages:
        assert message["message_type"] == "certificate_update"
        assert message["data"]["leaf_cert"]["all_domains"]
        assert ("as_der" in message["data"]["leaf_cert"]) is is_full
        assert ("chain" in message["data"]) is is_full


async def test_domains(address: str, tmp_path: Path) -> None:
    messages = await listen(tmp_path, f"ws://{address}/domains-only")
    assert len(messages) == COUNT
    for message in messages:
        assert message["message_type"] == "dns_entries"
        assert all(isinstance(name, str) for name in message["data"])
        assert message["data"]


async def test_three_clients_at_once_see_the_same_certificates(
    address: str, tmp_path: Path
) -> None:
    directories = [tmp_path / name for name in ("first", "second", "third")]
    for directory in directories:
        directory.mkdir()
    lists = await asyncio.gather(
        *(listen(directory, f"ws://{address}/") for directory in directories)
    )
    seen = [[message["id"] for message in messages] for messages in lists]
    for ids in seen:
        assert len(set(ids)) == COUNT
    begin = max(ids[0] for ids in seen)
    shared = [[message_id for message_id in ids if message_id >= begin] for ids in seen]
    shortest = min(map(len, shared))
    assert shared[0][:shortest] == shared[1][:shortest] == shared[2][:shortest]
