"""The commands of docs/integrity.md, run exactly as documented."""

import asyncio
import json
import re
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ctparse.entry import Entry
from ctparse.merkle import leaf_hash
from ctparse.static_ct import decode_tile
from tests.ingestor.site import Site
from tests.ingestor.verification.proofs import FROM_START
from tests.paths import ROOT
from tests.retained import history
from tests.waiting import until

PAGE = ROOT / "docs" / "integrity.md"
FIRST_LINE = "url=https://log.example/2026h1/ index=123456 key=MFkw…\n"
TREE, SIGNATURE, RFC6962, STATIC_CT = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)

# Prints what `redis-cli` prints into a pipe, for a host without it.
OWN_CLI = """\
import sys, redis
reply = redis.Redis(unix_socket_path=sys.argv[1]).execute_command(*sys.argv[2:])
for line in sorted(reply) if isinstance(reply, (list, set)) else [reply or b""]:
    sys.stdout.buffer.write(line + b"\\n")
"""


async def run(script: str, directory: Path) -> str:
    """Return the output of these commands in a shell."""
    path = f"{directory / 'bin'}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", script), cwd=directory, env={"PATH": path}, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return output.decode()


def provide_redis_cli(site: Site, directory: Path) -> None:
    """Create a redis-cli that connects to the Redis of this test."""
    command = directory / "bin" / "redis-cli"
    command.parent.mkdir()
    socket = site.server.url.removeprefix("unix://")
    own = command.with_suffix(".py")
    own.write_text(OWN_CLI)
    found = shutil.which("redis-cli")
    program = f"{found} -s" if found else f"{sys.executable} {own}"
    command.write_text(f'#!/bin/sh\nexec {program} {socket} "$@"\n')
    command.chmod(0o755)


async def messages(site: Site) -> list[Any]:
    """Return the published messages."""
    batches = await history(site.redis, site.keys, "lite", "0-0", 1000)
    return [json.loads(text)["data"] for batch in batches for text in batch.messages]


@pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl", "openssl"))), reason="needs bash, curl and openssl"
)
@pytest.mark.parametrize("kind", ["rfc6962", "static-ct"])
async def test_the_documented_commands(kind: str, site: Site, tmp_path: Path) -> None:
    count = {"rfc6962": int(kind == "rfc6962"), "static_ct": int(kind == "static-ct")}
    await site.simlog.start(**count, preload=700, rate=0)
    await site.ingestor("a", **FROM_START)
    await until(site.complete, "complete Redis")
    provide_redis_cli(site, tmp_path)
    config: dict[str, Any] = yaml.safe_load((await site.simlog.config()).read_text())
    (log,) = config["custom_logs"] + config["static_logs"]
    message = next(each for each in await messages(site) if each["cert_index"] > 300)
    url, index = message["source"]["url"], message["cert_index"]

    assert TREE.startswith(FIRST_LINE)
    tree = TREE.replace(FIRST_LINE, f"url={url} index={index} key={log['key']}\n")
    assert (await run(f"{tree}\n{SIGNATURE}", tmp_path)).strip() == "Verified OK"
    proof = RFC6962 if kind == "rfc6962" else STATIC_CT
    output = await run(f"{tree}\n{proof}", tmp_path)
    assert output.splitlines()[-1] == "in the tree"
    if kind == "static-ct":
        async with httpx.AsyncClient(trust_env=False) as http:
            tile = (await http.get(f"{url}tile/data/001")).content
        entry = decode_tile(tile, 256)[index - 256]
        assert isinstance(entry, Entry)
        fingerprint = message["leaf_cert"]["sha256"].replace(":", "").lower()
        assert sha256(entry.certificate).hexdigest() == fingerprint
        assert f"leaf {index} is {leaf_hash(entry.leaf).hex()}" in output

    changed = tree + "root=${root//[0-7]/8}\n"
    assert "Verified OK" not in await run(f"{changed}\n{SIGNATURE}", tmp_path)
    assert (await run(f"{changed}\n{proof}", tmp_path)).splitlines()[-1] == "NOT in the tree"
