"""Write the software bill of materials: `make sbom`, or `python -m tools.sbom FILE`.

The document is CycloneDX 1.6 in JSON. It lists every package of requirements/runtime.lock, and of
requirements/redis.lock as optional, with the SHA-256 of each file that the lock permits and with
the packages that require it. It is a function of these files, of pyproject.toml and of
SOURCE_DATE_EPOCH: the same input makes the same bytes.
"""

import json
import os
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?: *; *([^\\\n]+?))? *\\?$")
_PARENT = re.compile(r"^ +# +(?:via +)?(\S+)")
_ROOT_PARENT = "certstream-server"


class Package(msgspec.Struct, frozen=True):
    """A pinned package.

    Attributes:
        marker: environment marker (PEP 508) under which it is installed, or None for always.
        hashes: SHA-256 in hexadecimal of each permitted file.
        parents: names of the packages that require it, as the lock states them.
    """

    name: str
    version: str
    marker: str | None
    hashes: list[str]
    parents: list[str]

    @property
    def purl(self) -> str:
        """The package URL (github.com/package-url/purl-spec, type pypi)."""
        return f"pkg:pypi/{self.name}@{self.version}"


def packages(lock: str) -> Iterator[Package]:
    """Return the packages of a lock file with hashes.

    Raises:
        ValueError: a line is neither a pin, a hash nor a comment.
    """
    package: Package | None = None
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            if package is not None:
                yield package
            package = Package(pin[1], pin[2], pin[3], [], [])
        elif package is not None and (found := re.search(r"--hash=sha256:([0-9a-f]{64})", line)):
            package.hashes.append(found[1])
        elif package is not None and (parent := _PARENT.match(line)):
            if parent[1] not in {"via", "-r"}:
                package.parents.append(parent[1])
        elif line.strip() and not line.lstrip().startswith("#"):
            raise ValueError(f"{line!r} is neither a pin, a hash nor a comment")
    if package is not None:
        yield package


def bill(root: Path, epoch: int) -> dict[str, object]:
    """Return the document.

    Args:
        root: the directory of pyproject.toml and requirements/.
        epoch: Unix time that the document states as its own, in seconds.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    scopes = {"required": "runtime.lock", "optional": "redis.lock"}
    listed = [
        (package, scope)
        for scope, lock in scopes.items()
        for package in packages((root / "requirements" / lock).read_text("utf-8"))
    ]
    purls = {package.name: package.purl for package, _ in listed}
    main = f"pkg:pypi/{project['name']}@{project['version']}"
    requires: dict[str, list[str]] = {ref: [] for ref in (main, *purls.values())}
    for package, _ in listed:
        for parent in package.parents or [_ROOT_PARENT]:
            requires[purls.get(parent, main)].append(package.purl)
    content: dict[str, object] = {
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": main,
                "name": project["name"],
                "version": project["version"],
                "purl": main,
                "licenses": [{"license": {"id": project["license"]}}],
            },
        },
        "components": [_component(package, scope) for package, scope in listed],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(set(required))} for ref, required in requires.items()
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    header = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return {**header, "serialNumber": f"urn:uuid:{serial}", **content}


def _component(package: Package, scope: str) -> dict[str, object]:
    component: dict[str, object] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "scope": scope,
        "purl": package.purl,
        "hashes": [{"alg": "SHA-256", "content": content} for content in package.hashes],
    }
    if package.marker is not None:
        component["properties"] = [{"name": "pep508:marker", "value": package.marker}]
    return component


def write(root: Path, file: Path, epoch: int) -> None:
    """Write the document for the source tree `root`."""
    file.write_text(json.dumps(bill(root, epoch), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write(ROOT, Path(sys.argv[1]), int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
