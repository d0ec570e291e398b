"""`make release` builds the same bytes from one commit, whatever the machine's time and umask."""

import datetime as dt
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pytest

from tests.paths import ROOT
from tools import image

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NAME = f"certstream_server-{VERSION}"
DOCKER = """\
#!/bin/sh
echo "$*" >> "$DOCKER_LOG"
[ "$1" = save ] && cp "$SAVED_IMAGE" "$3"
exit 0
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the committed files of this one, of one commit."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if files.returncode:
        pytest.skip("this is no git repository")
    directory = tmp_path / "checkout"
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    person = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "core.hooksPath=/dev/null")
    for command in (["init"], ["add", "--all"], [*person, "commit", "--message=all"]):
        environ = {**os.environ, "GIT_COMMITTER_DATE": "1800000000 +0000"}
        subprocess.run(
            ["git", *command], cwd=directory, env=environ, capture_output=True, check=True
        )
    return directory


def release(checkout: Path, directory: Path, **environ: str) -> Mapping[str, bytes]:
    """Build a release; return its files by name."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.release", directory],
        cwd=checkout,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def save_image(file: Path, built: str) -> Path:
    """Write what `docker save` writes of an image that was built at this time."""
    layer = f"{built}/layer.tar"
    files = io.BytesIO()
    at = int(dt.datetime.fromisoformat(built).timestamp())
    with tarfile.open(fileobj=files, mode="w") as archive:
        for name, mtime in (("old", 1_500_000_000), ("new", at)):
            info = tarfile.TarInfo(name)
            info.mtime, info.size = mtime, len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    config = {
        "architecture": "amd64",
        "config": {"User": "10001", "Image": f"sha256:{built}"},
        "container": built,
        "created": built,
        "history": [{"created": built, "created_by": "COPY"}],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{64 * 'a'}"]},
    }
    manifest = [{"Config": f"{built}.json", "RepoTags": ["one:1"], "Layers": [layer]}]
    contents = {layer: files.getvalue(), f"{built}.json": config, "manifest.json": manifest}
    with tarfile.open(file, "w") as archive:
        for name, content in contents.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def test_two_images_of_the_same_layers_are_the_same_bytes(tmp_path: Path) -> None:
    images = []
    for built in ("2028-01-01T00:00:00Z", "2028-01-02T00:00:00Z"):
        file = tmp_path / f"{built}.tar"
        image.normalize(save_image(tmp_path / "saved.tar", built), file, 1_800_000_000)
        images.append(file.read_bytes())
    assert images[0] == images[1]
    with tarfile.open(file) as archive:
        (manifest,) = json.load(extract(archive, "manifest.json"))
        assert manifest["RepoTags"] == ["one:1"]
        (layer,) = manifest["Layers"]
        content = extract(archive, layer).read()
        assert layer == f"{hashlib.sha256(content).hexdigest()}.tar"
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            times = {each.name: each.mtime for each in files}
            assert times == {"old": 1_500_000_000, "new": 1_800_000_000}
            assert extract(files, "new").read() == b"new"
        text = extract(archive, manifest["Config"]).read()
        assert manifest["Config"] == f"{hashlib.sha256(text).hexdigest()}.json"
        config = json.loads(text)
    assert config["config"] == {"User": "10001"}
    assert config["rootfs"]["diff_ids"] == [f"sha256:{layer.removesuffix('.tar')}"]
    assert config["created"] == config["history"][0]["created"] == "2027-01-15T08:00:00Z"


def extract(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    assert file is not None
    return file


def test_two_builds_are_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    path = f"{programs}:{os.environ['PATH']}"
    docker = programs / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    first = release(checkout, tmp_path / "first", PATH=path, TZ="Asia/Tokyo")

    # Not committed, so no part of a release; and another umask, time and folder.
    (checkout / "libs" / "ctparse" / "left_over.py").write_text("x = 1\n")
    (checkout / "secret.txt").write_text("secret")
    docker.write_text(DOCKER)
    moved = checkout.rename(tmp_path / "elsewhere")
    mask = os.umask(0o077)
    try:
        log = tmp_path / "docker.log"
        saved = str(save_image(tmp_path / "saved.tar", "2026-01-01T00:00:00Z"))
        variables = {"PATH": path, "DOCKER_LOG": str(log), "SAVED_IMAGE": saved}
        second = dict(release(moved, tmp_path / "second", **variables))
    finally:
        os.umask(mask)
    container = second.pop(f"{NAME}-image.tar")
    assert b"new" in container
    assert f"build --build-arg=VERSION={VERSION}" in log.read_text()
    assert "--build-arg=SOURCE_DATE_EPOCH=1800000000" in log.read_text()
    sums = second.pop("SHA256SUMS").decode()
    assert {name: content for name, content in first.items() if name != "SHA256SUMS"} == second
    assert set(second) == {
        f"{NAME}-py3-none-any.whl",
        f"{NAME}.tar.gz",
        f"{NAME}.cdx.json",
    }
    second[f"{NAME}-image.tar"] = container
    stated = {line[66:]: line[:64] for line in sums.splitlines()}
    assert stated == {name: hashlib.sha256(file).hexdigest() for name, file in second.items()}
    bill = json.loads(second[f"{NAME}.cdx.json"])
    assert bill["metadata"]["timestamp"] == "2027-01-15T08:00:00+00:00"

    with zipfile.ZipFile(tmp_path / "second" / f"{NAME}-py3-none-any.whl") as wheel:
        assert {entry.date_time[0] for entry in wheel.infolist()} == {2027}
        names = set(wheel.namelist())
        assert "launcher/__main__.py" in names
        assert "ctparse/left_over.py" not in names
    with tarfile.open(tmp_path / "second" / f"{NAME}.tar.gz") as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {"pyproject.toml", "requirements/runtime.lock", "deploy/Dockerfile"} <= names
        assert not {"secret.txt", "libs/ctparse/left_over.py"} & names


def test_a_directory_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.whl").touch()
    command = [sys.executable, "-m", "tools.release", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "is not empty" in done.stderr
