"""An image that Docker saved, without the times and names of its build."""

import datetime as dt
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import IO


def normalize(saved: Path, file: Path, epoch: int) -> None:
    """Write an image so that the same layers and settings are the same bytes.

    Args:
        saved: written by `docker save`, of one image.
        file: is written; `docker load` reads it.
        epoch: time of everything in it, seconds since 1970.
    """
    with tarfile.open(saved) as source, tarfile.open(file, "w") as target:
        (manifest,) = json.load(_open(source, "manifest.json"))
        config = json.load(_open(source, manifest["Config"]))
        # The builder's containers and the image of the step before.
        for name in ("container", "container_config"):
            config.pop(name, None)
        config["config"].pop("Image", None)
        created = dt.datetime.fromtimestamp(epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config["created"] = created
        for step in config["history"]:
            step["created"] = created
        text = json.dumps(config, sort_keys=True).encode()
        name = f"{hashlib.sha256(text).hexdigest()}.json"
        names = [f"{digest.partition(':')[2]}.tar" for digest in config["rootfs"]["diff_ids"]]
        stated = [{"Config": name, "RepoTags": manifest["RepoTags"], "Layers": names}]
        _add(target, "manifest.json", io.BytesIO(json.dumps(stated).encode()), epoch)
        _add(target, name, io.BytesIO(text), epoch)
        layers = dict(zip(names, manifest["Layers"], strict=True))  # one may be there twice
        for name, layer in layers.items():
            _add(target, name, _open(source, layer), epoch)


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
