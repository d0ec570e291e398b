"""The manifests: what Kubernetes takes, what refers to what, and what our own processes take."""

import asyncio
from pathlib import Path

import kubernetes_validate
import pytest
import redis.exceptions
import yaml
from redis.asyncio import Redis

from certbus.connection import check_server, connect
from certconf import load
from gateway.config import Settings
from launcher import cli
from simlog.api.log_list import LogList
from simlog.spec import Spec, spread
from simlog.world import World
from tests.manifests.cluster import (
    OVERLAYS,
    Object,
    build,
    build_with_components,
    found,
    named,
    of_kind,
    pods,
    ports,
)
from tests.manifests.tools import require
from tests.waiting import until

VERSIONS = ("1.32", "1.36")
CUSTOM = {"PodMonitor", "PrometheusRule"}
OURS = "certstream-server"


@pytest.fixture(params=OVERLAYS, scope="module")
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def objects(overlay: str, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return build_with_components(overlay, tmp_path_factory.mktemp(overlay))


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_them(objects: list[Object], version: str) -> None:
    kinds = {each["kind"] for each in objects}
    assert kinds > {"Deployment", "Service", "Ingress", "HorizontalPodAutoscaler", "NetworkPolicy"}
    for each in objects:
        if each["kind"] not in CUSTOM:
            assert kubernetes_validate.validate(each, version, strict=True) == version


def test_an_overlay_needs_no_custom_resources(overlay: str) -> None:
    assert {each["kind"] for each in build(overlay)} & CUSTOM == set()


def test_everything_is_in_one_namespace_which_only_takes_restricted_pods(
    objects: list[Object],
) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each["metadata"].get("namespace") for each in objects if each is not namespace]
    assert set(others) == {namespace["metadata"]["name"]}


def test_pods_have_no_rights_that_they_do_not_need(objects: list[Object]) -> None:
    for pod in pods(objects):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_selectors_find_pods_and_named_ports_exist(objects: list[Object]) -> None:
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        for each in of_kind(objects, kind):
            assert len(found(objects, each["spec"]["selector"])) == 1, each["metadata"]["name"]
    for service in of_kind(objects, "Service"):
        (pod,) = found(objects, {"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports(pod)
    for monitor in of_kind(objects, "PodMonitor"):
        scraped = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
        for pod in found(objects, monitor["spec"]["selector"]):
            assert scraped <= ports(pod)


def test_network_policies_are_about_pods_and_ports_that_there_are(objects: list[Object]) -> None:
    for policy in of_kind(objects, "NetworkPolicy"):
        subjects = found(objects, policy["spec"]["podSelector"])
        for rule in policy["spec"].get("ingress", ()):
            for pod in subjects:
                assert {port["port"] for port in rule["ports"]} <= ports(pod)
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            for peer in rule.get("from", rule.get("to")):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    found(objects, peer["podSelector"])


def test_probes_are_at_ports_that_exist(objects: list[Object]) -> None:
    for pod in pods(objects):
        for container in pod["spec"]["containers"]:
            for name, probe in container.items():
                if name.endswith("Probe") and "exec" not in probe:
                    (how,) = probe.keys() & {"httpGet", "tcpSocket"}
                    assert probe[how]["port"] in ports(pod)


def test_our_processes_take_their_arguments_and_their_configuration(
    overlay: str, objects: list[Object], tmp_path: Path
) -> None:
    password = tmp_path / "redis-password"
    password.write_text("correct horse")
    file = tmp_path / "config.yaml"
    text = named(objects, "ConfigMap", "certstream-config")["data"]["config.yaml"]
    file.write_text(text.replace("/run/secrets/certstream/redis-password", str(password)))
    environ = {}
    for each in of_kind(objects, "ConfigMap"):
        if each["metadata"]["name"].startswith("certstream-redis-urls"):
            environ = each["data"]
    config = load(str(file), environ, {})
    assert config.redis_url is not None
    assert ":correct%20horse@" in config.redis_url.reveal()
    assert (config.redis_read_url is not None) == (overlay == "external-redis")
    commands = []
    for pod in pods(objects):
        container = pod["spec"]["containers"][0]
        if OURS in container["image"]:
            arguments = container["args"]
            cli._parser(arguments[:1]).parse_args(arguments)  # SystemExit if it is refused
            commands.append(arguments[0])
    assert {"ingest", "gateway"} <= set(commands)


def test_the_demo_trusts_its_own_log_list() -> None:
    text = named(build("demo"), "ConfigMap", "certstream-config")["data"]["config.yaml"]
    (trusted,) = yaml.safe_load(text)["log_lists"]
    pem = LogList(World(Spec(logs=spread(1, 1, 1), start=0.0)), "http://simlog:8090").public_key
    assert trusted["key"] == "".join(pem.decode().splitlines()[1:-1])


def test_a_gateway_has_time_to_send_its_clients_elsewhere(objects: list[Object]) -> None:
    spec = named(objects, "Deployment", "gateway")["spec"]["template"]["spec"]
    before = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    text = named(objects, "ConfigMap", "certstream-config")["data"]["config.yaml"]
    drain = yaml.safe_load(text)["drain_secs"]
    assert before + drain + Settings().close_timeout + 1 < spec["terminationGracePeriodSeconds"]


def test_scaling_by_clients_comes_with_the_metrics(overlay: str, objects: list[Object]) -> None:
    def metrics(objects: list[Object]) -> list[str]:
        (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
        return [
            each["pods"]["metric"]["name"] if each["type"] == "Pods" else each["resource"]["name"]
            for each in scaler["spec"]["metrics"]
        ]

    assert metrics(build(overlay)) == ["cpu"]
    assert metrics(objects) == ["cpu", "certstream_gateway_clients"]


async def test_a_redis_takes_its_configuration(tmp_path: Path) -> None:
    """Started as its container starts it, with our paths for those of the container."""
    require("redis-server")
    objects = build("single-redis")
    (config,) = (each for each in of_kind(objects, "ConfigMap") if "redis.conf" in each["data"])
    (tmp_path / "redis-password").write_text("correct horse\n".replace(" ", "-"))
    (tmp_path / "redis.conf").write_text(
        config["data"]["redis.conf"].replace("dir /data", f"dir {tmp_path}")
        + f"port 0\nunixsocket {tmp_path}/s\n"
    )
    pod = named(objects, "StatefulSet", "redis")["spec"]["template"]
    shell, option, script = pod["spec"]["containers"][0]["command"]
    script = script.replace("/etc/redis", f"{tmp_path}")
    script = script.replace("/run/secrets/certstream", f"{tmp_path}")
    process = await asyncio.create_subprocess_exec(
        shell, option, script, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with connect(f"unix://{tmp_path}/s", password="correct-horse") as client:
            await until(lambda: _answers(client), "redis answers")
            await check_server(client)
            assert await client.config_get("appendonly") == {"appendonly": "yes"}
            async with connect(f"unix://{tmp_path}/s") as stranger:
                with pytest.raises(redis.exceptions.AuthenticationError):
                    await stranger.ping()
        process.terminate()  # as Kubernetes ends a container: what it started must hear of it
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except redis.exceptions.ConnectionError:
        return False
