"""An image that Docker saved, without the times and names of its build."""

import datetime as dt
import hashlib
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import IO


def normalize(saved: Path, file: Path, epoch: int) -> None:
    """Write an image so that the same files and settings are the same bytes.

    Args:
        saved: written by `docker save`, of one image.
        file: is written; `docker load` reads it.
        epoch: time of the image, and of each newer file in it; seconds since 1970.
    """
    with tarfile.open(saved) as source, tarfile.open(file, "w") as target:
        (manifest,) = json.load(_open(source, "manifest.json"))
        config = json.load(_open(source, manifest["Config"]))
        digests = []
        for layer in manifest["Layers"]:
            with tempfile.TemporaryFile() as rewritten:
                _rewrite(_open(source, layer), rewritten, epoch)
                rewritten.seek(0)
                digests.append(hashlib.file_digest(rewritten, "sha256").hexdigest())
                if digests[-1] not in digests[:-1]:
                    _add(target, f"{digests[-1]}.tar", rewritten, epoch)
        # The builder's containers and the image of the step before.
        for name in ("container", "container_config"):
            config.pop(name, None)
        config["config"].pop("Image", None)
        created = dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for step in (config, *config["history"]):
            step["created"] = created
        config["rootfs"]["diff_ids"] = [f"sha256:{digest}" for digest in digests]
        text = json.dumps(config, sort_keys=True).encode()
        name = f"{hashlib.sha256(text).hexdigest()}.json"
        layers = [f"{digest}.tar" for digest in digests]
        stated = [{"Config": name, "RepoTags": manifest["RepoTags"], "Layers": layers}]
        _add(target, name, io.BytesIO(text), epoch)
        _add(target, "manifest.json", io.BytesIO(json.dumps(stated).encode()), epoch)


def _rewrite(layer: IO[bytes], rewritten: IO[bytes], epoch: int) -> None:
    """Copy a layer; files that are newer than `epoch` become as old."""
    with (
        tarfile.open(fileobj=layer) as source,
        tarfile.open(fileobj=rewritten, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for member in source:
            member.mtime = min(int(member.mtime), epoch)
            times = {"mtime", "atime", "ctime"}
            headers = member.pax_headers.items()
            member.pax_headers = {name: value for name, value in headers if name not in times}
            target.addfile(member, source.extractfile(member) if member.isreg() else None)


def _open(source: tarfile.TarFile, name: str) -> IO[bytes]:
    found = source.extractfile(name)
    assert found is not None, f"{name} is no file"
    return found


def _add(target: tarfile.TarFile, name: str, content: IO[bytes], epoch: int) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = epoch
    info.size = content.seek(0, os.SEEK_END)
    content.seek(0)
    target.addfile(info, content)
