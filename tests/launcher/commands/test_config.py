"""`certstream-server config`: the settings, their origins, and nothing secret."""

import argparse
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from certconf import ConfigError, load
from certconf.build import iter_settings
from launcher import options
from launcher.commands.config import as_yaml
from tests.e2e.processes import CERTSTREAM_SERVER

FILE = """\
port: 9090
buffer_size: 5
rate_limit: {free_max_tokens: 7}
auth:
  enabled: true
  holders:
  - {name: alice, token: s3cret}
custom_logs:
- name: One
  url: https://one.example
"""
VARIABLES = {"CERTSTREAM_REDIS_URL": "redis://:s3cret@redis/0", "CERTSTREAM_PORT": "9191"}


def config(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("CERTSTREAM_")}
    return subprocess.run(
        [*CERTSTREAM_SERVER, "config", *arguments],
        cwd=directory,
        env={**clean, **VARIABLES},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(FILE)
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("host=nowhere.invalid", "host: cannot listen on nowhere.invalid port 9191: "),
        ("host=192.0.2.1", "host: cannot listen on 192.0.2.1 port 9191: Cannot assign"),
        ("host=a b", "host: 'a b' is neither an address nor the name of a host"),
        ("admin=192.0.2.1:9100", "admin: cannot listen on 192.0.2.1 port 9100: Cannot assign"),
        ("admin='[2001:db8::1]:9100'", "admin: cannot listen on 2001:db8::1 port 9100: "),
        ("admin=a b:9100", "admin: 'a b:9100' is neither host:port nor unix:<path>"),
    ],
)
def test_an_address_to_listen_at_is_tried(directory: Path, setting: str, problem: str) -> None:
    result = config(directory, "--check", f"--set={setting}")
    assert result.returncode == 2
    assert f"command line: {problem}" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_runs_there_already_is_no_mistake(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listening = ("--set=host=127.0.0.1", f"--port={port}", f"--set=admin=127.0.0.1:{port}")
        result = config(directory, "--check", *listening)
    assert result.returncode == 0, result.stderr


def test_each_value_and_where_it_was_said(directory: Path) -> None:
    result = config(directory, "--json", "--set", "streams.full=false", "--host=::1")
    assert result.returncode == 0, result.stderr
    assert "s3cret" not in result.stdout
    shown: dict[str, Any] = json.loads(result.stdout)
    assert shown["file"] == "config.yaml"
    assert set(shown["settings"]) == set(iter_settings())
    expected = {
        "port": (9191, "CERTSTREAM_PORT"),
        "streams.full": (False, "command line"),
        "streams.lite": (True, "default"),
        "rate_limit.max_tokens": (7, "config.yaml:3"),
        "auth.enabled": (True, "config.yaml:5"),
        "auth.holders": (
            [{"name": "alice", "token": "***", "tier": "free", "streams": []}],
            "config.yaml:6",
        ),
        "custom_logs": ([{"name": "One", "url": "https://one.example"}], "config.yaml:8"),
        "redis_url": ("redis://:***@redis/0", "CERTSTREAM_REDIS_URL"),
        "tls_cert": (None, "default"),
    }
    found = {key: tuple(shown["settings"][key].values()) for key in expected}
    assert found == expected
    assert ["buffer_size has no effect here" in notice for notice in shown["notices"]] == [True]


def test_the_yaml_is_a_configuration_that_says_the_same(directory: Path) -> None:
    shown = config(directory)
    assert shown.returncode == 0, shown.stderr
    assert "s3cret" not in shown.stdout
    lines = shown.stdout.splitlines()
    assert [line.split("#")[1].strip() for line in lines if line.startswith("port:")] == [
        "CERTSTREAM_PORT"
    ]
    assert [line.split("#")[1].strip() for line in lines if '"One"' in line] == ["config.yaml:9"]
    default = load(None, {})
    (directory / "again.yaml").write_text("\n".join(as_yaml(default, {})))
    again = load(directory / "again.yaml", {})
    assert {key: getattr(again, key) for key in again.__struct_fields__ if key != "file"} == {
        key: getattr(default, key) for key in default.__struct_fields__ if key != "file"
    }


def test_a_check_says_that_it_is_fine_and_what_has_no_effect(directory: Path) -> None:
    result = config(directory, "--check")
    assert result.returncode == 0
    note, verdict = result.stdout.splitlines()
    assert note.startswith("note: config.yaml:2: buffer_size has no effect here: ")
    assert verdict == "OK: config.yaml"


def test_a_check_tells_mistakes_as_the_server_does(directory: Path) -> None:
    (directory / "config.yaml").write_text("prot: 80\nct_log: {batch_size: none}\n")
    result = config(directory, "--check")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "certstream-server: the configuration cannot be used:",
        "  config.yaml:1: prot: no such setting: did you mean port?",
        "  config.yaml:2: ct_log.batch_size: 'none' is not a whole number of at least 1",
    ]


def test_a_file_that_has_gone_is_no_reason_to_let_everyone_in(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    chosen = argparse.Namespace(config=None, assignments=[("redis_prefix", "a:")])
    before, _ = options.configuration(chosen)
    read = options.reader(chosen, before)
    assert read() == before
    (directory / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: No such file"):
        read()


def test_tokens_that_nobody_has_are_told(directory: Path) -> None:
    (directory / "config.yaml").write_text("auth: {enabled: true}\n")
    assert "note: auth.enabled: without a token" in config(directory, "--check").stdout
