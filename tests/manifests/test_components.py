"""Components that operators add to an overlay: routes, proxies, secrets, and IPv6."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.manifests.cluster import Object, build, build_with_components, named, of_kind, pods
from tests.manifests.tools import DEPLOY

OVERLAYS = ("single-redis", "external-redis")
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}
DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def record(required: str, **properties: object) -> dict[str, object]:
    """The schema of an object with these properties and no others."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def array(items: object) -> dict[str, object]:
    return {"type": "array", "items": items, "minItems": 1}


def resource(version: str, kind: str, spec: object) -> dict[str, object]:
    return record(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata={"type": "object", "required": ["name", "namespace"]},
        spec=spec,
    )


PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
#: The part of the published schemas (gateway.networking.k8s.io of Gateway API 1.2,
#: external-secrets.io of External Secrets 0.17) that the components use.
HTTP_ROUTE = resource(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    record(
        "parentRefs rules",
        parentRefs=array(record("name", name=NAME, namespace=NAME, sectionName=NAME, port=PORT)),
        hostnames=array(NAME),
        rules=array(
            record(
                "backendRefs",
                matches=array(
                    record(
                        "path",
                        path=record(
                            "type value",
                            type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
                            value={"type": "string", "pattern": "^/"},
                        ),
                    )
                ),
                timeouts=record("", request=DURATION, backendRequest=DURATION),
                backendRefs=array(record("name port", name=NAME, port=PORT)),
            )
        ),
    ),
)
EXTERNAL_SECRET = resource(
    "external-secrets.io/v1",
    "ExternalSecret",
    record(
        "secretStoreRef target data",
        refreshInterval=DURATION,
        secretStoreRef=record(
            "name", name=NAME, kind={"enum": ["SecretStore", "ClusterSecretStore"]}
        ),
        target=record(
            "name",
            name=NAME,
            creationPolicy={"enum": ["Owner", "Orphan", "Merge", "None"]},
            deletionPolicy={"enum": ["Delete", "Merge", "Retain"]},
        ),
        data=array(
            record(
                "secretKey remoteRef",
                secretKey={"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"},
                remoteRef=record("key", key={"type": "string"}, property={"type": "string"}),
            )
        ),
    ),
)


def validate(objects: list[Object]) -> None:
    """Check each object against the schema of its kind."""
    custom = {"HTTPRoute": HTTP_ROUTE, "ExternalSecret": EXTERNAL_SECRET}
    for each in objects:
        if each["kind"] in custom:
            jsonschema.validate(each, custom[each["kind"]])
        else:
            kubernetes_validate.validate(each, "1.32", strict=True)


@pytest.fixture(params=OVERLAYS, scope="module")
def objects(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Object]:
    directory = tmp_path_factory.mktemp("deploy")
    components = ["http-route", "egress-proxy", "external-secrets"]
    return build_with_components(str(request.param), directory, components)


@pytest.fixture(scope="module")
def plain() -> Mapping[str, list[Object]]:
    """Overlay -> its objects without components."""
    return {overlay: build(overlay) for overlay in (*OVERLAYS, "demo")}


def test_kubernetes_accepts_them(objects: list[Object]) -> None:
    validate(objects)


def test_an_http_route_replaces_the_ingress(objects: list[Object]) -> None:
    assert list(of_kind(objects, "Ingress")) == []
    (route,) = of_kind(objects, "HTTPRoute")
    service = named(objects, "Service", "gateway")
    assert route["metadata"]["namespace"] == service["metadata"]["namespace"]
    (rule,) = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"}
    ports = [port["port"] for port in service["spec"]["ports"]]
    assert [(each["name"], each["port"]) for each in rule["backendRefs"]] == [("gateway", *ports)]


def test_no_overlay_names_a_controller(plain: Mapping[str, list[Object]], tmp_path: Path) -> None:
    for objects in plain.values():
        assert "nginx" not in yaml.safe_dump_all(objects)
    objects = build_with_components("single-redis", tmp_path, ["ingress-nginx"])
    validate(objects)
    (ingress,) = of_kind(objects, "Ingress")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    peers = named(objects, "NetworkPolicy", "clients-to-gateway")["spec"]["ingress"][0]["from"]
    assert {"kubernetes.io/metadata.name": "ingress-nginx"} in [
        peer["namespaceSelector"]["matchLabels"] for peer in peers
    ]


def test_ingestors_reach_a_private_proxy_and_nothing_else_outside(objects: list[Object]) -> None:
    (container,) = named(objects, "Deployment", "ingestor")["spec"]["template"]["spec"][
        "containers"
    ]
    variables = {each["name"]: each["value"] for each in container["env"]}
    (rule,) = named(objects, "NetworkPolicy", "ingestor-to-logs")["spec"]["egress"]
    (peer,), (port,) = rule["to"], rule["ports"]
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        proxy = urlsplit(variables[name])
        assert proxy.hostname is not None
        address = ipaddress.ip_address(proxy.hostname)
        assert address.is_private
        assert ipaddress.ip_network(peer["ipBlock"]["cidr"]) == ipaddress.ip_network(address)
        assert (port["protocol"], port["port"]) == ("TCP", proxy.port)
    (gateway,) = named(objects, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"]
    assert "env" not in gateway


def test_an_external_secret_has_every_key_that_pods_read(objects: list[Object]) -> None:
    (external,) = of_kind(objects, "ExternalSecret")
    name = external["spec"]["target"]["name"]
    keys = {each["secretKey"] for each in external["spec"]["data"]}
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods(objects)
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
    }
    assert mounted == {name}
    text: Any = named(objects, "ConfigMap", "certstream-config")["data"]["config.yaml"]
    assert {Path(yaml.safe_load(text)["redis_password_file"]).name} == keys


def test_valkey_replaces_the_image_alone(plain: Mapping[str, list[Object]], tmp_path: Path) -> None:
    text = yaml.safe_dump_all(build_with_components("single-redis", tmp_path, ["valkey"]))
    assert "valkey/valkey:" in text
    redis = named(plain["single-redis"], "StatefulSet", "redis")["spec"]["template"]["spec"]
    image = redis["containers"][0]["image"]
    expected = yaml.safe_dump_all(plain["single-redis"]).replace(image, "valkey/valkey:8.1-alpine")
    assert text == expected
    for file in ("compose.yml", ".env.example"):
        assert "valkey/valkey:8.1-alpine" in (DEPLOY / file).read_text()


@pytest.mark.parametrize("overlay", [*OVERLAYS, "demo"])
def test_every_process_listens_on_ipv6_and_ipv4(
    overlay: str, plain: Mapping[str, list[Object]]
) -> None:
    """`[::]` and `::` do, as tests/certhttp/test_server.py and tests/gateway show."""
    objects = plain[overlay]
    arguments = [
        argument
        for pod in pods(objects)
        for argument in pod["spec"]["containers"][0].get("args", ())
        if argument.startswith(("--admin=", "--host="))
    ]
    expected = ["--admin=[::]:9100"] * 2 + ["--host=::"] * (overlay == "demo")
    assert sorted(arguments) == sorted(expected)
    text = named(objects, "ConfigMap", "certstream-config")["data"]["config.yaml"]
    assert yaml.safe_load(text)["host"] == "::"
    redis = (DEPLOY / "k8s" / "redis" / "redis.conf").read_text()
    assert "\nbind " not in redis, "its default is every address"
