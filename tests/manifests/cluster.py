"""What an overlay makes, and how its objects refer to each other."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.tools import DEPLOY, kustomize

Object = dict[str, Any]
Labels = Mapping[str, str]

OVERLAYS = ("single-redis", "external-redis", "demo")
COMPONENTS = {
    "single-redis": ("monitoring", "redis-exporter", "ingress-nginx"),
    "external-redis": ("monitoring", "ingress-nginx"),
    "demo": ("monitoring", "redis-exporter", "ingress-nginx"),
}
"""Overlay -> components that fit together and need no custom resources but those of Prometheus."""


def build(overlay: str) -> list[Object]:
    """The objects of an overlay as it is."""
    return list(yaml.safe_load_all(kustomize(DEPLOY / "k8s" / "overlays" / overlay)))


def build_with_components(
    overlay: str, directory: Path, components: Sequence[str] | None = None
) -> list[Object]:
    """The objects of an overlay with components (default: COMPONENTS), added as operators do."""
    if components is None:
        components = COMPONENTS[overlay]
    copy = directory / "deploy"
    shutil.copytree(DEPLOY, copy)
    place = copy / "k8s" / "overlays" / overlay
    file = place / "kustomization.yaml"
    content = yaml.safe_load(file.read_text())
    assert "components" not in content
    content["components"] = [f"../../components/{name}" for name in components]
    file.write_text(yaml.safe_dump(content))
    return list(yaml.safe_load_all(kustomize(place)))


def of_kind(objects: list[Object], kind: str) -> Iterator[Object]:
    return (each for each in objects if each["kind"] == kind)


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pods(objects: list[Object]) -> list[Object]:
    """The pod templates."""
    makers = ("Deployment", "StatefulSet")
    return [each["spec"]["template"] for each in objects if each["kind"] in makers]


def found(objects: list[Object], selector: Object) -> list[Object]:
    """The pod templates that a selector selects; there is one at least."""
    reached = [pod for pod in pods(objects) if selects(selector, pod["metadata"]["labels"])]
    assert reached, f"{selector} selects no pod"
    return reached


def selects(selector: Object, labels: Labels) -> bool:
    """Whether a label selector has these labels in it."""
    for requirement in selector.get("matchExpressions", ()):
        assert requirement["operator"] == "In"
        if labels.get(requirement["key"]) not in requirement["values"]:
            return False
    wanted: Labels = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def ports(pod: Object) -> set[str]:
    """Names of the ports of a pod."""
    containers = pod["spec"]["containers"]
    return {port["name"] for container in containers for port in container.get("ports", ())}
