"""The JSON Schema of config.yaml accepts what `load` accepts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from certconf import ConfigError, load
from certconf.build import iter_settings
from certconf.schema import json_schema
from launcher.commands.config import as_yaml
from tests.paths import FIXTURES, ROOT

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
FILES = (
    FIXTURES / "peer_config.yaml",
    FIXTURES / "peer_config_1.7.2.yaml",
    *sorted((ROOT / "deploy").rglob("config.yaml")),
)


def documents(path: Path) -> list[Any]:
    """A file's settings; or those in the ConfigMaps of a manifest."""
    content = yaml.safe_load(path.read_text()) or {}
    if "kind" not in content:
        return [content]
    return [yaml.safe_load(text) for name, text in content["data"].items() if "yaml" in name]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_load_are_valid(path: Path) -> None:
    for document in documents(path):
        assert [error.message for error in VALIDATOR.iter_errors(document)] == []


def test_every_setting_is_in_it_with_its_default() -> None:
    document = yaml.safe_load("\n".join(as_yaml(load(None, {}), {})))
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []
    for key in iter_settings():
        properties = SCHEMA["properties"]
        *sections, name = key.split(".")
        for section in sections:
            properties = properties[section]["properties"]
        assert "default" in properties[name], key


@pytest.mark.parametrize(
    "text",
    [
        "port: 0",
        "prot: 80",
        "ct_log: {batch_sise: 5}",
        "auth: {holders: [{token: t}]}",
        "auth: {holders: [{name: a, token: t, tier: gold}]}",
        "ct_log: {integrity: maybe}",
        "log_lists: [{url: 5}]",
        "retention: {full: {max_bytes: none}}",
    ],
)
def test_what_does_not_load_is_invalid(text: str, tmp_path: Path) -> None:
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file, {})
