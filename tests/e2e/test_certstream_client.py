"""The `certstream` package from PyPI, as its users use it."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tests.e2e.processes import Process
from tests.e2e.site import Site
from tests.waiting import until

LISTEN = Path(__file__).parent / "listen.py"
COUNT = 25


async def listen(directory: Path, url: str) -> list[dict[str, Any]]:
    """The first messages that certstream.listen_for_events hands to its callback."""
    command = [sys.executable, str(LISTEN), url, str(COUNT)]
    process = Process("listen", command, directory)
    try:
        await until(lambda: not process.running, f"the client received {COUNT} messages", 120)
    finally:
        if process.running:
            process.kill()
    lines = process.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


async def test_five_clients_receive_the_streams(site: Site, tmp_path: Path) -> None:
    await site.start_redis()
    await site.start_logs(rate=50, seed=4)
    await site.configure()
    site.start_ingestor()
    address = await site.start_gateway()
    paths = ["/", "/", "/", "/full-stream", "/domains-only"]
    directories = [tmp_path / f"client-{number}" for number in range(len(paths))]
    for directory in directories:
        directory.mkdir()
    *lite, full, domains = await asyncio.gather(
        *(
            listen(directory, f"ws://{address}{path}")
            for directory, path in zip(directories, paths, strict=True)
        )
    )
    for messages in (*lite, full):
        assert len(messages) == COUNT
        for message in messages:
            assert message["message_type"] == "certificate_update"
            assert message["data"]["leaf_cert"]["all_domains"]
            assert ("as_der" in message["data"]["leaf_cert"]) is (messages is full)
            assert ("chain" in message["data"]) is (messages is full)
    assert len(domains) == COUNT
    for message in domains:
        assert message["message_type"] == "dns_entries"
        assert all(isinstance(name, str) for name in message["data"])
        assert message["data"]

    # Clients of one stream receive the same certificates in the same order.
    seen = [[message["id"] for message in messages] for messages in lite]
    for ids in seen:
        assert len(set(ids)) == COUNT
    begin = max(ids[0] for ids in seen)
    shared = [[message_id for message_id in ids if message_id >= begin] for ids in seen]
    shortest = min(map(len, shared))
    assert shared[0][:shortest] == shared[1][:shortest] == shared[2][:shortest]
