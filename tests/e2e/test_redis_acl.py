"""All processes under the users of `redis-acl`, while the password of one changes."""

import asyncio
import shutil
import signal
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from certbus.connection import connect
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


async def change_password(redis_url: str, password: str) -> None:
    """Replace the password of the user, and end all its connections."""
    async with connect(redis_url.replace("certstream:of-streams@", "")) as admin:
        await admin.execute_command("ACL", "SETUSER", "certstream", "resetpass", f">{password}")  # type: ignore[no-untyped-call]
        await admin.execute_command("CLIENT", "KILL", "USER", "certstream")  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize("server", ["redis", "valkey"])
async def test_the_rules_suffice_and_a_password_changes(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: str
) -> None:
    """The fixture `site` asserts that Redis denied nothing."""
    if server == "valkey":
        site.redis_executable = shutil.which("valkey-server") or pytest.skip("no valkey-server")
    await site.start_redis()
    first = site.redis_url
    second = first.replace("of-streams", "of-tomorrow")
    file = tmp_path / "password"
    file.write_text("of-streams\n")
    primary = site.redis_url.rpartition("@")[2].removesuffix("/0").replace(":", " ")
    assert main(["redis-acl", "--server=replica", f"--set=redis_read_url={REPLICA}/0"]) == 0
    rule = capsys.readouterr().out.strip()
    follow = (f"replicaof {primary}", "repl-diskless-sync-delay 0")
    port = await site.start_redis_server("replica", rule, *follow)
    await site.start_logs(
        rfc6962=1, static_ct=1, duplicates=0.3, rate=500, total=CERTIFICATES, start=time.time() + 4
    )
    await site.configure(redis_password_file=str(file))
    site.redis_url = first.replace(":of-streams", "")  # the processes read the file
    await site.start_gateway()
    reading = await site.start_gateway(f"--set=redis_read_url={REPLICA}:{port}/0")
    async with connected(site.gateways, FORMS) as clients:
        site.start_ingestor()
        site.redis_url = first
        await until(lambda: all(client.messages for client in clients), "messages")
        file.write_text("of-tomorrow\n")
        await change_password(first, "of-tomorrow")
        site.redis_url = second
        reloading = [
            each for each in site.processes if each.name.startswith(("gateway", "ingestor"))
        ]
        for process in reloading:
            process.send(signal.SIGHUP)
        await until(site.everything_ingested, "everything is ingested")
        last = msgspec.json.decode((await site.streams())[0].messages[-1])["id"]
        await all_received(clients, last, 120)
    deliveries = [*await site.streams(), *(client.delivery for client in clients)]
    verdict = judge(await site.record(), deliveries, await site.tallies())
    assert verdict.flawless, f"\n{verdict}"
    for process in reloading:
        assert "configuration reloaded" in process.log.read_text(), str(process)
        assert "restart required" not in process.log.read_text(), str(process)
    redis = f"--redis-url={site.redis_url}"
    done = await asyncio.gather(
        command("status", redis),
        command("rejected", redis),
        command("tail", f"ws://{reading}", "--since=10m", "--limit=5"),  # a replay, by the replica
        command("tail", f"--redis={site.redis_url}", "--since=10m", "--limit=5"),
    )
    assert [code for code, _ in done] == [0, 0, 0, 0], done
