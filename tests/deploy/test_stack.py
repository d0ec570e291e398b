"""The stack of deploy/compose.yml: scaled, restarted piece by piece, and nothing is lost."""

import asyncio
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from simlog.oracle import ground_truth
from simlog.oracle.check_message import MessageForm
from simlog.oracle.oracle import judge
from tests.deploy.clients import Client, following, visiting
from tests.deploy.docker import Stack, docker, inspect
from tests.paths import ROOT
from tests.waiting import until

pytestmark = pytest.mark.deploy

GATEWAYS = 4
KINDS: Sequence[tuple[str, MessageForm, int]] = (
    ("ws", "lite", 100),
    ("ws", "domains", 40),
    ("http", "lite", 40),
    ("http", "domains", 20),
)
CLIENTS = 200
MAX_AWAY_SECS = 20.0
"""Far below the time-outs of a client whose gateway is gone. Not a measure of speed, as other work
may keep the machine busy."""
QUIET_SECS = 3.0
MUCH = 4000  # letters of a verdict about 200 clients
OURS = ("ingestor", "gateway", "simlog")
MOUNTED = {"/run/certstream", "/etc/certstream"}


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.get(url)


async def query(stack: Stack, expression: str) -> list[float]:
    """The values that Prometheus has for an expression."""
    url = f"{stack.prometheus_url}/api/v1/query"
    answer = await get(str(httpx.URL(url, params={"query": expression})))
    return [float(sample["value"][1]) for sample in answer.json()["data"]["result"]]


