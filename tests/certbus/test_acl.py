"""The rules of an ACL: exactly what the code calls, and rules that Redis accepts."""

import re
from typing import get_args

import pytest
import redis.exceptions
from redis.asyncio import Redis

from certbus.acl import COMMANDS, Server, acl_rule
from certbus.connection import connect
from certbus.errors import ConnectionFailed, WriteRefused
from tests.certbus.servers import RedisServer
from tests.paths import ROOT

CERTBUS = ROOT / "libs" / "certbus"
SENT_BY_REDIS_PY = {"select", "client|setname", "evalsha", "script|load", "multi", "exec"}


def test_a_primary_allows_each_command_of_a_script() -> None:
    called = {
        command.lower()
        for path in CERTBUS.rglob("*.lua")
        for command in re.findall(r"call\('(\w+)'", path.read_text())
    }
    assert len(called) > 30
    assert called <= {*COMMANDS["primary"]}


@pytest.mark.parametrize("server", get_args(Server))
def test_no_command_is_allowed_that_the_code_does_not_name(server: Server) -> None:
    paths = [*CERTBUS.rglob("*.py"), *CERTBUS.rglob("*.lua")]
    paths.append(ROOT / "services/ingestor/monitoring/health.py")  # PING
    code = "\n".join(path.read_text() for path in paths if path.name != "acl.py").lower()
    for command in {*COMMANDS[server]} - SENT_BY_REDIS_PY:
        *_, name = command.split("|")
        assert re.search(rf"""\.{name}\(|["']{name}["']""", code), command
    assert {*COMMANDS["replica"]} < {*COMMANDS["primary"]}


@pytest.mark.parametrize("prefix", ["certstream:", "", "a[1]*\\^"])
async def test_a_user_reaches_its_keys_alone(
    server: RedisServer, client: Redis, prefix: str
) -> None:
    word, *rule = acl_rule("primary", "streams", prefix, "sesame").split()
    assert word == "user"
    await client.execute_command("ACL", "SETUSER", *rule)  # type: ignore[no-untyped-call]
    url = server.url.replace("unix://", "unix://streams:sesame@")
    async with connect(url, name="certstream") as user:
        await user.hset(f"{prefix}head", "a", "b")
        for other in ("other", "a1x") if prefix else ():
            with pytest.raises(WriteRefused, match="NOPERM"):
                await user.hset(other, "a", "b")
        for command in ("CONFIG", "KEYS", "FLUSHALL", "ACL", "EVAL", "PUBLISH"):
            with pytest.raises(redis.exceptions.ResponseError, match=r"NOPERM|unknown|wrong"):
                await user.execute_command(command, "GET", "*")  # type: ignore[no-untyped-call]
    async with connect(server.url.replace("unix://", "unix://streams:other@")) as stranger:
        with pytest.raises(ConnectionFailed, match="invalid username-password"):
            await stranger.ping()


@pytest.mark.parametrize("text", ["a b", "a\nuser b on nopass +@all"])
def test_a_rule_is_one_line_of_words(text: str) -> None:
    for names in (("certstream", text), (text, "certstream:")):
        with pytest.raises(ValueError, match="ACL"):
            acl_rule("primary", *names)
