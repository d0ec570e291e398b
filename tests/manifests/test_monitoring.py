"""Alert rules and dashboard: PromQL that parses, metrics that exist, a way out of each alert."""

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import yaml

from certbus.cluster_health import CODES
from certbus.connection import connect
from launcher.runtime.embedded_redis import find_executable
from tests.certbus.servers import RedisServer
from tests.e2e.processes import Process, free_port
from tests.manifests.tools import DEPLOY, promtool, require, run
from tests.paths import ROOT
from tests.waiting import until

ALERTS = DEPLOY / "prometheus" / "alerts.yml"
TESTS = DEPLOY / "prometheus" / "alerts.test.yml"
RULE = DEPLOY / "prometheus" / "prometheusrule.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "certstream.json"
RUNBOOK = ROOT / "docs" / "runbook.md"


def alerts() -> dict[str, dict[str, Any]]:
    """The rules by name."""
    rules = [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]
    return {rule["alert"]: rule for rule in rules}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def dashboard_expressions() -> list[str]:
    """With a number for what Grafana puts in."""
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return [expression.replace("$__rate_interval", "5m") for expression in expressions]


def expressions() -> list[str]:
    """All queries to Prometheus."""
    return [*(rule["expr"] for rule in alerts().values()), *dashboard_expressions()]


def names(texts: Iterable[str], prefix: str = "") -> set[str]:
    """The metrics that PromQL is about."""
    pattern = r"\b(?:certstream_(?:gateway|ingestor)|process|redis)_\w+\b"
    found = {name for text in texts for name in re.findall(pattern, text)}
    return {name for name in found if name.startswith(prefix)}


def exposed(text: str) -> set[str]:
    """The series that an exposition promises, those without a value so far too."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {f"{name}{ending}" for ending in endings}
    return found


async def test_what_they_are_about_is_measured(tmp_path: Path) -> None:
    """By a running server, whose gateways answer for every process of the machine."""
    port = free_port()
    script = str(Path(sys.executable).with_name("certstream-server"))
    command = [script, "up", "--demo", "--host=127.0.0.1", f"--port={port}"]
    up = Process("up", command, tmp_path)
    found: set[str] = set()

    async def scraped() -> bool:
        assert up.running, up
        try:
            answer = await http.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.TransportError:
            return False
        found.update(exposed(answer.text))
        return "certstream_ingestor_redis_up" in found

    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            await until(scraped, "gateway and ingestor are measured", 40)
    finally:
        up.stop()
    assert names(expressions()) - names(expressions(), "redis_") <= found


async def test_what_they_are_about_redis_exporter_measures(tmp_path: Path) -> None:
    program = require("prometheus-redis-exporter", "redis_exporter")
    server = RedisServer(find_executable(), tmp_path)
    server.start()
    port = free_port()
    address = ("-redis.addr", server.url, "-web.listen-address", f"127.0.0.1:{port}")
    exporter = Process("exporter", [program, *address], tmp_path)
    found: set[str] = set()

    async def scraped() -> bool:
        assert exporter.running, exporter
        try:
            answer = await http.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.TransportError:
            return False
        found.update(exposed(answer.text))
        return "redis_memory_used_bytes" in found

    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            await until(scraped, "Redis is measured")
    finally:
        exporter.kill()
        server.kill()
    assert names(expressions(), "redis_") <= found


async def test_compose_measures_its_redis(tmp_path: Path) -> None:
    """With the password that its first service makes, and from Prometheus' configuration."""
    program = require("prometheus-redis-exporter", "redis_exporter")
    services = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    exporter = services["redis-exporter"]
    assert exporter["profiles"] == services["prometheus"]["profiles"] == ["monitoring"]
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [config["targets"] for job in jobs for config in job.get("static_configs", ())]
    assert ["redis-exporter:9121"] in targets

    port, redis_port = free_port(), free_port()
    grafana = tmp_path / "grafana"
    grafana.mkdir()
    here = {
        "/run/certstream": str(tmp_path),
        "/run/grafana": str(grafana),
        "redis://redis:6379": f"redis://127.0.0.1:{redis_port}",
    }

    def local(text: str) -> str:
        for theirs, ours in here.items():
            text = text.replace(theirs, ours)
        return text.replace("$$", "$")

    (script,) = services["password"]["command"]
    for _ in range(2):  # the second time it keeps the password
        run(["sh", "-euc", local(script)])
    password = (tmp_path / "redis_password").read_text().strip()
    server = RedisServer(find_executable(), tmp_path, port=redis_port)
    server.start()
    client = connect(server.url)
    await client.config_set("requirepass", password)
    options = [local(option) for option in exporter["command"]]
    process = Process(
        "exporter", [program, *options, f"--web.listen-address=127.0.0.1:{port}"], tmp_path
    )

    async def measured() -> bool:
        assert process.running, process
        try:
            answer = await http.get(f"http://127.0.0.1:{port}/metrics")
        except httpx.TransportError:
            return False
        return "redis_up 1" in answer.text and "redis_memory_used_bytes" in answer.text

    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            await until(measured, "Redis is measured", 40)
    finally:
        await client.aclose()
        process.kill()
        server.kill()


def test_the_alerts_do_what_their_tests_say() -> None:
    promtool("check", "rules", "--lint-fatal", ALERTS)
    promtool("test", "rules", TESTS)


def test_every_alert_is_tested_to_fire() -> None:
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    fired = {check["alertname"] for check in checks if check.get("exp_alerts")}
    silent = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    assert fired == silent == set(alerts())


def test_every_alert_says_what_to_do() -> None:
    headings = set(re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert headings == set(alerts())
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_fault_is_in_the_runbooks_table() -> None:
    rows = re.findall(r"^\| (`\w+`.*?) \| (\w+) \|", RUNBOOK.read_text(), re.MULTILINE)
    listed = {code: severity for codes, severity in rows for code in re.findall(r"`(\w+)`", codes)}
    assert listed == dict(CODES)


def test_the_operators_rules_are_the_same() -> None:
    made = yaml.safe_load(RULE.read_text())
    assert made["spec"] == yaml.safe_load(ALERTS.read_text()), "run: make rules"


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "certstream"
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert [(name, each["type"]) for name, each in variables.items()] == [
        ("datasource", "datasource"),
        ("namespace", "query"),
        ("job", "query"),
    ]
    for name in ("namespace", "job"):  # in Compose, there is no label `namespace`
        assert variables[name]["allValue"] == ".*"
        assert names([variables[name]["definition"]]) or "redis_up" in variables[name]["definition"]


def test_every_panel_is_of_the_chosen_namespace_and_job() -> None:
    """Except that Redis has a job of its own."""
    for expression in dashboard_expressions():
        for name in names([expression]):
            own = 'namespace=~"$namespace"' + ("" if name.startswith("redis_") else ',job=~"$job"')
            found = re.findall(rf"\b{name}\b(.*?)[}}\s]", expression)
            assert found, expression
            assert all(labels.startswith(f"{{{own}") for labels in found), expression


def test_prometheus_takes_the_dashboards_expressions(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)