async def ready(stack: Stack, gateway: str) -> bool:
    try:
        return (await get(f"http://{stack.ip(gateway)}:9100/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def test_nothing_is_lost_while_everything_is_restarted(stack: Stack) -> None:
    stack.up("--scale", f"gateway={GATEWAYS}", "--no-recreate")
    gateways = stack.containers("gateway")
    assert len(gateways) == GATEWAYS
    async with following(stack.address, KINDS) as clients:
        assert len(clients) == CLIENTS
        await until(lambda: all(each.certificates for each in clients), "all receive", 60)
        for gateway in gateways:
            await asyncio.to_thread(docker, "restart", "--time=30", gateway)
            await until(partial(ready, stack, gateway), "it is back", 30)
        assert reconnections(clients)["1012"] >= 140, "clients receive code 1012"
        await until(quiet(clients), "clients have noticed the last restart", 60)
        before = reconnections(clients)
        await asyncio.to_thread(stack.compose, "restart", "redis")
        entries = await complete(stack)
        owed = len({entry.sha256 for entry in entries})
        with suppress(AssertionError):  # the oracle reports better what a client lacks
            await until(lambda: all(each.certificates >= owed for each in clients), seconds=60)
        assert reconnections(clients) == before, "Redis away is no reason to leave"
    verdict = judge(entries, [each.delivery for each in clients])
    assert verdict.flawless, f"\n{verdict}"[:MUCH]
    assert {each.received for each in verdict.findings} == {owed}


def quiet(clients: list[Client]) -> Callable[[], bool]:
    """Return a condition that holds once no connection has ended for `QUIET_SECS`."""
    last, since = reconnections(clients), time.monotonic()

    def condition() -> bool:
        nonlocal last, since
        if (now := reconnections(clients)) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= QUIET_SECS

    return condition


def reconnections(clients: list[Client]) -> Counter[str]:
    return sum((client.ended for client in clients), Counter())


async def complete(stack: Stack) -> list[ground_truth.TruthEntry]:
    """The record of the simulated logs, once they are complete."""

    async def whole() -> bool:
        return bool((await get(f"{stack.logs_url}/world.json")).json()["complete"])

    await until(whole, "the logs are complete", 120)
    return ground_truth.read_jsonl((await get(f"{stack.logs_url}/record")).content)


async def test_prometheus_finds_every_process(stack: Stack) -> None:
    processes = {
        "certstream-gateway": len(stack.containers("gateway")),
        "certstream-ingestor": 2,
        "balancer": 1,
        "redis": 1,
    }
    for job, number in processes.items():

        async def all_up(job: str = job, number: int = number) -> bool:
            return await query(stack, f'up{{job="{job}"}}') == [1.0] * number

        await until(all_up, f"Prometheus scrapes {job}", 60)

    async def redis_answers() -> bool:
        return await query(stack, "redis_up") == [1.0]

    await until(redis_answers, "redis_exporter knows the password of Redis", 60)


async def test_a_client_is_who_the_balancer_says_not_who_it_says_itself(stack: Stack) -> None:
    claimed = {"X-Forwarded-For": "192.0.2.7"}
    async with connect(
        f"ws://{stack.address}/?cursor=0", proxy=None, additional_headers=claimed
    ) as one:
        await one.recv()
        addresses: list[str] = []

        async def counted() -> bool:
            addresses[:] = stack.redis("HKEYS", "certstream:limit:connections")
            return "10.213.7.1" in addresses

        await until(counted, "its connection is counted", 20)
    assert set(addresses) == {"10.213.7.1", "*"}


async def test_metrics_are_not_for_clients(stack: Stack) -> None:
    assert (await get(f"http://{stack.address}/metrics")).status_code == 404


def test_nobody_may_more_than_it_needs(stack: Stack) -> None:
    for container in stack.containers():
        facts = inspect(container)
        assert facts["Config"]["User"] not in ("", "0", "root"), facts["Name"]
        assert facts["HostConfig"]["ReadonlyRootfs"], facts["Name"]
        assert facts["HostConfig"]["CapDrop"] == ["ALL"], facts["Name"]
        assert "no-new-privileges:true" in facts["HostConfig"]["SecurityOpt"], facts["Name"]


@pytest.mark.parametrize("service", OURS)
def test_our_processes_have_no_capabilities_and_write_nothing(stack: Stack, service: str) -> None:
    for container in stack.containers(service):
        status = docker("exec", container, "cat", "/proc/1/status")
        facts = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
        assert facts["Uid"].split() == ["10001"] * 4
        assert {int(facts[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}
        changed = {line.split()[1] for line in docker("diff", container).splitlines()}
        assert changed <= MOUNTED | {str(Path(mount).parent) for mount in MOUNTED}


def test_redis_is_out_of_reach_and_has_a_password(stack: Stack) -> None:
    (redis,) = stack.containers("redis")
    assert not inspect(redis)["HostConfig"]["PortBindings"]
    refused = stack.compose("exec", "-T", "redis", "redis-cli", "ping")
    assert "NOAUTH" in refused
    assert stack.redis("CONFIG", "GET", "maxmemory-policy")[1] == "noeviction"
    assert stack.redis("CONFIG", "GET", "appendonly")[1] == "yes"


def test_no_secret_is_in_what_docker_knows(stack: Stack) -> None:
    password = stack.compose("exec", "-T", "redis", "cat", "/run/certstream/redis_password")
    assert len(password) == 64
    for container in stack.containers():
        facts = inspect(container)
        assert password not in str(facts)
        assert not [each for each in facts["Config"]["Env"] if "PASSWORD" in each], facts["Name"]


def test_nothing_is_kept_in_a_volume_without_a_name(stack: Stack) -> None:
    for container in stack.containers():
        for mount in inspect(container)["Mounts"]:
            assert mount["Type"] != "volume" or mount["Name"].startswith("certstream-test_"), mount


def test_gateways_have_no_way_out(stack: Stack) -> None:
    (gateway, *_) = stack.containers("gateway")
    networks = inspect(gateway)["NetworkSettings"]["Networks"]
    assert networks.keys() == {"certstream-test_bus", "certstream-test_edge"}
    (bus, edge) = json.loads(docker("network", "inspect", *sorted(networks)))
    assert bus["Internal"]
    assert edge["Options"]["com.docker.network.bridge.enable_ip_masquerade"] == "false"


async def test_a_replica_follows(stack: Stack) -> None:
    stack.compose("--profile", "replica", "up", "--detach", "--no-build", "redis-replica")

    def follows() -> bool:
        return "master_link_status:up" in stack.redis("INFO", service="redis-replica")

    await until(follows, "the replica follows", 30)
    streams = stack.redis("XLEN", "certstream:stream:lite")
    assert stack.redis("XLEN", "certstream:stream:lite", service="redis-replica") == streams


async def test_an_update_replaces_every_gateway_and_no_client_is_refused(stack: Stack) -> None:
    stack.up()
    before = set(stack.containers("gateway"))
    (balancer,) = stack.containers("balancer")
    started = inspect(balancer)["State"]["StartedAt"]
    script = [str(ROOT / "deploy/rolling-update.sh"), "--no-build"]
    changed = {"LOG_LEVEL": "debug"}
    urls = (f"ws://{stack.address}/domains-only", f"http://{stack.address}/sse?stream=domains")
    async with visiting(30 * urls) as visitors:
        await until(lambda: all(each.connections for each in visitors), "all are connected", 30)
        result = await asyncio.to_thread(
            subprocess.run,
            script,
            capture_output=True,
            text=True,
            env={**os.environ, **stack.environment, **changed},
        )
        assert result.returncode == 0, result.stderr[-MUCH:]
        await until(lambda: all(each.connections > 1 for each in visitors), "all came back", 30)
    failures = [failure for each in visitors for failure in each.failures]
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)[:MUCH]
    assert max(each.away for each in visitors) < MAX_AWAY_SECS
    after = set(stack.containers("gateway"))
    assert len(after) == len(before)
    assert not after & before
    for gateway in after:
        assert "CERTSTREAM_LOG_LEVEL=debug" in inspect(gateway)["Config"]["Env"]
    assert stack.containers("balancer") == [balancer]
    assert inspect(balancer)["State"]["StartedAt"] == started
    assert (await get(f"http://{stack.address}/health")).status_code == 200
