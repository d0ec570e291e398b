"""The time to stop of each manifest covers the time that a gateway takes to close its clients."""

import configparser

import pytest
import yaml

from certconf import load
from gateway.config import settings_of
from tests.paths import ROOT

SPARE = 1.0  # seconds beyond the gateway's own deadlines
UP = 10.0  # seconds that the Redis of `up` may take, after its gateways


def needed(file: str | None) -> float:
    """Seconds that a gateway with this configuration takes at most."""
    config = load(ROOT / file if file else None, {}, {"redis_password_file": None})
    settings = settings_of(config)
    return settings.stop_timeout + settings.close_timeout + SPARE


def test_compose_does() -> None:
    stack = yaml.safe_load((ROOT / "deploy/compose.yml").read_text())
    grace = stack["services"]["gateway"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > needed("deploy/certstream/config.yaml")


@pytest.mark.parametrize("file", ["deploy/certstream/config.yaml", None])
def test_systemd_does(file: str | None) -> None:
    units = configparser.ConfigParser(strict=False, interpolation=None)
    units.read(ROOT / "deploy/systemd/certstream-.service.d/common.conf")
    assert float(units["Service"]["TimeoutStopSec"]) > needed(file) + UP
