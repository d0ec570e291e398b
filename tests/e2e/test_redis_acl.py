"""All processes under the users of `redis-acl`, and nothing else allowed to them."""

import asyncio
import subprocess
import time

import msgspec
import pytest

from launcher.cli import main
from simlog.oracle.oracle import judge
from tests.e2e.clients import all_received, connected
from tests.e2e.processes import CERTSTREAM_SERVER
from tests.e2e.site import FORMS, Site
from tests.waiting import until

CERTIFICATES = 1000
REPLICA = "redis://reader:of-replica@127.0.0.1"


async def command(*arguments: str) -> tuple[int | None, str]:
    """Run a command; return its exit status and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *CERTSTREAM_SERVER, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.slow
async def test_the_rules_suffice(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The fixture `site` asserts that Redis denied nothing."""
    await site.start_redis()
    primary = site.redis_url.rpartition("@")[2].removesuffix("/0").replace(":", " ")
    assert main(["redis-acl", "--server=replica", f"--set=redis_read_url={REPLICA}/0"]) == 0
    rule = capsys.readouterr().out.strip()
    follow = (f"replicaof {primary}", "repl-diskless-sync-delay 0")
    port = await site.start_redis_server("replica", rule, *follow)
    await site.start_logs(
        rfc6962=1, static_ct=1, duplicates=0.3, rate=500, total=CERTIFICATES, start=time.time() + 4
    )
    await site.configure()
    await site.start_gateway()
    reading = await site.start_gateway(f"--set=redis_read_url={REPLICA}:{port}/0")
    async with connected(site.gateways, FORMS) as clients:
        site.start_ingestor()
        await until(site.everything_ingested, "everything is ingested", 60)
        last = msgspec.json.decode((await site.streams())[0].messages[-1])["id"]
        await all_received(clients, last, 30)
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    redis = f"--redis-url={site.redis_url}"
    done = await asyncio.gather(
        command("status", redis),
        command("rejected", redis),
        command("tail", f"ws://{reading}", "--since=10m", "--limit=5"),  # a replay, by the replica
        command("tail", f"--redis={site.redis_url}", "--since=10m", "--limit=5"),
    )
    assert [code for code, _ in done] == [0, 0, 0, 0], done
