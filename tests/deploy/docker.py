"""The `docker` command, and the stack of deploy/compose.yml."""

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.paths import ROOT

IMAGE = os.environ.get("CERTSTREAM_IMAGE", "certstream-server:test")
_TIMEOUT_SECS = 180  # seconds for one command


def docker(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run one command; returns what it prints.

    Raises:
        AssertionError: it fails; contains its output.
    """
    result = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECS,
        env={**os.environ, **(environment or {})},
    )
    assert result.returncode == 0, f"docker {' '.join(arguments)}:\n{result.stderr[-4000:]}"
    return result.stdout.strip()


def inspect(container: str) -> dict[str, Any]:
    """What Docker knows of a container."""
    return dict(json.loads(docker("inspect", container))[0])


class Stack:
    """The demo stack under a project name and on ports of its own.

    Attributes:
        environment: variables that make `docker compose` mean it.
        address: of the balancer, as clients know it.
        logs_url: of the simulated logs.
        prometheus_url: that of the Prometheus API.
    """

    address = "127.0.0.1:18480"
    logs_url = "http://127.0.0.1:18490"
    prometheus_url = "http://127.0.0.1:18491"

    def __init__(self) -> None:
        self.environment = {
            "COMPOSE_PROJECT_NAME": "certstream-test",
            "COMPOSE_FILE": f"{ROOT}/deploy/compose.yml:{ROOT}/tests/deploy/compose.yml",
            "COMPOSE_ENV_FILES": f"{ROOT}/deploy/demo.env",
            "PUBLISH": self.address,
            "SIMLOG_PORT": self.logs_url.rpartition(":")[2],
            "PROMETHEUS_PORT": self.prometheus_url.rpartition(":")[2],
            "CERTSTREAM_IMAGE": IMAGE,
        }

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` with these arguments."""
        return docker("compose", *arguments, environment=self.environment)

    def up(self, *arguments: str) -> None:
        """Start what does not run yet; returns once clients can connect."""
        self.compose("up", "--detach", "--no-build", *arguments)

    def containers(self, service: str = "") -> Sequence[str]:
        """Ids of the containers of one service, or of all."""
        return self.compose("ps", "--quiet", *([service] if service else [])).split()

    def ip(self, container: str) -> str:
        """Where one container is reached from this machine."""
        networks = inspect(container)["NetworkSettings"]["Networks"]
        return str(networks["certstream-test_bus"]["IPAddress"])

    def redis(self, *command: str, service: str = "redis") -> Sequence[str]:
        """Lines that redis-cli prints."""
        script = 'REDISCLI_AUTH=$(cat /run/certstream/redis_password) exec redis-cli "$@"'
        return self.compose("exec", "-T", service, "sh", "-c", script, "-", *command).splitlines()

    def logs(self) -> str:
        """The end of the log of every service."""
        return self.compose("logs", "--no-color", "--tail=60")

    def down(self) -> None:
        """Stop everything, and remove it with its data."""
        self.compose("--profile=*", "down", "--volumes", "--timeout=10")
