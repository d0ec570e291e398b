"""The command line: help, errors, the version."""

import fcntl
import json
import os
import subprocess
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from certconf import load
from certconf.settings import APPLE_LIST, GOOGLE_LIST, LogList
from certhttp.client import ClientResponse
from gateway.admission.credentials import find_owner, token_table
from launcher.cli import main
from launcher.commands.redis_target import find_redis, with_demo_lists
from launcher.commands.up.demo import Demo
from launcher.runtime.runtime_dir import DEMO_LISTS, DEMO_STATE, runtime_dir_path
from tests.e2e.processes import CERTSTREAM_SERVER

COMMANDS = (
    *("up", "ingest", "gateway", "simlog", "status", "tail", "rejected", "skip", "retire"),
    *("refresh-lists", "config", "token", "redis-acl", "version"),
)


def run(*arguments: str | bytes, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CERTSTREAM_SERVER, *arguments],
        cwd=cwd,
        env={name: text for name, text in os.environ.items() if not name.startswith("CERTSTREAM_")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_examples(command: str, tmp_path: Path) -> None:
    result = run(command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"examples:\n  certstream-server {command}" in result.stdout


def test_the_help_names_every_command(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    named = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("    ")}
    assert named >= set(COMMANDS)


def test_a_closed_output_is_no_error(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:  # noqa: PTH123  (a file descriptor)
        done = subprocess.run(
            [*CERTSTREAM_SERVER, "config"], cwd=tmp_path, stdout=gone, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["ingest", "gateway"])
def test_a_service_needs_a_redis(command: str, tmp_path: Path) -> None:
    result = run(command, cwd=tmp_path)
    assert result.returncode == 2
    assert "  command line: redis_url: is needed (or CERTSTREAM_REDIS_URL" in result.stderr


def test_a_token_and_its_setting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = set()
    for _ in range(2):
        assert main(["token", "--name", "alice"]) == 0
        first, second = capsys.readouterr().out.splitlines()
        token, holder = first.rpartition(": ")[2], second.partition(": ")[2]
        config = tmp_path / "config.yaml"
        config.write_text(f"auth:\n  holders:\n  - {holder}\n")
        owner = find_owner(token, token_table(load(config, {}).auth))
        assert owner is not None
        assert owner.name == "alice"
        assert len(urlsafe_b64decode(f"{token}=")) == 32
        made.add(token)
    assert len(made) == 2


def test_version(tmp_path: Path) -> None:
    expected = f"certstream-server {version('certstream-server')}\n"
    assert run("version", cwd=tmp_path).stdout == expected
    assert run("--version", cwd=tmp_path).stdout == expected


@pytest.mark.parametrize("command", ["up", "ingest", "gateway"])
def test_every_error_of_a_configuration_is_printed_before_anything_starts(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("prot: 80\nct_log: {batch_size: none}\n")
    result = run(command, "--set", "streams.full=maybe", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "certstream-server: the configuration cannot be used:",
        "  config.yaml:1: prot: no such setting: did you mean port?",
        "  config.yaml:2: ct_log.batch_size: 'none' is not a whole number of at least 1",
        "  command line: streams.full: 'maybe' is not true or false",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a command is missing; `certstream-server up` runs everything"),
        (("up", "--set", "port"), "argument --set: 'port' is not KEY=VALUE"),
        (("up", "--set", "port=[1"), "the value of port is not YAML: while parsing"),
        (("config", "--set", "contact=&a [*a]"), "the value of contact is too large"),
        (("config", "--set", "contact={a: 1, a: 2}"), "the value of contact is given twice"),
        (("config", "--state-dir", "~nosuchuser/x"), "'~nosuchuser/x' is not a path: "),
        (("config", "--port", b"80\xe9"), "is not a whole number from 1 to 65535"),
        (("config", "--redis-url", "redis://h/0?colour=red"), "'colour' is none of its options"),
        (("tail", "--redis", "redis://me:hun/ter2@h"), "a port is a number, and / and ["),
        (("up", "--gateways", "0"), "'0' is not a whole number of at least 1"),
        (("up", "--from-start", "--from-index", "7"), "not allowed with argument --from-start"),
        (("gateway", "--admin", "9100"), "'9100' is neither HOST:PORT nor unix:PATH"),
        (("tail", "localhost:8080"), "is not a ws://, wss://, http:// or https:// URL"),
        (("tail", "--redis", "http://x"), "not a redis://, rediss:// or unix:// URL"),
        (
            ("tail", "--since=10m", "--cursor=1"),
            "--cursor: not allowed with argument --since",
        ),
        (("tail", "--since", "soon"), "invalid --since 'soon': expected a duration"),
        (("tail", "--match", "("), "not a filter line: match: '(' at character 0"),
        (
            ("tail", "--format", "{seen} {serial.x}"),
            "unknown field {serial.x}: expected one of id, seen",
        ),
        (("tail", "--format", "cn"), "invalid format 'cn': expected names, json or fields"),
        (("tail", "--token-file", "none"), "none: No such file or directory"),
        (("tail", "--limit=0"), "argument --limit: '0' is not a whole number of at least 1"),
        (("simlog", "--duplicates", "2"), "duplicates: 2.0 is not in [0, 1)"),
    ],
)
def test_errors_of_the_command_line(
    arguments: tuple[str | bytes, ...], message: str, tmp_path: Path
) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_acl_has_the_user_and_the_password_of_the_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "password"
    file.write_text("sesame\n")
    url = "redis+sentinel://streams@sentinel/certs/0?sentinel_username=watch"
    settings = [f"--redis-url={url}", f"--set=redis_password_file={file}"]
    for server, user in (("primary", "streams"), ("replica", "streams"), ("sentinel", "watch")):
        assert main(["redis-acl", f"--server={server}", *settings]) == 0
        rule = capsys.readouterr().out.split()
        assert rule[:4] == ["user", user, "reset", "on"]
        assert ("#" + sha256(b"sesame").hexdigest() in rule) == (server != "sentinel")
    assert main(["redis-acl"]) == 0
    assert "note: without a password" in capsys.readouterr().err
    assert main(["redis-acl", "--set=redis_prefix=a b"]) == 1
    assert "blank" in capsys.readouterr().err


@contextmanager
def running_demo(directory: Path) -> Iterator[None]:
    """Make the files of a demo that runs."""
    (directory / DEMO_STATE).mkdir(parents=True)
    (directory / DEMO_LISTS).write_text(json.dumps([{"url": "http://127.0.0.1:1/log_list.json"}]))
    with (directory / DEMO_STATE / "redis.lock").open("w") as lock:
        lock.write("/x/redis.sock")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_only_a_private_directory_of_this_user_is_that_of_a_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = load(None, {}, {"state_dir": str(tmp_path / "none")})
    directory = runtime_dir_path(config.host, config.port)
    with running_demo(directory):
        assert find_redis(config) == "unix:///x/redis.sock"
        assert with_demo_lists(config) != config
        directory.chmod(0o770)
        assert find_redis(config) is None, "others can write to it"
        assert with_demo_lists(config) == config
        directory.chmod(0o700)
        directory.rename(tmp_path / "other")
        directory.symlink_to(tmp_path / "other")
        assert find_redis(config) is None, "a link"
        assert with_demo_lists(config) == config
    user = os.getuid() + 1
    monkeypatch.setattr("os.getuid", lambda: user)
    with running_demo(runtime_dir_path(config.host, config.port)):
        assert find_redis(config) is None, "of another user"
        assert with_demo_lists(config) == config


def test_the_logs_of_a_demo_are_known_besides_those_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    overrides: dict[str, Any] = {"state_dir": str(tmp_path / "none")}
    default = load(None, {}, overrides)
    custom = [{"url": "https://ct.example.com/mylog/", "name": "mine"}]
    configured = load(None, {}, {**overrides, "log_lists": [], "custom_logs": custom})
    directory = runtime_dir_path(default.host, default.port)
    demo = LogList("http://127.0.0.1:1/log_list.json")
    assert with_demo_lists(default) == default
    with running_demo(directory):
        assert with_demo_lists(default).log_lists == (GOOGLE_LIST, APPLE_LIST, demo)
        both = with_demo_lists(configured)
        assert both == replace(configured, log_lists=(demo,))
        assert [log.name for log in both.custom_logs] == ["mine"]
        (directory / DEMO_LISTS).unlink()
        assert with_demo_lists(configured) == configured, "it is starting"


async def test_the_lists_of_a_demo_have_their_name_when_they_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that starts at any moment reads all of them or none."""
    renamed: list[tuple[bool, object]] = []
    rename = Path.replace

    def observed(path: Path, target: Path) -> Path:
        renamed.append((target.exists(), json.loads(path.read_bytes())))
        return rename(path, target)

    async def key(*_: object) -> ClientResponse:
        return ClientResponse(200, b"key")

    monkeypatch.setattr(Path, "replace", observed)
    monkeypatch.setattr("launcher.commands.up.demo.fetch", key)
    demo = Demo(tmp_path)
    await demo.wait()
    assert renamed == [(False, demo.settings["log_lists"])]
    assert (tmp_path / DEMO_LISTS).exists()
