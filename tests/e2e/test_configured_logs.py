"""`up` with a certstream-server-rust config.yaml that names its logs follows exactly those."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from launcher.runtime.embedded_redis import find_running
from tests.e2e.clients import Client, connected
from tests.e2e.invariants import broken
from tests.e2e.processes import Process, free_port
from tests.e2e.site import Site
from tests.waiting import until

# certstream-server-rust 1.5.3's own file, but for what a test has to choose.
PEERS = {
    "log_level": "info",
    "buffer_size": 1000,
    "dedup": {"capacity": 200_000, "ttl_secs": 900},
    "connection_limit": {"enabled": False, "max_connections": 10_000, "per_ip_limit": None},
    "hot_reload": {"enabled": False, "watch_path": None},
}
CONFIGURED = {"rfc1", "static2"}


def named(log: Mapping[str, Any]) -> bool:
    return log["name"] in CONFIGURED


def updates(client: Client) -> list[dict[str, Any]]:
    """What it received of certificates; heartbeats left out."""
    messages = map(msgspec.json.decode, client.messages)
    return [each for each in messages if each["message_type"] == "certificate_update"]


async def configured(site: Site, state: Path) -> tuple[dict[str, str], str]:
    """Live logs, and the variables that make `up` follow two of them."""
    await site.start_logs(rate=100, seed=5)
    address = f"127.0.0.1:{free_port()}"
    host, _, port = address.partition(":")
    config = await site.configure(named, **PEERS, host=host, port=int(port))
    return {"CERTSTREAM_CONFIG": str(config), "CERTSTREAM_STATE_DIR": str(state)}, address


async def received(site: Site, address: str, messages: int) -> list[Client]:
    """Lite clients of the server, once they have that many messages."""

    async def healthy() -> bool:
        return await site.healthy(address)

    await until(healthy, "the server is healthy")
    async with connected([address], ["lite"]) as clients:

        async def enough() -> bool:
            return all(len(client.messages) >= messages for client in clients)

        await until(enough, f"{messages} messages")
    return clients


async def stopped(site: Site, up: Process, state: Path, number: signal.Signals) -> None:
    """End it, with its Redis, after the invariants were checked."""
    site.redis_url = find_running(state) or ""
    assert site.redis_url, str(up)
    assert await broken(site) == []
    site.redis_url = ""
    assert up.stop(number) == 0, str(up)


async def test_it_follows_the_configured_logs_and_no_others(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment, address = await configured(site, state)
    up = site.start_up(environment)
    for client in await received(site, address, 300):
        sources = {each["data"]["source"]["name"] for each in updates(client)}
        assert sources == CONFIGURED, str(up)
    assert list(state.iterdir())
    await stopped(site, up, state, signal.SIGINT)


async def test_a_restart_continues_where_it_stopped(site: Site, tmp_path: Path) -> None:
    environment, address = await configured(site, tmp_path / "state")
    fingerprints: list[str] = []
    ids: list[tuple[int, ...]] = []
    for _ in range(2):
        up = site.start_up(environment)
        client, _ = await received(site, address, 100)
        fingerprints += [each["data"]["leaf_cert"]["sha256"] for each in updates(client)]
        ids += [tuple(map(int, each["id"].split("-"))) for each in updates(client)]
        await stopped(site, up, tmp_path / "state", signal.SIGTERM)
    assert len(set(fingerprints)) == len(fingerprints)
    assert ids == sorted(ids)


async def test_a_second_up_on_the_same_state_directory_is_refused(
    site: Site, tmp_path: Path
) -> None:
    environment, address = await configured(site, tmp_path / "state")
    first = site.start_up(environment)
    await received(site, address, 1)
    second = site.start_up(environment, f"--port={free_port()}")

    async def ended() -> bool:
        return not second.running

    await until(ended, "the second `up` ends")
    assert "state" in second.log.read_text()
    assert first.running
    await received(site, address, 1)
    site.redis_url = find_running(tmp_path / "state") or ""
    assert site.redis_url, str(first)
