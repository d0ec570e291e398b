"""Build a release into a directory: `make release`, or `python -m tools.release DIRECTORY`.

A release has the source distribution, the wheel, the software bill of materials, the container
image where a Docker daemon answers, and SHA256SUMS of these files. It is built from the commit
that is checked out; files that are not committed are no part of it. All files but the image are
the same bytes wherever they are built with the same zlib: times in them are SOURCE_DATE_EPOCH, by
default the time of the commit. So are those of the image, which is the same bytes from the same
base, builder and packages of Debian.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import image, sbom

ROOT = Path(__file__).parent.parent


def main(directory: Path) -> None:
    """Build everything.

    Raises:
        FileExistsError: the directory has files, which SHA256SUMS would not describe.
        subprocess.CalledProcessError: git, hatchling or Docker failed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        subprocess.run(["tar", "-x", "-C", source], input=_git("archive", "HEAD"), check=True)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", directory.absolute()],
            cwd=source,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
            check=True,
        )
        (wheel,) = directory.glob("*.whl")
        name, version = wheel.name.split("-")[:2]
        sbom.write(source, directory / f"{name}-{version}.cdx.json", epoch)
        if _has_docker():
            saved = _build_image(source, version, epoch)
            image.normalize(saved, directory / f"{name}-{version}-image.tar", epoch)
        else:
            print("no Docker daemon answers: the release has no image")
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(directory.iterdir())
    ]
    (directory / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")


def _git(*arguments: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def _has_docker() -> bool:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _build_image(source: Path, version: str, epoch: int) -> Path:
    """Build the image, and return the file in which Docker has saved it."""
    file, tag = source / "image.tar", f"certstream-server:{version}"
    revision = _git("rev-parse", "HEAD").decode().strip()
    values = {"VERSION": version, "REVISION": revision, "SOURCE_DATE_EPOCH": epoch}
    arguments = [f"--build-arg={name}={value}" for name, value in values.items()]
    dockerfile = source / "deploy" / "Dockerfile"
    subprocess.run(
        ["docker", "build", *arguments, "--tag", tag, "--file", dockerfile, source], check=True
    )
    subprocess.run(["docker", "save", "--output", file, tag], check=True)
    return file


if __name__ == "__main__":
    main(Path(sys.argv[1]))
